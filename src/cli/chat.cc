// optiq chat: a conversation, line by line.
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <string>

#include "cli/command.h"
#include "cli/interrupt.h"
#include "cli/kv_options.h"
#include "cli/line_reader.h"
#include "cli/model_loader.h"
#include "cli/product_options.h"
#include "cli/sampling_options.h"
#include "cli/template_options.h"
#include "cli/terminal.h"
#include "engine/generate.h"

namespace optiq {
namespace {

struct ChatOptions {
  std::string model, system;
  bool has_system = false;
  int64_t max_tokens = 1024;
  TemplateOptions chat;
  SamplingOptions sampling;
  KvOptions kv;
  ProductOptions products;
};

constexpr char kCommands[] =
    "/exit  /reset (forget the conversation)  /system TEXT (set the system message and reset)  /help; Ctrl-C stops an "
    "answer; "
    "start with // to send a line that begins with /";

class Chat {
 public:
  Chat(const ChatOptions& options, const CommandContext& context, const LoadedModel& model, SamplingParams sampling,
       RenderOptions render)
      : context_(context),
        model_(model),
        generator_(model.decoder.get(), model.tokenizer.get(), model.end_ids),
        render_(std::move(render)),
        system_(options.system),
        has_system_(options.has_system) {
    request_.max_tokens = options.max_tokens;
    request_.sampling = std::move(sampling);
    Reset();
  }

  Status UseKvPlan(const KvPlan& plan) {
    ASSIGN_OR_RETURN(std::unique_ptr<KvCache> cache, model_.decoder->MakeCache(plan));
    generator_.UseCache(std::move(cache));
    return OkStatus();
  }

  Status Loop() {
    const InterruptScope interrupt;
    if (interactive_) context_.Note("{}", kCommands);
    LineReader lines(STDIN_FILENO);
    bool warned = false;  // the flag is up and stays up: the second Ctrl-C ends the program
    for (;;) {
      if (interactive_) fmt::print(stderr, "> ");
      StatusOr<std::optional<std::string>> line = lines.Next(warned ? nullptr : &InterruptScope::flag());
      if (absl::IsCancelled(line.status()) && InterruptScope::flag()) {
        if (!interactive_) return Cancelled("interrupted");
        fmt::print(stderr, "\nCtrl-C again or /exit leaves.\n");
        warned = true;
        continue;
      }
      if (absl::IsCancelled(line.status())) continue;  // another signal, such as a changed window
      RETURN_IF_ERROR(line.status());
      if (!line->has_value()) break;
      warned = false;
      InterruptScope::Clear();
      ASSIGN_OR_RETURN(const bool go_on, OnLine(**line));
      if (!go_on) break;
    }
    return OkStatus();
  }

 private:
  void Reset() {
    messages_ = OrderedJson::array();
    if (has_system_) messages_.push_back({{"role", "system"}, {"content", system_}});
  }

  // False to leave.
  StatusOr<bool> OnLine(std::string line) {
    if (line.find_first_not_of(" \t") == std::string::npos) return true;
    if (!IsUtf8(line)) return GoOnAfter(InvalidArgument("the line is not UTF-8"));
    if (line.starts_with("//")) {
      line.erase(0, 1);
    } else if (line.starts_with("/")) {
      const size_t space = line.find(' ');
      const std::string name = line.substr(0, space);
      const std::string rest = space == std::string::npos ? "" : line.substr(space + 1);
      if (name == "/exit" || name == "/quit") return false;
      if (name == "/reset") {
        Reset();
      } else if (name == "/system") {
        system_ = rest;
        has_system_ = !rest.empty();
        Reset();
      } else if (name == "/help") {
        fmt::print(stderr, "{}\n", kCommands);
      } else {
        fmt::print(stderr, "{}: no such command. {}\n", Printable(name), kCommands);
      }
      return true;
    }
    return GoOnAfter(Answer(line));
  }

  // At a terminal the conversation goes on after a refusal; a script ends with the error.
  StatusOr<bool> GoOnAfter(const Status& status) {
    if (status.ok()) return true;
    if (!interactive_ || !(absl::IsInvalidArgument(status) || absl::IsResourceExhausted(status))) return status;
    fmt::print(stderr, "optiq: error: {}\n", Printable(Message(status)));
    return true;
  }

  Status Answer(const std::string& text) {
    messages_.push_back({{"role", "user"}, {"content", text}});
    const Status status = Generate();
    if (!status.ok()) messages_.erase(messages_.size() - 1);  // the message that could not be answered
    return status;
  }

