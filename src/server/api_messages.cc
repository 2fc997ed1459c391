// POST /v1/messages and /v1/messages/count_tokens (Anthropic's protocol).
#include "server/api.h"
#include "server/chat_run.h"
#include "server/sampling_fields.h"
#include "text/ordered_json.h"

namespace optiq {
namespace {

std::string Event(const char* type, OrderedJson data) {
  return fmt::format("event: {}\ndata: {}\n\n", type, Dump(data));
}

// A signature must be there; thoughts are not checked when they come back.
constexpr char kSignature[] = "optiq";

class MessagesWriter : public ChatWriter {
 public:
  MessagesWriter(const App* app, std::string model, bool show_thinking)
      : app_(app), model_(std::move(model)), show_thinking_(show_thinking) {}

  Protocol protocol() const override { return Protocol::kAnthropic; }
  std::string Heartbeat() const override { return Event("ping", {{"type", "ping"}}); }

  std::string Begin(const EngineUsage& prompt) override {
    OrderedJson message = Head();
    message["stop_reason"] = message["stop_sequence"] = nullptr;
    message["usage"] = Usage(prompt, 0);
    return Event("message_start", {{"type", "message_start"}, {"message", std::move(message)}}) + Heartbeat();
  }

  std::string Events(size_t, const OutputEvents& events, std::span<const TokenLogprobs>,
                     const ChatAnswer& answer) override {
    std::string out;
    for (const OutputEvent& event : events) {
      switch (event.kind) {
        case OutputEvent::kReasoning:
          if (!show_thinking_) break;
          out += Open(OutputEvent::kReasoning, {{"type", "thinking"}, {"thinking", ""}, {"signature", ""}});
          out += Delta({{"type", "thinking_delta"}, {"thinking", event.text}});
          break;
        case OutputEvent::kContent:
          out += Open(OutputEvent::kContent, Text(""));
          out += Delta({{"type", "text_delta"}, {"text", event.text}});
          break;
        case OutputEvent::kToolCall: {
          out += Close();
          const ChatAnswer::Call& call = answer.calls[calls_++];
          out += Open(OutputEvent::kToolCall, ToolUse(call, OrderedJson::object()));
          if (!event.text.empty()) out += Delta({{"type", "input_json_delta"}, {"partial_json", event.text}});
          break;
        }
        case OutputEvent::kToolArguments:
          out += Delta({{"type", "input_json_delta"}, {"partial_json", event.text}});
          break;
      }
    }
    return out;
  }

  std::string Finish(size_t, const ChatAnswer& answer, std::span<const TokenLogprobs>) override {
    std::string out = Close();
    if (index_ == 0) {  // clients expect at least one block
      out += Open(OutputEvent::kContent, Text(""));
      out += Close();
    }
    out += Event("message_delta",
                 {{"type", "message_delta"},
                  {"delta", {{"stop_reason", StopReason(answer)}, {"stop_sequence", StopSequence(answer)}}},
                  {"usage", Usage(answer.usage, answer.reasoning_tokens)}});
    return out;
  }
  std::string End(const std::vector<ChatAnswer>&) override { return Event("message_stop", {{"type", "message_stop"}}); }
  std::string Error(const ApiError& error, std::string_view id) override {
    return Event("error", ErrorJson(error, Protocol::kAnthropic, id));
  }

  OrderedJson Body(const std::vector<ChatAnswer>& answers) override {
    const ChatAnswer& answer = answers[0];
    OrderedJson message = Head();
    OrderedJson& content = message["content"];
    if (show_thinking_ && !answer.reasoning.empty()) {
      content.push_back({{"type", "thinking"}, {"thinking", answer.reasoning}, {"signature", kSignature}});
    }
    if (!answer.content.empty() || answer.calls.empty()) content.push_back(Text(answer.content));
    for (const ChatAnswer::Call& call : answer.calls) {
      StatusOr<OrderedJson> input = ParseOrderedJson(call.arguments, "arguments");
      content.push_back(ToolUse(call, input.ok() ? *input : OrderedJson::object()));
    }
    message["stop_reason"] = StopReason(answer);
    message["stop_sequence"] = StopSequence(answer);
    message["usage"] = Usage(answer.usage, answer.reasoning_tokens);
    return message;
  }

