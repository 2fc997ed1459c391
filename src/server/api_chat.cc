// POST /v1/chat/completions.
#include "server/api.h"
#include "server/chat_run.h"
#include "server/sampling_fields.h"
#include "server/token_text.h"

namespace optiq {

OrderedJson UsageJson(const EngineUsage& usage, int64_t reasoning_tokens) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
          {"prompt_tokens_details", {{"cached_tokens", usage.cached_tokens}}},
          {"completion_tokens_details", {{"reasoning_tokens", reasoning_tokens}}}};
}

std::string ReadModel(Fields* fields, const App& app) {
  const std::string model = fields->String("model", 1024).value_or("");
  if (model.empty()) {
    fields->Fail("model", fmt::format("is missing; here it is '{}'", app.options.model_id),
                 "missing_required_parameter");
  }
  return model;
}

void TellIgnored(const Call& call, const Fields& fields) {
  std::string names;
  for (const std::string& name : fields.Unknown()) {
    if (names.size() > 500) break;
    std::string shown;
    for (const char c : name.substr(0, 64)) shown += c > ' ' && c < 127 ? c : '?';
    names += (names.empty() ? "" : ", ") + shown;
  }
  if (!names.empty()) call.exchange->AddHeader("x-optiq-ignored", names);
}

namespace {

class ChatCompletionWriter : public ChatWriter {
 public:
  ChatCompletionWriter(const App* app, std::string model, bool logprobs, bool include_usage, size_t n)
      : app_(app), model_(std::move(model)), logprobs_(logprobs), include_usage_(include_usage), n_(n), calls_(n) {}

  std::string Begin(const EngineUsage&) override {
    std::string out;
    for (size_t i = 0; i < n_; ++i) out += Chunk(i, {{"role", "assistant"}, {"content", ""}}, nullptr, nullptr);
    return out;
  }

  std::string Events(size_t index, const OutputEvents& events, std::span<const TokenLogprobs> logprobs,
                     const ChatAnswer& answer) override {
    std::string out;
    for (size_t e = 0; e < events.size(); ++e) {
      const OutputEvent& event = events[e];
      const OrderedJson shown = e + 1 == events.size() ? Logprobs(logprobs) : OrderedJson(nullptr);
      switch (event.kind) {
        case OutputEvent::kContent:
          out += Chunk(index, {{"content", event.text}}, shown, nullptr);
          break;
        case OutputEvent::kReasoning:  // two names for the same text: clients read one or the other
          out += Chunk(index, {{"reasoning_content", event.text}, {"reasoning", event.text}}, shown, nullptr);
          break;
        case OutputEvent::kToolCall: {
          const size_t number = calls_[index]++;
          OrderedJson start = {{"index", number},
                               {"id", answer.calls[number].id},
                               {"type", "function"},
                               {"function", {{"name", event.name}, {"arguments", ""}}}};
          out += Chunk(index, {{"tool_calls", OrderedJson::array({start})}}, nullptr, nullptr);
          out += Arguments(index, event.text, shown);
          break;
        }
        case OutputEvent::kToolArguments:
          out += Arguments(index, event.text, shown);
          break;
      }
    }
    return out;
  }

  std::string Finish(size_t index, const ChatAnswer& answer, std::span<const TokenLogprobs> logprobs) override {
    return Chunk(index, OrderedJson::object(), Logprobs(logprobs), FinishName(answer));
  }

  std::string End(const std::vector<ChatAnswer>& answers) override {
    std::string out;
    if (include_usage_) {
      OrderedJson chunk = Head("chat.completion.chunk");
      chunk["choices"] = OrderedJson::array();
      chunk["usage"] = UsageJson(TotalUsage(answers), TotalReasoningTokens(answers));
      out = "data: " + Dump(chunk) + "\n\n";
    }
    return out + "data: [DONE]\n\n";
  }

  std::string Error(const ApiError& error, std::string_view) override {
    return "data: " + Dump(ErrorJson(error, Protocol::kOpenAi)) + "\n\n";
  }