  Status Generate() {
    ASSIGN_OR_RETURN(request_.prompt, EncodeChat(*model_.chat_template, *model_.tokenizer, messages_, render_));
    const std::unique_ptr<ProgressSink> progress = context_.MakeProgress();
    GenerationHooks hooks;
    hooks.cancel = &InterruptScope::flag();
    hooks.progress = progress.get();
    const bool terminal = IsTerminal(STDOUT_FILENO);
    hooks.on_text = [terminal](std::string_view piece) {
      return WriteStdout(terminal ? Printable(piece, "\t\n") : std::string(piece));
    };
    ASSIGN_OR_RETURN(const GenerationResult result, generator_.Run(request_, hooks));
    RETURN_IF_ERROR(WriteStdout("\n"));
    messages_.push_back({{"role", "assistant"}, {"content", result.text}});
    ++request_.sampling.seed;  // another stream of numbers for the next answer
    context_.Detail("prompt {} tokens ({} from the cache), {:.1f} tok/s; generated {} tokens, {:.1f} tok/s; finish: {}",
                    result.prompt_tokens, result.cached_tokens, result.PrefillRate(), result.tokens.size(),
                    result.DecodeRate(), FinishReasonName(result.finish));
    if (result.finish == FinishReason::kLength)
      context_.Note("(the answer was cut: --max-tokens or the model's context)");
    if (result.finish == FinishReason::kCancelled) {
      if (!interactive_) return Cancelled("interrupted");
      context_.Note("(stopped)");
    }
    InterruptScope::Clear();
    return OkStatus();
  }

  const CommandContext& context_;
  const LoadedModel& model_;
  Generator generator_;
  GenerationRequest request_;
  RenderOptions render_;
  OrderedJson messages_;
  std::string system_;
  bool has_system_;
  const bool interactive_ = IsTerminal(STDIN_FILENO);
};

Status RunChat(const ChatOptions& options, const CommandContext& context) {
  if (!IsUtf8(options.system)) return InvalidArgument("--system: the text is not UTF-8");
  ASSIGN_OR_RETURN(const LoadedModel model, LoadModel(options.model, context));
  options.products.Apply(model, context);
  if (!model.chat_template) {
    return FailedPrecondition("{}: the model has no chat template; use `optiq generate --raw`", options.model);
  }
  ASSIGN_OR_RETURN(RenderOptions render, options.chat.ToRender(*model.chat_template));
  ASSIGN_OR_RETURN(SamplingParams sampling,
                   options.sampling.ToParams(model.generation, model.decoder->spec().vocab_size, options.model));
  if (sampling.temperature > 0) context.Detail("seed {}", sampling.seed);
  const DecoderSpec& spec = model.decoder->spec();
  ASSIGN_OR_RETURN(const KvPlan plan, options.kv.ToPlan(*model.checkpoint, spec, options.products.exact ? 32 : 16));
  if (options.kv.any() || context.verbose) {
    for (const std::string& line : KvPlanText(plan, KvGeometryOf(spec), std::max<int64_t>(1, spec.max_position_embeddings))) {
      context.Note("{}", line);
    }
  }
  Chat chat(options, context, model, std::move(sampling), std::move(render));
  RETURN_IF_ERROR(chat.UseKvPlan(plan));
  return chat.Loop();
}

}  // namespace

void RegisterChat(CLI::App& app, CommandContext* context) {
  CLI::App* sub = AddCommand(app, "chat", "A conversation with a model; one line is one message.",
                             "optiq chat MODEL\n"
                             "optiq chat MODEL --system \"You are terse.\" --thinking off\n"
                             "printf 'Hello\\nAnd now?\\n' | optiq chat MODEL --quiet");
  auto o = std::make_shared<ChatOptions>();
  sub->add_option("MODEL", o->model, "A model directory (Hugging Face or MLX) or a .gguf file")->required();
  CLI::Option* system = sub->add_option("--system", o->system, "The system message")->type_name("TEXT");
  o->chat.AddTo(sub);
  sub->add_option("--max-tokens", o->max_tokens, "Most tokens of an answer (default 1024)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
      ->type_name("N");
  o->products.AddTo(sub);
  o->kv.AddTo(sub, "default 16, with --exact 32");
  o->sampling.AddTo(sub);
  sub->callback([=] {
    o->has_system = system->count() > 0;
    context->run = [=] { return RunChat(*o, *context); };
  });
}

}  // namespace optiq
