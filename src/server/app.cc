#include "server/app.h"

#include <fmt/chrono.h>

#include <algorithm>
#include <ctime>
#include <mutex>
#include <random>

namespace optiq {

std::optional<ApiError> App::FindModel(const std::string& model, std::string* adapter, bool any_claude) const {
  adapter->clear();
  if (model == options.model_id || model == "default_model" || (any_claude && model.starts_with("claude")))
    return std::nullopt;
  if (std::find(options.aliases.begin(), options.aliases.end(), model) != options.aliases.end()) return std::nullopt;
  const std::vector<std::string> names = engine->adapters();
  std::string name = model;
  if (name.starts_with(options.model_id + ":")) name.erase(0, options.model_id.size() + 1);
  if (std::find(names.begin(), names.end(), name) != names.end()) {
    *adapter = name;
    return std::nullopt;
  }
  return ApiError{
      404, fmt::format("the model '{}' does not exist here; there is '{}'", model.substr(0, 200), options.model_id),
      "model", "model_not_found"};
}

StatusOr<std::shared_ptr<const Grammar>> App::GetGrammar() const {
  std::lock_guard lock(grammar_mutex_);
  if (!grammar_) {
    ASSIGN_OR_RETURN(grammar_, Grammar::Create(*tokenizer, end_ids, vocab_size));
  }
  return grammar_;
}

std::string MakeId(std::string_view prefix) {
  static constexpr char kLetters[] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
  thread_local std::mt19937_64 random{std::random_device{}()};
  std::string id(prefix);
  for (int i = 0; i < 24; ++i) id += kLetters[random() % 62];
  return id;
}

int64_t UnixTime() { return static_cast<int64_t>(std::time(nullptr)); }

void LogRequest(App* app, const HttpRequest& request, const std::string& endpoint, const std::string& request_id,
                int status, double seconds, const EngineUsage* usage, std::string_view finish) {
  app->metrics.CountRequest(endpoint, status);
  if (app->options.log == LogFormat::kNone || ((endpoint == "/health" || endpoint == "/metrics") && status == 200))
    return;
  const std::string time = fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)));
  const double rate = usage != nullptr && usage->decode_seconds > 0
                          ? static_cast<double>(usage->completion_tokens - 1) / usage->decode_seconds
                          : 0;
  std::string line;
  if (app->options.log == LogFormat::kJson) {
    OrderedJson json = {{"time", time},     {"id", request_id}, {"peer", request.peer}, {"method", request.method},
                        {"path", endpoint}, {"status", status}, {"seconds", seconds}};
    if (usage != nullptr) {
      json["prompt_tokens"] = usage->prompt_tokens;
      json["cached_tokens"] = usage->cached_tokens;
      json["completion_tokens"] = usage->completion_tokens;
      json["queue_seconds"] = usage->queue_seconds;
      json["first_token_seconds"] = usage->first_token_seconds;
      json["tokens_per_second"] = rate;
      json["finish"] = std::string(finish);
    }
    line = Dump(json);
  } else {
    line = fmt::format("{} {} {} {} {} {:.3f} s", time, request_id, request.method, endpoint, status, seconds);
    if (usage != nullptr) {
      line += fmt::format("; prompt {} ({} cached), generated {}, first token {:.3f} s, {:.1f} tok/s, {}",
                          usage->prompt_tokens, usage->cached_tokens, usage->completion_tokens,
                          usage->queue_seconds + usage->first_token_seconds, rate, finish);
    }
  }
  static std::mutex mutex;
  std::lock_guard lock(mutex);
  std::fputs((line + "\n").c_str(), stderr);
}

}  // namespace optiq
