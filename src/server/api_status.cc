// GET /health, /metrics, /props, /v1/models.
#include "server/api.h"

namespace optiq {

namespace {

OrderedJson ModelJson(const App& app, const std::string& id, const std::string& parent) {
  return {{"id", id},
          {"object", "model"},
          {"created", app.created},
          {"owned_by", "optiq"},
          {"root", app.options.model_id},
          {"parent", parent.empty() ? OrderedJson(nullptr) : OrderedJson(parent)},
          {"max_model_len", app.engine->options().context_length}};
}

OrderedJson StatsJson(const EngineStats& s) {
  return {{"running", s.running},
          {"prefilling", s.prefilling},
          {"waiting", s.waiting},
          {"kv_bytes_active", s.kv_bytes_active},
          {"kv_bytes_cached", s.kv_bytes_cached},
          {"kv_bytes_budget", s.kv_bytes_budget},
          {"prompt_tokens", s.prompt_tokens},
          {"cached_tokens", s.cached_tokens},
          {"completion_tokens", s.completion_tokens},
          {"cancelled", s.cancelled},
          {"steps", s.steps}};
}

}  // namespace

void HandleHealth(const Call& call) {
  constexpr double kStuck = 30;
  if (call.app->draining) return call.Fail({503, "draining", "", "shutting_down"});
  const EngineStats stats = call.app->engine->stats();
  if (stats.heartbeat_seconds > kStuck) {
    return call.Fail(
        {503, fmt::format("the engine has not come round for {:.0f} s", stats.heartbeat_seconds), "", "engine_stuck"});
  }
  call.Reply(JsonResponse({{"status", "ok"}}));
}

void HandleMetrics(const Call& call) {
  HttpResponse response;
  response.content_type = "text/plain; version=0.0.4; charset=utf-8";
  response.body = call.app->metrics.Text(call.app->engine->stats(), call.app->http_stats(), call.app->options.model_id);
  call.Reply(std::move(response));
}

void HandleProps(const Call& call) {
  const App& app = *call.app;
  const EngineOptions& engine = app.engine->options();
  const SamplingParams& s = app.options.sampling;
  OrderedJson adapters = OrderedJson::array();
  for (const std::string& name : app.engine->adapters()) adapters.push_back(name);
  call.Reply(JsonResponse({{"version", OPTIQ_VERSION},
                           {"model", app.options.model_id},
                           {"adapters", std::move(adapters)},
                           {"context_length", engine.context_length},
                           {"max_concurrent", engine.max_concurrent},
                           {"max_queued", engine.max_queued},
                           {"prefix_cache_bytes", engine.prefix_cache_bytes},
                           {"draft", engine.draft},
                           {"max_tokens", app.options.max_tokens},
                           {"sampling",
                            {{"temperature", s.temperature},
                             {"top_p", s.top_p > 0 ? s.top_p : 1.0},
                             {"top_k", s.top_k},
                             {"min_p", s.min_p},
                             {"repetition_penalty", s.repetition_penalty}}},
                           {"tool_format", std::string(ToolSyntaxName(app.format.tools))},
                           {"reasoning", !app.format.think_open.empty()},
                           {"chat_template", app.chat_template.has_value()},
                           {"model_info", app.options.model_info},
                           {"stats", StatsJson(app.engine->stats())}}));
}

void HandleModels(const Call& call) {
  const App& app = *call.app;
  OrderedJson data = OrderedJson::array();
  data.push_back(ModelJson(app, app.options.model_id, ""));
  for (const std::string& alias : app.options.aliases) data.push_back(ModelJson(app, alias, ""));
  for (const std::string& name : app.engine->adapters()) data.push_back(ModelJson(app, name, app.options.model_id));
  // Both protocols' clients list models with one path: has_more and the ids are what Anthropic's reads.
  call.Reply(JsonResponse({{"object", "list"},
                           {"data", data},
                           {"has_more", false},
                           {"first_id", data.front()["id"]},
                           {"last_id", data.back()["id"]}}));
}

void HandleModel(const Call& call) {
  std::string adapter;
  if (auto error = call.app->FindModel(call.path_rest, &adapter)) return call.Fail(*error);
  call.Reply(JsonResponse(ModelJson(*call.app, call.path_rest, adapter.empty() ? "" : call.app->options.model_id)));
}

}  // namespace optiq
