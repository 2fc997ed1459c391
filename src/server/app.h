// What the endpoints share.
#ifndef OPTIQ_SERVER_APP_H_
#define OPTIQ_SERVER_APP_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "engine/engine.h"
#include "server/api_error.h"
#include "server/chat_format.h"
#include "server/exchange.h"
#include "server/http_server.h"
#include "server/metrics.h"
#include "server/work_pool.h"
#include "text/chat_template.h"
#include "text/grammar.h"
#include "text/tokenizer.h"

namespace optiq {

enum class LogFormat { kNone, kText, kJson };

struct AppOptions {
  std::string model_id;              // what /v1/models shows
  std::vector<std::string> aliases;  // other names a request may use
  std::string host = "127.0.0.1";
  std::vector<std::string> api_keys;  // none: no key is asked for
  std::vector<std::string> allow_origins, allow_hosts;
  SamplingParams sampling;  // where a request says nothing
  int64_t max_tokens = 2048;
  OrderedJson template_args = OrderedJson::object();
  OrderedJson model_info = OrderedJson::object();  // shown by /props and the page
  LogFormat log = LogFormat::kText;
};

struct App {
  AppOptions options;
  Engine* engine = nullptr;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::optional<ChatTemplate> chat_template;
  ChatFormat format;
  std::vector<int32_t> end_ids;
  int64_t vocab_size = 0, hidden_size = 0;
  int64_t created = 0;  // seconds since 1970
  Metrics metrics;
  std::function<HttpServerStats()> http_stats = [] { return HttpServerStats{}; };
  std::atomic<bool> draining{false};
  WorkPool work{2, 1024};  // parsing, templates, tokens, grammars
  WorkPool slow{1, 64};    // calls that wait for the engine (embeddings)

  // Made when first asked for; shared.
  StatusOr<std::shared_ptr<const Grammar>> GetGrammar() const;

  // The adapter that the request's `model` means ("" for the model alone), or an error.
  std::optional<ApiError> FindModel(const std::string& model, std::string* adapter, bool any_claude = false) const;

 private:
  mutable std::mutex grammar_mutex_;
  mutable std::shared_ptr<const Grammar> grammar_;
};

// "chatcmpl-" and 24 random letters and digits.
std::string MakeId(std::string_view prefix);
int64_t UnixTime();

// Reports a request's end: log line and counter.
void LogRequest(App* app, const HttpRequest& request, const std::string& endpoint, const std::string& request_id,
                int status, double seconds, const EngineUsage* usage = nullptr, std::string_view finish = "");

}  // namespace optiq

#endif  // OPTIQ_SERVER_APP_H_
