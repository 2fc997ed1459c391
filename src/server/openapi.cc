// GET /openapi.json: the endpoints and the fields they read.
#include "server/api.h"

namespace optiq {
namespace {

OrderedJson Number(double min, double max) { return {{"type", "number"}, {"minimum", min}, {"maximum", max}}; }
OrderedJson Integer(int64_t min, int64_t max) { return {{"type", "integer"}, {"minimum", min}, {"maximum", max}}; }
OrderedJson Type(const char* name) { return {{"type", name}}; }
OrderedJson ArrayOf(OrderedJson items, int64_t least = 0) {
  return {{"type", "array"}, {"items", std::move(items)}, {"minItems", least}};
}
OrderedJson AnyOf(std::initializer_list<OrderedJson> list) {
  OrderedJson any = OrderedJson::array();
  for (const OrderedJson& item : list) any.push_back(item);
  return {{"anyOf", std::move(any)}};
}
OrderedJson Object(OrderedJson properties, OrderedJson required = OrderedJson::array()) {
  OrderedJson out = {{"type", "object"}, {"properties", std::move(properties)}};
  if (!required.empty()) out["required"] = std::move(required);
  return out;
}
OrderedJson Names(std::initializer_list<const char*> names) {
  OrderedJson out = OrderedJson::array();
  for (const char* name : names) out.push_back(name);
  return out;
}

OrderedJson Sampling() {
  return {{"model", Type("string")},
          {"temperature", Number(0, 2)},
          {"top_p", Number(0, 1)},
          {"top_k", Integer(-1, INT32_MAX)},
          {"min_p", Number(0, 1)},
          {"seed", Type("integer")},
          {"stop", AnyOf({Type("string"), ArrayOf(Type("string"))})},
          {"stream", Type("boolean")},
          {"presence_penalty", Number(-2, 2)},
          {"frequency_penalty", Number(-2, 2)},
          {"repetition_penalty", Number(0, 10)},
          {"logit_bias", Type("object")},
          {"n", Integer(1, 8)}};
}

OrderedJson Path(const char* method, const char* summary, OrderedJson body = nullptr,
                 const char* answer = "application/json") {
  OrderedJson responses = {{"200", {{"description", "The answer"}, {"content", {{answer, OrderedJson::object()}}}}}};
  const OrderedJson error = {{"description", "An error object that names the parameter"},
                             {"content", {{"application/json", {{"schema", Type("object")}}}}}};
  for (const char* code : {"400", "401", "403", "404", "413", "415", "429", "500", "503"}) responses[code] = error;
  OrderedJson operation = {{"summary", summary}, {"responses", std::move(responses)}};
  if (!body.is_null()) {
    operation["requestBody"] = {{"required", true}, {"content", {{"application/json", {{"schema", std::move(body)}}}}}};
    operation["responses"]["200"]["content"]["text/event-stream"] = OrderedJson::object();
  }
  OrderedJson out = OrderedJson::object();
  out[method] = std::move(operation);
  return out;
}

OrderedJson Document() {
  const OrderedJson content = AnyOf({Type("string"), ArrayOf(Type("object"))});
  const OrderedJson ids = ArrayOf(Integer(0, INT32_MAX), 1);
  const OrderedJson prompt = AnyOf({Type("string"), ArrayOf(Type("string"), 1), ids, ArrayOf(ids, 1)});
  const OrderedJson message =
      Object({{"role", {{"type", "string"}, {"enum", Names({"system", "developer", "user", "assistant", "tool"})}}},
              {"content", content}},
             Names({"role"}));
  OrderedJson chat = Sampling();
  chat.update({{"messages", ArrayOf(message, 1)},
               {"max_tokens", Integer(1, INT64_MAX / 1024)},
               {"max_completion_tokens", Integer(1, INT64_MAX / 1024)},
               {"tools", ArrayOf(Type("object"))},
               {"tool_choice", AnyOf({Type("string"), Type("object")})},
               {"parallel_tool_calls", Type("boolean")},
               {"response_format", Type("object")},
               {"logprobs", Type("boolean")},
               {"top_logprobs", Integer(0, 20)},
               {"stream_options", Type("object")},
               {"reasoning_effort", Type("string")},
               {"chat_template_kwargs", Type("object")},
               {"adapter", Type("string")}});
  OrderedJson completion = Sampling();
  completion.update({{"prompt", prompt},
                     {"max_tokens", Integer(0, INT64_MAX / 1024)},
                     {"echo", Type("boolean")},
                     {"logprobs", Integer(0, 20)}});
  const OrderedJson anthropic = {
      {"model", Type("string")},
      {"system", content},
      {"messages", ArrayOf(Object({{"role", Type("string")}, {"content", content}}, Names({"role", "content"})), 1)},
      {"tools", ArrayOf(Type("object"))},
      {"tool_choice", Type("object")},
      {"thinking", Type("object")}};
  OrderedJson messages = anthropic;
  messages.update({{"max_tokens", Integer(1, INT64_MAX / 1024)},
                   {"stop_sequences", ArrayOf(Type("string"))},
                   {"stream", Type("boolean")},
                   {"temperature", Number(0, 2)},
                   {"top_p", Number(0, 1)},
                   {"top_k", Integer(-1, INT32_MAX)}});
  OrderedJson paths = {
      {"/v1/chat/completions", Path("post", "A chat answer (OpenAI)", Object(chat, Names({"model", "messages"})))},
      {"/v1/completions", Path("post", "A text's continuation (OpenAI)", Object(completion, Names({"model", "prompt"})))},
      {"/v1/responses", Path("post", "A response (OpenAI)",
                             Object({{"model", Type("string")},
                                     {"input", AnyOf({Type("string"), ArrayOf(Type("object"), 1)})},
                                     {"instructions", Type("string")},
                                     {"max_output_tokens", Integer(1, INT64_MAX / 1024)},
                                     {"stream", Type("boolean")},
                                     {"tools", ArrayOf(Type("object"))}},
                                    Names({"model", "input"})))},
      {"/v1/embeddings",
       Path("post", "Embeddings (OpenAI)",
            Object({{"model", Type("string")},
                    {"input", prompt},
                    {"encoding_format", {{"type", "string"}, {"enum", Names({"float", "base64"})}}}},
                   Names({"model", "input"})))},
      {"/v1/messages", Path("post", "A message (Anthropic)", Object(messages, Names({"model", "messages", "max_tokens"})))},
      {"/v1/messages/count_tokens",
       Path("post", "A message's tokens (Anthropic)", Object(anthropic, Names({"model", "messages"})))},
      {"/v1/models", Path("get", "The model and its adapters")},
      {"/tokenize",
       Path("post", "Text to ids", Object({{"prompt", Type("string")}, {"add_special_tokens", Type("boolean")}}))},
      {"/detokenize",
       Path("post", "Ids to text", Object({{"tokens", ArrayOf(Integer(0, INT32_MAX))}}, Names({"tokens"})))},
      {"/tokenizer_info", Path("get", "Special tokens and chat template")},
      {"/props", Path("get", "What is in force")},
      {"/health", Path("get", "200 while requests are taken, 503 otherwise")},
      {"/metrics", Path("get", "Prometheus", nullptr, "text/plain")}};
  return {
      {"openapi", "3.1.0"}, {"info", {{"title", "optiq"}, {"version", OPTIQ_VERSION}}}, {"paths", std::move(paths)}};
}

}  // namespace

void HandleOpenApi(const Call& call) {
  static const std::string text = Dump(Document());
  HttpResponse response;
  response.body = text;
  call.Reply(std::move(response));
}

}  // namespace optiq