  OrderedJson Body(const std::vector<ChatAnswer>& answers) override {
    OrderedJson body = Head("chat.completion");
    body["choices"] = OrderedJson::array();
    for (size_t i = 0; i < answers.size(); ++i) {
      const ChatAnswer& answer = answers[i];
      OrderedJson message = {{"role", "assistant"},
                             {"content", answer.content},
                             {"refusal", nullptr},
                             {"annotations", OrderedJson::array()}};
      if (answer.content.empty() && !answer.calls.empty()) message["content"] = nullptr;
      if (!answer.reasoning.empty()) message["reasoning_content"] = message["reasoning"] = answer.reasoning;
      for (const ChatAnswer::Call& c : answer.calls) {
        message["tool_calls"].push_back(
            {{"id", c.id}, {"type", "function"}, {"function", {{"name", c.name}, {"arguments", c.arguments}}}});
      }
      body["choices"].push_back({{"index", i},
                                 {"message", std::move(message)},
                                 {"logprobs", Logprobs(answer.logprobs)},
                                 {"finish_reason", FinishName(answer)}});
    }
    body["usage"] = UsageJson(TotalUsage(answers), TotalReasoningTokens(answers));
    return body;
  }

 private:
  static std::string FinishName(const ChatAnswer& answer) {
    return answer.called() ? "tool_calls" : answer.ended_by_length ? "length" : "stop";
  }
  OrderedJson Logprobs(std::span<const TokenLogprobs> tokens) const {
    return logprobs_ ? ChatLogprobsJson(*app_->tokenizer, tokens) : OrderedJson(nullptr);
  }
  OrderedJson Head(const char* object) const {
    return {{"id", id_},
            {"object", object},
            {"created", created_},
            {"model", model_},
            {"system_fingerprint", "optiq-" OPTIQ_VERSION}};
  }
  // More of the last call's arguments.
  std::string Arguments(size_t index, const std::string& text, const OrderedJson& logprobs) const {
    const OrderedJson call = {{"index", calls_[index] - 1}, {"function", {{"arguments", text}}}};
    return Chunk(index, {{"tool_calls", OrderedJson::array({call})}}, logprobs, nullptr);
  }
  std::string Chunk(size_t index, OrderedJson delta, OrderedJson logprobs, OrderedJson finish) const {
    OrderedJson chunk = Head("chat.completion.chunk");
    chunk["choices"] = OrderedJson::array({{{"index", index},
                                            {"delta", std::move(delta)},
                                            {"logprobs", std::move(logprobs)},
                                            {"finish_reason", std::move(finish)}}});
    if (include_usage_) chunk["usage"] = nullptr;
    return "data: " + Dump(chunk) + "\n\n";
  }

  const App* app_;
  const std::string id_ = MakeId("chatcmpl-");
  const int64_t created_ = UnixTime();
  const std::string model_;
  const bool logprobs_, include_usage_;
  const size_t n_;
  std::vector<size_t> calls_;  // calls written so far, per answer
};

void ReadToolChoice(Fields* fields, ChatCall* chat) {
  const OrderedJson* choice = fields->Any("tool_choice");
  if (choice == nullptr) return;
  if (*choice == "auto") return;
  if (*choice == "none") {
    chat->tool_choice = ToolChoice::kNone;
  } else if (*choice == "required") {
    chat->tool_choice = ToolChoice::kRequired;
  } else if (choice->is_object() && choice->contains("function") && (*choice)["function"].is_object() &&
             (*choice)["function"].contains("name") && (*choice)["function"]["name"].is_string()) {
    chat->tool_choice = ToolChoice::kNamed;
    chat->tool_name = (*choice)["function"]["name"].get<std::string>();
    bool known = false;
    for (const OrderedJson& tool : chat->tools.is_array() ? chat->tools : OrderedJson::array())
      known |= tool["function"]["name"] == chat->tool_name;
    if (!known && fields->ok()) fields->Fail("tool_choice", "names a function that is not in 'tools'", "invalid_value");
  } else {
    fields->Fail("tool_choice",
                 "must be none, auto, required or {\"type\": \"function\", \"function\": {\"name\": ..}}",
                 "invalid_value");
  }
}

void ReadResponseFormat(Fields* fields, ChatCall* chat, std::optional<ApiError>* error) {
  const OrderedJson* format = fields->Object("response_format");
  if (format == nullptr) return;
  Fields inner(*format, "response_format", error);
  const auto type = inner.OneOf("type", {"text", "json_object", "json_schema"});
  if (!type) {
    if (inner.ok()) inner.Fail("type", "is missing", "missing_required_parameter");
    return;
  }
  if (*type == "text") return;
  chat->format = {{"type", *type}};
  if (*type == "json_object") return;
  const OrderedJson* holder = inner.Object("json_schema");
  if (holder == nullptr) return inner.Fail("json_schema", "is missing", "missing_required_parameter");
  Fields schema(*holder, "response_format.json_schema", error);
  schema.Accept({"name", "strict", "description"});
  const OrderedJson* body = schema.Object("schema");
  if (body == nullptr) return schema.Fail("schema", "is missing", "missing_required_parameter");
  chat->format["schema"] = *body;
}

}  // namespace

