#include "server/api.h"

namespace optiq {

void AddAllRoutes(Router* router, App*) {
  const auto add = [router](const char* method, const char* path, void (*handle)(const Call&),
                            Route::Where where = Route::kPool, bool open = false,
                            Protocol protocol = Protocol::kOpenAi) {
    router->Add({method, path, handle, where, open, protocol});
  };
  add("POST", "/v1/chat/completions", HandleChatCompletions);
  add("POST", "/v1/completions", HandleCompletions);
  add("POST", "/v1/responses", HandleResponses);
  add("POST", "/v1/embeddings", HandleEmbeddings);
  add("POST", "/v1/messages", HandleMessages, Route::kPool, false, Protocol::kAnthropic);
  add("POST", "/v1/messages/count_tokens", HandleCountTokens, Route::kPool, false, Protocol::kAnthropic);
  add("GET", "/v1/models", HandleModels, Route::kInline);
  add("GET", "/v1/models/*", HandleModel, Route::kInline);
  add("POST", "/tokenize", HandleTokenize);
  add("POST", "/detokenize", HandleDetokenize);
  add("GET", "/tokenizer_info", HandleTokenizerInfo, Route::kInline);
  add("GET", "/health", HandleHealth, Route::kInline, true);
  add("GET", "/metrics", HandleMetrics, Route::kInline);
  add("GET", "/", HandlePage, Route::kInline, true);
  add("GET", "/web/*", HandlePage, Route::kInline, true);
  add("GET", "/props", HandleProps, Route::kInline);
  add("GET", "/openapi.json", HandleOpenApi, Route::kInline);
}

}  // namespace optiq
