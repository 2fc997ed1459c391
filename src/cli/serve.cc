// optiq serve: the HTTP server.
#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/file.h"
#include "base/limits.h"
#include "cli/command.h"
#include "cli/format.h"
#include "cli/kv_options.h"
#include "cli/model_loader.h"
#include "cli/product_options.h"
#include "cli/quant_options.h"
#include "engine/engine.h"
#include "engine/kv_budget.h"
#include "model/weights.h"
#include "server/server.h"
#include "text/ordered_json.h"

namespace optiq {
namespace {

struct ServeOptions {
  std::string model, model_id, host = "127.0.0.1", api_key, api_key_file, chat_template, template_args,
                               log_format = "text";
  std::string prompt_cache_bytes, kv_memory;
  int port = 8080;
  int64_t max_concurrent = 16, max_queued = 256, max_tokens = 2048, context_length = 0, prefill_chunk = 512;
  double drain_timeout = 30;
  std::vector<std::string> allow_origins, allow_hosts, adapters, aliases;
  std::optional<double> temperature, top_p, min_p, repetition_penalty;
  std::optional<int64_t> top_k;
  bool draft = false;
  KvOptions kv;
  ProductOptions products;
};

StatusOr<std::vector<std::string>> ApiKeys(const ServeOptions& options) {
  std::vector<std::string> keys;
  if (!options.api_key.empty()) keys.push_back(options.api_key);
  if (!options.api_key_file.empty()) {
    ASSIGN_OR_RETURN(std::string text, ReadTextFile(options.api_key_file, 1 << 20));
    for (size_t at = 0; at < text.size();) {
      const size_t end = std::min(text.find('\n', at), text.size());
      std::string line = text.substr(at, end - at);
      while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
      if (!line.empty()) keys.push_back(std::move(line));
      at = end + 1;
    }
    if (keys.empty()) return InvalidArgument("--api-key-file {}: no key in it", options.api_key_file);
  } else if (const char* key = std::getenv("OPTIQ_API_KEY"); keys.empty() && key != nullptr && *key != '\0') {
    keys.push_back(key);
  }
  return keys;
}

Status LoadTemplate(const ServeOptions& options, LoadedModel* model) {
  if (options.chat_template.empty()) return OkStatus();
  ASSIGN_OR_RETURN(const std::string source, ReadTextFile(options.chat_template, limits::kChatTemplateBytes));
  ASSIGN_OR_RETURN(const SpecialTokens special, ReadSpecialTokens(*model->checkpoint));
  ASSIGN_OR_RETURN(ChatTemplate loaded, ChatTemplate::FromSource(source, special, options.chat_template));
  model->chat_template = std::move(loaded);
  return OkStatus();
}

StatusOr<SamplingParams> DefaultSampling(const ServeOptions& options, const LoadedModel& model) {
  SamplingParams params = model.generation.ToSampling();
  params.temperature = options.temperature.value_or(params.temperature);
  params.top_p = options.top_p.value_or(params.top_p);
  params.top_k = options.top_k.value_or(params.top_k);
  params.min_p = options.min_p.value_or(params.min_p);
  params.repetition_penalty = options.repetition_penalty.value_or(params.repetition_penalty);
  RETURN_IF_ERROR(ValidateSampling(params, model.decoder->spec().vocab_size));
  return params;
}

StatusOr<EngineOptions> ToEngineOptions(const ServeOptions& options, const LoadedModel& model) {
  EngineOptions engine;
  engine.max_concurrent = options.max_concurrent;
  engine.max_queued = options.max_queued;
  engine.context_length = options.context_length;
  engine.prefill_chunk = options.prefill_chunk;
  engine.draft = options.draft;
  if (!options.prompt_cache_bytes.empty()) {
    ASSIGN_OR_RETURN(const uint64_t bytes, ParseBytes(options.prompt_cache_bytes, "--prompt-cache-bytes"));
    engine.prefix_cache_bytes = static_cast<int64_t>(bytes);
  }
  if (!options.kv_memory.empty()) {
    ASSIGN_OR_RETURN(const uint64_t bytes, ParseBytes(options.kv_memory, "--kv-memory"));
    engine.kv_bytes = static_cast<int64_t>(bytes);
  }
  if (options.prompt_cache_bytes.empty()) {
    // System prompts and earlier turns come again: a quarter of the memory for keys and values, at most 1 GB.
    if (engine.kv_bytes == 0) engine.kv_bytes = DefaultKvBytes();
    engine.prefix_cache_bytes = std::min<int64_t>(engine.kv_bytes / 4, 1'000'000'000);
  }
  for (const std::string& text : options.adapters) {
    const size_t equals = text.find('=');
    if (equals == 0 || equals == std::string::npos || equals + 1 == text.size()) {
      return InvalidArgument("--adapter {}: expected NAME=DIR, for example french=adapters/french", text);
    }
    engine.adapters.emplace_back(text.substr(0, equals), text.substr(equals + 1));
  }
  ASSIGN_OR_RETURN(engine.kv_plan,
                   options.kv.ToPlan(*model.checkpoint, model.decoder->spec(), options.products.exact ? 32 : 16));
  return engine;
}

// What /props and the page tell about the model: bits by module, the cache's plan.
StatusOr<OrderedJson> ModelInfo(const LoadedModel& model, const KvPlan& plan, int64_t context) {
  const DecoderSpec& spec = model.decoder->spec();
  OrderedJson modules = OrderedJson::array();
  uint64_t params = 0, bytes = 0;
  for (const DecoderSpec::Module& module : spec.QuantizableModules()) {
    ASSIGN_OR_RETURN(const std::vector<WeightMatrix> parts, LoadModule(*model.checkpoint, spec, module));
    uint64_t module_bytes = 0;
    for (const WeightMatrix& w : parts) module_bytes += w.bytes();
    ASSIGN_OR_RETURN(const std::optional<AffineFormat> format, model.checkpoint->QuantizationOf(module.path));
    const bool in_layer = module.block >= 0 && module.block < spec.num_layers();
    const std::string mark = fmt::format(".{}.", module.block);
    const size_t at = in_layer ? module.path.find(mark) : std::string::npos;
    const double width = 8.0 * static_cast<double>(module_bytes) / static_cast<double>(module.params());
    modules.push_back({{"path", module.path},
                       {"layer", in_layer ? module.block : -1},
                       {"name", at == std::string::npos ? module.path : module.path.substr(at + mark.size())},
                       {"bits", format ? format->bits : static_cast<int>(width + 0.5)},
                       {"group_size", format ? format->group_size : 0},
                       {"params", module.params()}});
    params += module.params();
    bytes += module_bytes;
  }
  OrderedJson kv = OrderedJson::array();
  for (const std::string& line : KvPlanText(plan, KvGeometryOf(spec), context)) kv.push_back(line);
  return OrderedJson{{"model_type", spec.model_type},
                     {"num_layers", spec.num_layers()},
                     {"hidden_size", spec.hidden_size},
                     {"params", params},
                     {"bytes", bytes},
                     {"modules", std::move(modules)},
                     {"kv", std::move(kv)}};
}

// Waits for SIGINT or SIGTERM, which every thread started after the call leaves to this wait.
class SignalWait {
 public:
  SignalWait() {
    sigemptyset(&set_);
    sigaddset(&set_, SIGINT);
    sigaddset(&set_, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &set_, nullptr);
    std::signal(SIGPIPE, SIG_IGN);  // a client that left is an error code
  }
  int Wait() const {
    int signal = 0;
    while (sigwait(&set_, &signal) != 0) {
    }
    return signal;
  }

 private:
  sigset_t set_;
};

Status RunServe(const ServeOptions& options, const CommandContext& context) {
  const SignalWait signals;
  ASSIGN_OR_RETURN(std::vector<std::string> keys, ApiKeys(options));
  if (!IsLoopback(options.host) && keys.empty()) {
    return InvalidArgument(
        "--host {}: an address that others can reach needs a key; give --api-key-file, or bind to 127.0.0.1",
        options.host);
  }
  ASSIGN_OR_RETURN(LoadedModel model, LoadModel(options.model, context));
  options.products.Apply(model, context);
  RETURN_IF_ERROR(LoadTemplate(options, &model));

  App app;
  std::filesystem::path path = std::filesystem::path(options.model).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  app.options.model_id = options.model_id.empty() ? path.filename().string() : options.model_id;
  app.options.aliases = options.aliases;
  if (options.model != app.options.model_id) app.options.aliases.push_back(options.model);
  app.options.api_keys = std::move(keys);
  app.options.allow_origins = options.allow_origins;
  app.options.allow_hosts = options.allow_hosts;
  app.options.max_tokens = options.max_tokens;
  app.options.log = context.quiet                  ? LogFormat::kNone
                    : options.log_format == "json" ? LogFormat::kJson
                                                   : LogFormat::kText;
  ASSIGN_OR_RETURN(app.options.sampling, DefaultSampling(options, model));
  if (!options.template_args.empty()) {
    ASSIGN_OR_RETURN(app.options.template_args, ParseOrderedJson(options.template_args, "--chat-template-args"));
    if (!app.options.template_args.is_object()) return InvalidArgument("--chat-template-args: must be a JSON object");
  }
  ASSIGN_OR_RETURN(EngineOptions engine_options, ToEngineOptions(options, model));
  const KvPlan plan = engine_options.kv_plan;
  ASSIGN_OR_RETURN(std::unique_ptr<Engine> engine, Engine::Create(model.decoder.get(), model.tokenizer.get(),
                                                                  model.end_ids, std::move(engine_options)));
  app.engine = engine.get();
  app.tokenizer = model.tokenizer;
  app.chat_template = model.chat_template;
  app.format = DetectChatFormat(model.chat_template ? model.chat_template->source() : "", model.tokenizer.get());
  app.end_ids = model.end_ids;
  app.vocab_size = model.decoder->spec().vocab_size;
  app.hidden_size = model.decoder->spec().hidden_size;
  app.created = UnixTime();
  ASSIGN_OR_RETURN(app.options.model_info, ModelInfo(model, plan, engine->options().context_length));

  HttpServerOptions http;
  http.host = options.host;
  http.port = static_cast<uint16_t>(options.port);
  ASSIGN_OR_RETURN(const std::unique_ptr<OptiqServer> server, OptiqServer::Start(&app, http));
  const EngineOptions& in_force = engine->options();
  context.Note("optiq {}: {} ({}, {}), {} threads", OPTIQ_VERSION, app.options.model_id,
               model.decoder->spec().model_type, FormatBytes(static_cast<double>(model.checkpoint->file_bytes())),
               model.pool->num_threads());
  for (const std::string& line : KvPlanText(plan, KvGeometryOf(model.decoder->spec()), in_force.context_length))
    context.Note("{}", line);
  context.Note(
      "up to {} at once and {} waiting, {} tokens of context, {} for keys and values, {} for earlier prompts{}",
      in_force.max_concurrent, in_force.max_queued, FormatInteger(in_force.context_length),
      FormatBytes(static_cast<double>(in_force.kv_bytes)),
      FormatBytes(static_cast<double>(in_force.prefix_cache_bytes)), in_force.draft ? ", drafts from repetitions" : "");
  context.Note("chat template: {}; tool calls: {}; thoughts: {}", app.chat_template ? "yes" : "none",
               ToolSyntaxName(app.format.tools), app.format.think_open.empty() ? "none" : app.format.think_open);
  for (const auto& [name, dir] : in_force.adapters) context.Note("adapter {}: {}", name, dir);
  context.Note("API key: {}; origins: {}", app.options.api_keys.empty() ? "none (loopback only)" : "needed",
               app.options.allow_origins.empty() ? "own page only"
                                                 : fmt::format("{}", fmt::join(app.options.allow_origins, ", ")));
  const std::string url =
      fmt::format("http://{}:{}", options.host.find(':') == std::string::npos ? options.host : "[" + options.host + "]",
                  server->port());
  context.Note("listening on {}  (OPENAI_BASE_URL={}/v1, ANTHROPIC_BASE_URL={})", url, url, url);

  const int signal = signals.Wait();
  context.Note("{}: draining for up to {:.0f} s; again to stop at once", signal == SIGINT ? "SIGINT" : "SIGTERM",
               options.drain_timeout);
  std::thread([signals] { std::_Exit(128 + signals.Wait()); }).detach();
  server->Drain(std::chrono::milliseconds(static_cast<int64_t>(options.drain_timeout * 1000)));
  context.Note("stopped");
  return OkStatus();
}

}  // namespace

void RegisterServe(CLI::App& app, CommandContext* context) {
  CLI::App* sub = AddCommand(
      app, "serve", "Serves a model over HTTP with the protocols of OpenAI and Anthropic.",
      "optiq serve --model MODEL\n"
      "optiq serve --model MODEL --kv-config auto --max-concurrent 8 --prompt-cache-bytes 2GB\n"
      "optiq serve --model MODEL --host 0.0.0.0 --api-key-file keys.txt --allow-origin https://chat.example.org");
  auto o = std::make_shared<ServeOptions>();
  sub->add_option("--model,MODEL", o->model, "A model directory (Hugging Face or MLX) or a .gguf file")->required();
  sub->add_option("--served-model-name", o->model_id, "The model's name in answers (default: the directory's)")
      ->type_name("NAME");
  sub->add_option("--alias", o->aliases, "Another name that requests may use; may be repeated")
      ->allow_extra_args(false)
      ->type_name("NAME");
  sub->add_option("--adapter", o->adapters,
                  "A LoRA adapter of mlx-lm or PEFT, chosen by requests as the model's name; may be repeated")
      ->allow_extra_args(false)
      ->type_name("NAME=DIR");
  sub->add_option("--host", o->host, "Address to listen on (default 127.0.0.1); any but loopback needs a key")
      ->type_name("ADDRESS");
  sub->add_option("--port", o->port, "Port (default 8080; 0: any free one)")
      ->check(CLI::Range(0, 65535))
      ->type_name("N");
  sub->add_option("--api-key", o->api_key,
                  "Key that requests must bring; visible in the process list, so better in a file")
      ->type_name("KEY");
  sub->add_option("--api-key-file", o->api_key_file, "File with one key per line (or OPTIQ_API_KEY)")
      ->type_name("FILE");
  sub->add_option("--allow-origin", o->allow_origins, "Web page that browsers may call from, or *; may be repeated")
      ->allow_extra_args(false)
      ->type_name("ORIGIN");
  sub->add_option("--allow-host", o->allow_hosts, "Host name that requests may be for beside loopback; may be repeated")
      ->allow_extra_args(false)
      ->type_name("NAME");
  sub->add_option("--max-concurrent", o->max_concurrent, "Sequences in one batch (default 16)")
      ->check(CLI::Range(1, 1024))
      ->type_name("N");
  sub->add_option("--max-queued", o->max_queued, "Requests that may wait (default 256)")
      ->check(CLI::Range(1, 1 << 20))
      ->type_name("N");
  sub->add_option("--max-tokens", o->max_tokens, "Tokens to generate where a request does not say (default 2048)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
      ->type_name("N");
  sub->add_option("--context-length", o->context_length, "Tokens per sequence (default: the model's)")
      ->check(CLI::Range(int64_t{1}, limits::kContext))
      ->type_name("N");
  sub->add_option("--prefill-chunk", o->prefill_chunk, "Prompt tokens between two decode steps (default 512)")
      ->check(CLI::Range(1, 1 << 16))
      ->type_name("N");
  sub->add_option("--temp", o->temperature,
                  "Temperature where a request does not say (default: generation_config.json's)")
      ->type_name("T");
  sub->add_option("--top-p", o->top_p, "The same for top-p")->type_name("P");
  sub->add_option("--top-k", o->top_k, "The same for top-k")->type_name("K");
  sub->add_option("--min-p", o->min_p, "The same for min-p")->type_name("P");
  sub->add_option("--repetition-penalty", o->repetition_penalty, "The same for the repetition penalty")->type_name("X");
  sub->add_option("--prompt-cache-bytes", o->prompt_cache_bytes,
                  "Memory for keys and values of earlier prompts, such as 2GB; 0: off (default: a quarter of "
                  "--kv-memory, at most 1GB)")
      ->type_name("BYTES");
  sub->add_option("--kv-memory", o->kv_memory, "Memory for all keys and values (default: from what is free)")
      ->type_name("BYTES");
  sub->add_option("--chat-template", o->chat_template, "A chat template in place of the model's")->type_name("FILE");
  sub->add_option("--chat-template-args", o->template_args, "Arguments of the chat template")->type_name("JSON");
  sub->add_flag("--draft", o->draft, "Guess tokens from earlier repetitions (the text is the same)");
  o->products.AddTo(sub);
  sub->add_option("--drain-timeout", o->drain_timeout, "Seconds that running answers have after SIGTERM (default 30)")
      ->check(CLI::Range(0.0, 86400.0))
      ->type_name("S");
  sub->add_option("--log-format", o->log_format, "text or json")
      ->check(CLI::IsMember({"text", "json"}))
      ->type_name("NAME");
  o->kv.AddTo(sub, "default 16");
  sub->callback([=] { context->run = [=] { return RunServe(*o, *context); }; });
}

}  // namespace optiq
