// optiq generate: one answer.
#include "engine/generate.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/limits.h"
#include "cli/command.h"
#include "cli/format.h"
#include "cli/interrupt.h"
#include "cli/kv_options.h"
#include "cli/model_loader.h"
#include "cli/product_options.h"
#include "cli/sampling_options.h"
#include "cli/template_options.h"
#include "cli/terminal.h"
#include "engine/generate.h"
#include "kv/kv_file.h"
#include "server/output_parser.h"

namespace optiq {
namespace {

struct GenerateOptions {
  std::string model, prompt, prompt_file, system;
  bool has_prompt = false, has_prompt_file = false, has_system = false, raw = false, ignore_eos = false, no_draft = false;
  int64_t max_tokens = 256;
  std::vector<std::string> stop;
  TemplateOptions chat;
  SamplingOptions sampling;
  KvOptions kv;
  ProductOptions products;
  std::string prompt_cache;
};

// The generator's cache: the saved one of --prompt-cache when that file is there, which decides the formats then, else an empty one by
// the KV options, to be saved when the prompt has been read.
Status PrepareCache(const GenerateOptions& options, const LoadedModel& model, const CommandContext& context, Generator* generator,
                    GenerationHooks* hooks) {
  const DecoderSpec& spec = model.decoder->spec();
  const KvGeometry geometry = KvGeometryOf(spec);
  std::string identity;
  if (!options.prompt_cache.empty()) {
    ASSIGN_OR_RETURN(identity, ModelIdentity(*model.checkpoint));
    if (FileExists(options.prompt_cache)) {
      if (options.kv.any()) {
        return InvalidArgument("--prompt-cache {}: the file is there and decides the cache's formats; leave the --kv options out",
                               options.prompt_cache);
      }
      ASSIGN_OR_RETURN(SavedKvCache saved, LoadKvCache(options.prompt_cache, geometry, spec.vocab_size, identity));
      context.Note("{}: the keys and values of {} tokens", options.prompt_cache, saved.ids.size());
      generator->UseCache(std::move(saved.cache), std::move(saved.ids));
      return OkStatus();
    }
  }
  ASSIGN_OR_RETURN(const KvPlan plan, options.kv.ToPlan(*model.checkpoint, spec, options.products.exact ? 32 : 16));
  ASSIGN_OR_RETURN(std::unique_ptr<KvCache> cache, model.decoder->MakeCache(plan));
  generator->UseCache(std::move(cache));
  if (!options.prompt_cache.empty()) {
    hooks->on_prefilled = [path = options.prompt_cache, identity, &context](const KvCache& full, std::span<const int32_t> ids) -> Status {
      RETURN_IF_ERROR(SaveKvCache(path, full, ids, identity));
      context.Note("{}: saved the keys and values of {} tokens", path, ids.size());
      return OkStatus();
    };
  }
  return OkStatus();
}

StatusOr<std::string> ReadStdin() {
  std::string text;
  char buffer[65536];
  for (;;) {
    const ssize_t n = ::read(STDIN_FILENO, buffer, sizeof(buffer));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return InvalidArgument("standard input: cannot read: {}", std::strerror(errno));
    if (n == 0) return text;
    text.append(buffer, n);
    if (text.size() > limits::kConfigBytes) {
      return ResourceExhausted("standard input: more than the limit of {} bytes", limits::kConfigBytes);
    }
  }
}

StatusOr<std::string> PromptText(const GenerateOptions& options) {
  if (options.has_prompt) return options.prompt;
  if (options.has_prompt_file) return ReadTextFile(options.prompt_file, limits::kConfigBytes);
  if (IsTerminal(STDIN_FILENO)) return InvalidArgument("no prompt; use --prompt, --prompt-file or standard input");
  return ReadStdin();
}

StatusOr<std::vector<int32_t>> PromptIds(const GenerateOptions& options, const LoadedModel& model,
                                         const std::string& text) {
  if (options.raw || !model.chat_template) {
    if (options.has_system || options.chat.any()) {
      return InvalidArgument("{}: --system, --thinking, --tools and --chat-template-args need a chat template", options.model);
    }
    return model.tokenizer->Encode(text, EncodeMode::kWithSpecial);
  }
  OrderedJson messages = OrderedJson::array();
  if (options.has_system) messages.push_back({{"role", "system"}, {"content", options.system}});
  messages.push_back({{"role", "user"}, {"content", text}});
  ASSIGN_OR_RETURN(const RenderOptions render, options.chat.ToRender(*model.chat_template));
  return EncodeChat(*model.chat_template, *model.tokenizer, messages, render);
}

// What a chat's answer says apart from its thoughts, and the tools it calls: the model's own markup, read.
Status AddParsedAnswer(const GenerateOptions& options, const LoadedModel& model, const GenerationRequest& request,
                       const GenerationResult& result, Json* json) {
  if (options.raw || !model.chat_template) return OkStatus();
  OutputParserOptions parse;
  parse.format = DetectChatFormat(model.chat_template->source(), model.tokenizer.get());
  ASSIGN_OR_RETURN(const RenderOptions render, options.chat.ToRender(*model.chat_template));
  parse.tools = render.tools;
  parse.start_in_reasoning = EndsInThought(parse.format, *model.tokenizer, request.prompt);
  ASSIGN_OR_RETURN(const std::string text, model.tokenizer->Decode(result.tokens, !parse.format.keep_special));
  OutputParser parser(parse);
  OutputEvents events;
  parser.Push(text, &events);
  parser.Finish(&events);
  std::string content, reasoning;
  Json calls = Json::array();
  for (const OutputEvent& e : events) {
    if (e.kind == OutputEvent::kReasoning) reasoning += e.text;
    if (e.kind == OutputEvent::kContent) content += e.text;
    if (e.kind == OutputEvent::kToolCall) calls.push_back({{"name", e.name}, {"arguments", e.text}});
  }
  (*json)["content"] = result.stop.empty() ? content : result.text;
  (*json)["reasoning"] = reasoning;
  (*json)["tool_calls"] = std::move(calls);
  return OkStatus();
}

Json ResultJson(const GenerateOptions& options, const GenerationRequest& request, const GenerationResult& result) {
  Json json = {{"model", options.model},
               {"text", result.text},
               {"tokens", result.tokens},
               {"finish_reason", FinishReasonName(result.finish)},
               {"stop", nullptr},
               {"eos_token_id", nullptr},
               {"seed", nullptr},
               {"prompt_tokens", result.prompt_tokens},
               {"generated_tokens", result.tokens.size()},
               {"prefill_seconds", result.prefill_seconds},
               {"prefill_tokens_per_second", result.PrefillRate()},
               {"first_token_seconds", result.first_token_seconds},
               {"decode_seconds", result.decode_seconds},
               {"decode_tokens_per_second", result.DecodeRate()},
               {"decode_passes", result.decode_passes},
               {"drafted_tokens", result.drafted_tokens},
               {"accepted_draft_tokens", result.accepted_tokens}};
  if (!result.stop.empty()) json["stop"] = result.stop;
  if (result.eos_token >= 0) json["eos_token_id"] = result.eos_token;
  if (request.sampling.temperature > 0) json["seed"] = request.sampling.seed;
  return json;
}

Status RunGenerate(const GenerateOptions& options, const CommandContext& context) {
  ASSIGN_OR_RETURN(const std::string text, PromptText(options));
  if (!IsUtf8(text)) return InvalidArgument("the prompt is not UTF-8");
  if (!IsUtf8(options.system)) return InvalidArgument("--system: the text is not UTF-8");
  ASSIGN_OR_RETURN(const LoadedModel model, LoadModel(options.model, context));
  options.products.Apply(model, context);
  GenerationRequest request;
  ASSIGN_OR_RETURN(request.prompt, PromptIds(options, model, text));
  ASSIGN_OR_RETURN(request.sampling,
                   options.sampling.ToParams(model.generation, model.decoder->spec().vocab_size, options.model));
  request.max_tokens = options.max_tokens;
  request.stop = options.stop;
  request.ignore_eos = options.ignore_eos;
  request.draft = !options.no_draft;

  const InterruptScope interrupt;
  const std::unique_ptr<ProgressSink> progress = context.MakeProgress();
  GenerationHooks hooks;
  hooks.cancel = &InterruptScope::flag();
  hooks.progress = progress.get();
  const bool terminal = IsTerminal(STDOUT_FILENO);
  if (!context.json) {
    hooks.on_text = [terminal](std::string_view piece) {
      return WriteStdout(terminal ? Printable(piece, "\t\n") : std::string(piece));
    };
  }
  Generator generator(model.decoder.get(), model.tokenizer.get(), model.end_ids);
  RETURN_IF_ERROR(PrepareCache(options, model, context, &generator, &hooks));
  const int64_t model_context = model.decoder->spec().max_position_embeddings;
  if (options.kv.any() || context.verbose) {
    for (const std::string& line :
         KvPlanText(generator.cache().plan(), generator.cache().geometry(),
                    model_context > 0 ? model_context : static_cast<int64_t>(request.prompt.size()) + request.max_tokens)) {
      context.Note("{}", line);
    }
  }
  ASSIGN_OR_RETURN(const GenerationResult result, generator.Run(request, hooks));
  const int64_t tokens = std::max<int64_t>(model.decoder->spec().max_position_embeddings, generator.cache().length());
  if (context.json) {
    Json json = ResultJson(options, request, result);
    RETURN_IF_ERROR(AddParsedAnswer(options, model, request, result, &json));
    json["cached_tokens"] = result.cached_tokens;
    json["kv_cache"] = KvPlanJson(generator.cache().plan(), generator.cache().geometry(), tokens);
    json["kv_cache"]["allocated_bytes"] = generator.cache().bytes();
    RETURN_IF_ERROR(WriteJson(json));
  } else {
    RETURN_IF_ERROR(WriteStdout("\n"));
  }
  context.Note("prompt {} tokens, {:.1f} tok/s, first token after {}; generated {} tokens, {:.1f} tok/s; finish: {}{}",
               result.prompt_tokens, result.PrefillRate(), FormatDuration(result.first_token_seconds),
               result.tokens.size(), result.DecodeRate(), FinishReasonName(result.finish),
               request.sampling.temperature > 0 ? fmt::format("; seed {}", request.sampling.seed) : "");
  if (result.finish == FinishReason::kCancelled) return Cancelled("interrupted");
  return OkStatus();
}

}  // namespace

void RegisterGenerate(CLI::App& app, CommandContext* context) {
  CLI::App* sub =
      AddCommand(app, "generate", "Generates text after a prompt.",
                 "optiq generate MODEL --prompt \"Why is the sky blue?\"\n"
                 "optiq generate MODEL --raw --prompt \"Once upon a time\" --temp 0.8 --top-p 0.95 --seed 1\n"
                 "git diff | optiq generate MODEL --system \"Write a commit message.\" --json");
  auto o = std::make_shared<GenerateOptions>();
  sub->add_option("MODEL", o->model, "A model directory (Hugging Face or MLX) or a .gguf file")->required();
  CLI::Option* prompt =
      sub->add_option("--prompt", o->prompt, "The prompt (default: standard input)")->type_name("TEXT");
  CLI::Option* file =
      sub->add_option("--prompt-file", o->prompt_file, "A file with the prompt")->type_name("FILE")->excludes(prompt);
  CLI::Option* system = sub->add_option("--system", o->system, "A system message before the prompt")->type_name("TEXT");
  o->chat.AddTo(sub);
  sub->add_flag("--raw", o->raw, "No chat template; special tokens in the prompt count")
      ->excludes(system)
      ->excludes("--thinking", "--tools", "--chat-template-args");
  sub->add_option("--max-tokens", o->max_tokens, "Most tokens to generate (default 256)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
      ->type_name("N");
  sub->add_option("--stop", o->stop, "Text that ends the answer; may be repeated")
      ->allow_extra_args(false)
      ->type_name("TEXT");
  sub->add_flag("--ignore-eos", o->ignore_eos, "Do not end at an end-of-text token");
  sub->add_flag("--no-draft", o->no_draft, "One token per pass: no drafts from earlier repetitions (the text is the same)");
  o->products.AddTo(sub);
  o->kv.AddTo(sub, "default 16, with --exact 32");
  sub->add_option("--prompt-cache", o->prompt_cache, "Keys and values of the prompt: read when the file is there, else written to it")
      ->type_name("FILE");
  o->sampling.AddTo(sub);
  sub->callback([=] {
    o->has_prompt = prompt->count() > 0;
    o->has_prompt_file = file->count() > 0;
    o->has_system = system->count() > 0;
    context->run = [=] { return RunGenerate(*o, *context); };
  });
}

}  // namespace optiq