 private:
  std::string StopReason(const ChatAnswer& answer) const {
    if (answer.called()) return "tool_use";
    if (answer.ended_by_length) {
      const int64_t used = answer.usage.prompt_tokens + answer.usage.completion_tokens;
      return used >= app_->engine->options().context_length ? "model_context_window_exceeded" : "max_tokens";
    }
    return answer.stop.empty() ? "end_turn" : "stop_sequence";
  }
  static OrderedJson StopSequence(const ChatAnswer& answer) {
    return answer.stop.empty() || answer.called() ? OrderedJson(nullptr) : OrderedJson(answer.stop);
  }
  static OrderedJson Usage(const EngineUsage& usage, int64_t thinking_tokens) {
    return {{"input_tokens", usage.prompt_tokens - usage.cached_tokens},
            {"cache_creation_input_tokens", 0},
            {"cache_read_input_tokens", usage.cached_tokens},
            {"cache_creation", {{"ephemeral_1h_input_tokens", 0}, {"ephemeral_5m_input_tokens", 0}}},
            {"output_tokens", usage.completion_tokens},
            {"output_tokens_details", {{"thinking_tokens", thinking_tokens}}},
            {"server_tool_use", nullptr},
            {"service_tier", "standard"},
            {"inference_geo", nullptr}};
  }
  OrderedJson Head() const {
    return {{"id", id_},
            {"type", "message"},
            {"role", "assistant"},
            {"model", model_},
            {"content", OrderedJson::array()},
            {"stop_details", nullptr},
            {"container", nullptr}};
  }
  static OrderedJson Text(const std::string& text) {
    return {{"type", "text"}, {"text", text}, {"citations", nullptr}};
  }
  static OrderedJson ToolUse(const ChatAnswer::Call& call, OrderedJson input) {
    return {{"type", "tool_use"},
            {"id", call.id},
            {"name", call.name},
            {"input", std::move(input)},
            {"caller", {{"type", "direct"}}}};
  }
  std::string Open(OutputEvent::Kind kind, OrderedJson block) {
    if (open_ && kind_ == kind) return "";
    std::string out = Close();
    open_ = true;
    kind_ = kind;
    return out + Event("content_block_start",
                       {{"type", "content_block_start"}, {"index", index_}, {"content_block", std::move(block)}});
  }
  std::string Delta(OrderedJson delta) const {
    return Event("content_block_delta",
                 {{"type", "content_block_delta"}, {"index", index_}, {"delta", std::move(delta)}});
  }
  std::string Close() {
    if (!open_) return "";
    std::string out;
    if (kind_ == OutputEvent::kReasoning) out = Delta({{"type", "signature_delta"}, {"signature", kSignature}});
    open_ = false;
    return out + Event("content_block_stop", {{"type", "content_block_stop"}, {"index", index_++}});
  }

