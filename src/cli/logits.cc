// optiq logits: the logits of every position of a text, for comparison with other programs.
#include <algorithm>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/format.h"
#include "cli/interrupt.h"
#include "cli/kv_options.h"
#include "cli/model_loader.h"
#include "cli/terminal.h"
#include "io/safetensors_writer.h"

namespace optiq {
namespace {

constexpr size_t kChunk = 256;  // tokens per forward pass; their logits are in memory at once

struct LogitsOptions {
  std::string model, prompt, ids_file, out;
  KvOptions kv;
  bool has_prompt = false, chat = false, exact = false, fast = false;
};

StatusOr<std::vector<int32_t>> ReadIds(const std::string& path, int64_t vocab_size) {
  ASSIGN_OR_RETURN(const Json json, ReadJsonFile(path));
  if (!json.is_array()) return InvalidArgument("{}: must be a JSON array of token ids", path);
  std::vector<int32_t> ids;
  for (const Json& item : json) {
    if (!item.is_number_unsigned() || item.get<uint64_t>() >= static_cast<uint64_t>(vocab_size)) {
      return InvalidArgument("{}: item {} is not a token id below the vocabulary size {}", path, ids.size(),
                             vocab_size);
    }
    ids.push_back(static_cast<int32_t>(item.get<uint64_t>()));
  }
  return ids;
}

StatusOr<std::vector<int32_t>> EncodePrompt(const LogitsOptions& options, const Checkpoint& checkpoint) {
  ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Load(checkpoint));
  if (!options.chat) return tokenizer->Encode(options.prompt, EncodeMode::kWithSpecial);
  ASSIGN_OR_RETURN(const auto chat_template, ChatTemplate::Load(checkpoint));
  if (!chat_template) return FailedPrecondition("{}: the model has no chat template; leave out --chat", options.model);
  const OrderedJson messages = OrderedJson::array({{{"role", "user"}, {"content", options.prompt}}});
  return EncodeChat(*chat_template, *tokenizer, messages);
}

// The mapped weights must not be replaced by the result.
Status CheckOutput(const std::string& out, const Checkpoint& checkpoint) {
  for (const std::string& file : checkpoint.files()) {
    std::error_code error;
    if (std::filesystem::equivalent(out, file, error))
      return InvalidArgument("--out {}: this is a file of the model", out);
  }
  return OkStatus();
}

Status RunLogits(const LogitsOptions& options, const CommandContext& context) {
  if (!IsUtf8(options.prompt)) return InvalidArgument("--prompt: the text is not UTF-8");
  ASSIGN_OR_RETURN(const LoadedModel model, LoadWeightsOnly(options.model, context));
  if (options.fast) model.decoder->set_products(Products::kFast);
  const DecoderSpec& spec = model.decoder->spec();
  RETURN_IF_ERROR(CheckOutput(options.out, *model.checkpoint));
  std::vector<int32_t> ids;
  if (options.has_prompt) {
    ASSIGN_OR_RETURN(ids, EncodePrompt(options, *model.checkpoint));
  } else {
    ASSIGN_OR_RETURN(ids, ReadIds(options.ids_file, spec.vocab_size));
  }
  if (ids.empty()) return InvalidArgument("there are no tokens");
  const int64_t tokens = static_cast<int64_t>(ids.size());
  if (spec.max_position_embeddings > 0 && tokens > spec.max_position_embeddings) {
    return InvalidArgument("{} tokens, more than the model's context of {}", tokens, spec.max_position_embeddings);
  }

  const std::vector<TensorSpec> tensors = {{"logits", DType::kF32, {tokens, spec.vocab_size}},
                                           {"ids", DType::kI32, {tokens}}};
  ASSIGN_OR_RETURN(const auto writer, SafetensorsWriter::Create(options.out, tensors, {{"format", "mlx"}}));
  RETURN_IF_ERROR(writer->Append("ids", std::as_bytes(std::span(ids))));
  const InterruptScope interrupt;
  const auto progress = context.MakeProgress();
  progress->Begin("logits", tokens, "tokens");
  ASSIGN_OR_RETURN(const KvPlan plan, options.kv.ToPlan(*model.checkpoint, spec, options.fast ? 16 : 32));
  ASSIGN_OR_RETURN(const std::unique_ptr<KvCache> cache, model.decoder->MakeCache(plan));
  if (options.kv.any() || context.verbose) {
    for (const std::string& line : KvPlanText(plan, cache->geometry(), tokens)) context.Note("{}", line);
  }
  std::vector<float> logits;
  for (size_t done = 0; done < ids.size(); done += kChunk) {
    if (InterruptScope::flag()) return Cancelled("interrupted");
    const auto chunk = std::span<const int32_t>(ids).subspan(done, std::min(kChunk, ids.size() - done));
    RETURN_IF_ERROR(model.decoder->Forward(chunk, cache.get(), /*all_logits=*/true, &logits));
    RETURN_IF_ERROR(writer->Append("logits", std::as_bytes(std::span(logits))));
    progress->Update(done + chunk.size(), "");
  }
  progress->End();
  RETURN_IF_ERROR(writer->Finish());
  if (context.json) {
    return WriteJson(
        {{"model", options.model}, {"out", options.out}, {"tokens", tokens}, {"vocab_size", spec.vocab_size}});
  }
  context.Note("{}: f32 logits [{}, {}], {}", options.out, tokens, spec.vocab_size,
               FormatBytes(4.0 * tokens * spec.vocab_size));
  return OkStatus();
}

}  // namespace

void RegisterLogits(CLI::App& app, CommandContext* context) {
  CLI::App* sub =
      AddCommand(app, "logits",
                 "Writes the logits of every position of a text: \"logits\" F32 [tokens, vocabulary] and \"ids\" I32\n"
                 "[tokens] in a safetensors file.",
                 "optiq logits MODEL --prompt \"The sea\" --out sea.safetensors\n"
                 "optiq logits MODEL --ids ids.json --out logits.safetensors");
  auto o = std::make_shared<LogitsOptions>();
  sub->add_option("MODEL", o->model, "A model directory (Hugging Face or MLX) or a .gguf file")->required();
  CLI::Option* prompt =
      sub->add_option("--prompt", o->prompt, "The text, encoded with its BOS token if it has one")->type_name("TEXT");
  CLI::Option* ids =
      sub->add_option("--ids", o->ids_file, "A JSON array of token ids")->type_name("FILE")->excludes(prompt);
  sub->add_flag("--chat", o->chat, "Put the prompt through the chat template, as a user's message")->excludes(ids);
  CLI::Option* exact = sub->add_flag("--exact", o->exact, "f32 arithmetic on the dequantized weights (the default)");
  sub->add_flag("--fast", o->fast, "The arithmetic of generate and chat")->excludes(exact);
  o->kv.AddTo(sub, "default 32, with --fast 16");
  sub->add_option("--out", o->out, "The file to write; replaced if it is there")->type_name("FILE")->required();
  sub->callback([=] {
    o->has_prompt = prompt->count() > 0;
    if (!o->has_prompt && ids->count() == 0) throw CLI::RequiredError("--prompt or --ids");
    context->run = [=] { return RunLogits(*o, *context); };
  });
}

}  // namespace optiq