void HandleChatCompletions(const Call& call) {
  OrderedJson body;
  if (const auto error = ParseBody(call.request(), &body)) return call.Fail(*error);
  std::optional<ApiError> error;
  Fields fields(body, "", &error);
  ChatCall chat;
  chat.model = ReadModel(&fields, *call.app);
  chat.messages = ReadMessages(&fields, "messages");
  chat.tools = ReadTools(&fields, "tools");
  if (fields.ok()) ReadToolChoice(&fields, &chat);
  chat.parallel_tool_calls = fields.Bool("parallel_tool_calls").value_or(true);
  chat.template_args = ReadTemplateArgs(&fields, *call.app);
  if (const auto effort = fields.OneOf("reasoning_effort", {"none", "minimal", "low", "medium", "high", "xhigh"})) {
    ApplyReasoningEffort(*effort, &chat.template_args);
  }
  ReadResponseFormat(&fields, &chat, &error);
  chat.sampling = ReadSampling(&fields, *call.app);
  chat.max_tokens = ReadMaxTokens(&fields, *call.app, {"max_completion_tokens", "max_tokens"});
  chat.stop = fields.Strings("stop", kMaxStops, kMaxStopBytes).value_or(std::vector<std::string>{});
  std::erase(chat.stop, "");
  chat.n = fields.Int("n", 1, kMaxChoices).value_or(1);
  const bool logprobs = fields.Bool("logprobs").value_or(false);
  const auto top = fields.Int("top_logprobs", 0, 20);
  if (top && *top > 0 && !logprobs) fields.Fail("top_logprobs", "needs 'logprobs': true", "invalid_value");
  if (logprobs) chat.top_logprobs = static_cast<int>(top.value_or(0));
  chat.ignore_eos = fields.Bool("ignore_eos").value_or(false);
  chat.stream = fields.Bool("stream").value_or(false);
  bool include_usage = false;
  if (const OrderedJson* options = fields.Object("stream_options")) {
    Fields inner(*options, "stream_options", &error);
    include_usage = inner.Bool("include_usage").value_or(false);
    if (!chat.stream) fields.Fail("stream_options", "needs 'stream': true", "invalid_value");
  }
  chat.continue_final = fields.Bool("continue_final_message").value_or(false);
  const auto adapter = fields.String("adapter", 1024);
  fields.Accept({"user", "metadata", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
                 "verbosity"});
  fields.Refuse("store", "nothing is stored here", false);
  fields.Refuse("functions", "use 'tools'", OrderedJson::array());
  fields.Refuse("function_call", "use 'tool_choice'", "none");
  fields.Refuse("modalities", "answers are text", OrderedJson::array({"text"}));
  fields.Refuse("audio", "answers are text");
  fields.Refuse("prediction", "drafts come from repetitions only");
  fields.Refuse("web_search_options", "there is no search here");
  if (error) return call.Fail(*error);
  if (auto e = call.app->FindModel(chat.model, &chat.adapter)) return call.Fail(*e);
  if (adapter) {
    std::string name;
    if (call.app->FindModel(*adapter, &name) || name.empty())
      return call.Fail(
          {400, fmt::format("'adapter' is '{}', which is not mounted", adapter->substr(0, 200)), "adapter", "invalid_value"});
    chat.adapter = name;
  }
  ChatPrompt prompt;
  if (auto e = PrepareChat(*call.app, &chat, &prompt)) return call.Fail(*e);
  TellIgnored(call, fields);
  StartChat(call, std::move(prompt), chat.n, chat.stream, "call_",
            std::make_unique<ChatCompletionWriter>(call.app, chat.model, logprobs, include_usage, chat.n));
}

}  // namespace optiq