  const App* app_;
  const std::string id_ = MakeId("msg_");
  const std::string model_;
  const bool show_thinking_;
  bool open_ = false;
  OutputEvent::Kind kind_ = OutputEvent::kContent;
  size_t index_ = 0, calls_ = 0;
};

// A string or blocks of text.
std::string ReadText(Fields* fields, const OrderedJson& json, const std::string& path) {
  if (json.is_string()) return json.get<std::string>();
  std::string text;
  if (!json.is_array()) {
    fields->Fail(path, "must be a string or an array of blocks", "invalid_type");
    return text;
  }
  for (size_t i = 0; i < json.size() && fields->ok(); ++i) {
    const OrderedJson& block = json[i];
    const std::string here = fmt::format("{}[{}]", path, i);
    const std::string type = block.is_object() && block.contains("type") && block["type"].is_string()
                                 ? block["type"].get<std::string>()
                                 : "";
    if (type != "text") {
      fields->Fail(here, "must be a text block; this model reads text only", "unsupported_content");
    } else if (!block.contains("text") || !block["text"].is_string()) {
      fields->Fail(here + ".text", "must be a string", "invalid_type");
    } else {
      if (!text.empty()) text += '\n';
      text += block["text"].get_ref<const std::string&>();
    }
  }
  return text;
}

// One message's blocks to messages of OpenAI's shape.
void ReadBlocks(Fields* fields, const std::string& role, const OrderedJson& blocks, const std::string& path,
                OrderedJson* messages) {
  std::string text, reasoning;
  OrderedJson calls = OrderedJson::array(), results = OrderedJson::array();
  for (size_t i = 0; i < blocks.size() && fields->ok(); ++i) {
    const OrderedJson& block = blocks[i];
    const std::string here = fmt::format("{}[{}]", path, i);
    const std::string type = block.is_object() && block.contains("type") && block["type"].is_string()
                                 ? block["type"].get<std::string>()
                                 : "";
    const auto string_at = [&](const char* key) -> std::string {
      if (block.contains(key) && block[key].is_string()) return block[key].get<std::string>();
      fields->Fail(fmt::format("{}.{}", here, key), "must be a string", "invalid_type");
      return "";
    };
    if (type == "text") {
      text += string_at("text");
    } else if (type == "thinking" && role == "assistant") {
      reasoning += string_at("thinking");
    } else if (type == "redacted_thinking" && role == "assistant") {
      continue;
    } else if (type == "tool_use" && role == "assistant") {
      OrderedJson input = block.contains("input") ? block["input"] : OrderedJson::object();
      if (!input.is_object()) fields->Fail(here + ".input", "must be an object", "invalid_type");
      const std::string id = string_at("id"), name = string_at("name");
      calls.push_back(
          {{"id", id}, {"type", "function"}, {"function", {{"name", name}, {"arguments", std::move(input)}}}});
    } else if (type == "tool_result" && role == "user") {
      const std::string id = string_at("tool_use_id");
      std::string content = block.contains("content") && !block["content"].is_null()
                                ? ReadText(fields, block["content"], here + ".content")
                                : "";
      if (block.contains("is_error") && block["is_error"] == true) content = "Error: " + content;
      results.push_back({{"role", "tool"}, {"content", std::move(content)}, {"tool_call_id", id}});
    } else {
      fields->Fail(here,
                   fmt::format("has the type '{}', which a {} message cannot have here; this model reads text only",
                               type.substr(0, 40), role),
                   "unsupported_content");
    }
  }
  for (OrderedJson& result : results) messages->push_back(std::move(result));
  if (role == "user" && text.empty() && !results.empty()) return;
  OrderedJson message = {{"role", role}, {"content", text}};
  if (!reasoning.empty()) message["reasoning_content"] = reasoning;
  if (!calls.empty()) message["tool_calls"] = std::move(calls);
  messages->push_back(std::move(message));
}

void ReadMessagesAndSystem(Fields* fields, ChatCall* chat) {
  if (const OrderedJson* system = fields->Any("system")) {
    const std::string text = ReadText(fields, *system, "system");
    if (!text.empty()) chat->messages.push_back({{"role", "system"}, {"content", text}});
  }
  if (!fields->Has("messages")) return fields->Fail("messages", "is missing");
  const OrderedJson* messages = fields->Array("messages", 100'000);
  if (messages == nullptr) return;
  if (messages->empty()) return fields->Fail("messages", "is empty; at least one message is needed");
  for (size_t i = 0; i < messages->size() && fields->ok(); ++i) {
    const OrderedJson& message = (*messages)[i];
    const std::string here = fmt::format("messages[{}]", i);
    if (!message.is_object() || !message.contains("role") ||
        !(message["role"] == "user" || message["role"] == "assistant" || message["role"] == "system")) {
      return fields->Fail(here + ".role", "must be user or assistant");
    }
    const std::string role = message["role"].get<std::string>();
    if (!message.contains("content")) return fields->Fail(here + ".content", "is missing");
    if (message["content"].is_string()) {
      chat->messages.push_back({{"role", role}, {"content", message["content"]}});
    } else if (message["content"].is_array()) {
      ReadBlocks(fields, role, message["content"], here + ".content", &chat->messages);
    } else {
      return fields->Fail(here + ".content", "must be a string or an array of blocks");
    }
  }
  // An answer that has begun is continued.
  chat->continue_final =
      fields->ok() && chat->messages.back()["role"] == "assistant" && !chat->messages.back().contains("tool_calls");
}

void ReadAnthropicTools(Fields* fields, ChatCall* chat, std::optional<ApiError>* error) {
  const OrderedJson* tools = fields->Array("tools", 128);
  if (tools != nullptr && !tools->empty()) {
    OrderedJson list = OrderedJson::array();
    for (size_t i = 0; i < tools->size() && fields->ok(); ++i) {
      const std::string here = fmt::format("tools[{}]", i);
      Fields tool((*tools)[i], here, error);
      const std::string type = tool.String("type").value_or("custom");
      if (type != "custom")
        tool.Fail("type", fmt::format("is '{}'; only tools of the client can be used", type.substr(0, 40)));
      const std::string name = tool.Require("name");
      const std::string description = tool.String("description").value_or("");
      const OrderedJson* schema = tool.Object("input_schema");
      if (schema == nullptr) tool.Fail("input_schema", "is missing");
      if (!fields->ok()) return;
      list.push_back({{"type", "function"},
                      {"function", {{"name", name}, {"description", description}, {"parameters", *schema}}}});
    }
    const OrderedJson wrapped = {{"tools", std::move(list)}};
    Fields inner(wrapped, "", error);
    chat->tools = ReadTools(&inner, "tools");
  }
  const OrderedJson* choice = fields->Object("tool_choice");
  if (choice == nullptr) return;
  Fields inner(*choice, "tool_choice", error);
  const auto type = inner.OneOf("type", {"auto", "any", "tool", "none"});
  if (!type) return inner.Fail("type", "is missing");
  if (*type == "none") chat->tool_choice = ToolChoice::kNone;
  if (*type == "any") chat->tool_choice = ToolChoice::kRequired;
  if (*type == "tool") {
    chat->tool_choice = ToolChoice::kNamed;
    chat->tool_name = inner.Require("name");
    bool known = false;
    for (const OrderedJson& tool : chat->tools.is_array() ? chat->tools : OrderedJson::array())
      known |= tool["function"]["name"] == chat->tool_name;
    if (!known) inner.Fail("name", "is not in 'tools'");
  }
  chat->parallel_tool_calls = !inner.Bool("disable_parallel_tool_use").value_or(false);
}

// Reads what both endpoints share; answers errors itself.
bool ReadCommon(const Call& call, Fields* fields, std::optional<ApiError>* error, ChatCall* chat) {
  chat->model = ReadModel(fields, *call.app);
  chat->template_args = ReadTemplateArgs(fields, *call.app);
  ReadMessagesAndSystem(fields, chat);
  ReadAnthropicTools(fields, chat, error);
  if (const OrderedJson* thinking = fields->Object("thinking")) {
    Fields inner(*thinking, "thinking", error);
    const auto type = inner.OneOf("type", {"enabled", "disabled", "adaptive"});
    inner.Int("budget_tokens", 1, int64_t{1} << 40);
    inner.Accept({"display"});
    if (!type) inner.Fail("type", "is missing");
    if (type && !chat->template_args.contains("enable_thinking"))
      chat->template_args["enable_thinking"] = *type != "disabled";
  }
  return fields->ok();
}

}  // namespace

void HandleMessages(const Call& call) {
  OrderedJson body;
  if (const auto error = ParseBody(call.request(), &body)) return call.Fail(*error, Protocol::kAnthropic);
  std::optional<ApiError> error;
  Fields fields(body, "", &error);
  ChatCall chat;
  ReadCommon(call, &fields, &error, &chat);
  if (!fields.Has("max_tokens")) fields.Fail("max_tokens", "is missing");
  chat.max_tokens = ReadMaxTokens(&fields, *call.app, {"max_tokens"});
  chat.sampling = ReadSampling(&fields, *call.app);
  chat.stop = fields.Strings("stop_sequences", kMaxStops, kMaxStopBytes).value_or(std::vector<std::string>{});
  std::erase(chat.stop, "");
  chat.stream = fields.Bool("stream").value_or(false);
  if (const OrderedJson* config = fields.Object("output_config")) {
    Fields inner(*config, "output_config", &error);
    if (const auto effort = inner.OneOf("effort", {"low", "medium", "high", "xhigh", "max"}))
      chat.template_args["reasoning_effort"] = *effort;
    if (const OrderedJson* format = inner.Object("format")) {
      Fields schema(*format, "output_config.format", &error);
      schema.OneOf("type", {"json_schema"});
      const OrderedJson* text = schema.Object("schema");
      if (text == nullptr) schema.Fail("schema", "is missing");
      if (text != nullptr) chat.format = {{"type", "json_schema"}, {"schema", *text}};
    }
  }
  fields.Accept({"metadata", "service_tier", "cache_control", "context_management", "inference_geo", "speed"});
  fields.Refuse("container", "there is no code execution here");
  fields.Refuse("mcp_servers", "servers of tools are the client's to call", OrderedJson::array());
  if (error) return call.Fail(*error, Protocol::kAnthropic);
  if (auto e = call.app->FindModel(chat.model, &chat.adapter, true)) return call.Fail(*e, Protocol::kAnthropic);
  ChatPrompt prompt;
  if (auto e = PrepareChat(*call.app, &chat, &prompt)) return call.Fail(*e, Protocol::kAnthropic);
  const bool thinking =
      !body.contains("thinking") || !body["thinking"].is_object() || body["thinking"].value("type", "") != "disabled";
  TellIgnored(call, fields);
  StartChat(call, std::move(prompt), 1, chat.stream, "toolu_",
            std::make_unique<MessagesWriter>(call.app, chat.model, thinking));
}

void HandleCountTokens(const Call& call) {
  OrderedJson body;
  if (const auto error = ParseBody(call.request(), &body)) return call.Fail(*error, Protocol::kAnthropic);
  std::optional<ApiError> error;
  Fields fields(body, "", &error);
  ChatCall chat;
  ReadCommon(call, &fields, &error, &chat);
  if (error) return call.Fail(*error, Protocol::kAnthropic);
  if (auto e = call.app->FindModel(chat.model, &chat.adapter, true)) return call.Fail(*e, Protocol::kAnthropic);
  const App& app = *call.app;
  if (!app.chat_template)
    return call.Fail({400, "the model has no chat template", "", "no_chat_template"}, Protocol::kAnthropic);
  RenderOptions render;
  render.extra = chat.template_args;
  if (chat.tool_choice != ToolChoice::kNone) render.tools = chat.tools;
  render.add_generation_prompt = !chat.continue_final;
  render.continue_final_message = chat.continue_final;
  StatusOr<std::vector<int32_t>> ids = EncodeChat(*app.chat_template, *app.tokenizer, chat.messages, render);
  if (!ids.ok()) return call.Fail({400, Message(ids.status()), "messages", "template_error"}, Protocol::kAnthropic);
  call.Reply(JsonResponse({{"input_tokens", ids->size()}}));
}

}  // namespace optiq
