// POST /v1/responses (OpenAI's newer protocol). Nothing is stored: previous_response_id is refused.
#include "server/api.h"
#include "server/chat_run.h"
#include "server/sampling_fields.h"

namespace optiq {
namespace {

class ResponsesWriter : public ChatWriter {
 public:
  ResponsesWriter(OrderedJson head, bool show_reasoning) : head_(std::move(head)), show_reasoning_(show_reasoning) {}

  std::string Begin(const EngineUsage&) override {
    OrderedJson response = head_;
    response["status"] = "in_progress";
    std::string out = Event("response.created", {{"response", response}});
    return out += Event("response.in_progress", {{"response", response}});
  }

  std::string Events(size_t, const OutputEvents& events, std::span<const TokenLogprobs>,
                     const ChatAnswer& answer) override {
    std::string out;
    for (const OutputEvent& event : events) {
      if (event.kind == OutputEvent::kToolCall) {
        out += Close("completed");
        out += OpenCall(answer.calls[calls_++]);
        out += AddArguments(event.text);
      } else if (event.kind == OutputEvent::kToolArguments) {
        out += AddArguments(event.text);
      } else if (event.kind == OutputEvent::kContent || show_reasoning_) {
        out += Open(event.kind);
        text_ += event.text;
        OrderedJson data = Where();
        data["delta"] = event.text;
        if (kind_ == OutputEvent::kContent) data["logprobs"] = OrderedJson::array();
        out += Event(kind_ == OutputEvent::kContent ? "response.output_text.delta" : "response.reasoning_text.delta",
                     std::move(data));
      }
    }
    return out;
  }

  std::string Finish(size_t, const ChatAnswer& answer, std::span<const TokenLogprobs>) override {
    return Close(answer.ended_by_length ? "incomplete" : "completed");
  }

  std::string End(const std::vector<ChatAnswer>& answers) override {
    const OrderedJson response = Final(answers);
    return Event(answers[0].ended_by_length ? "response.incomplete" : "response.completed", {{"response", response}});
  }

  std::string Error(const ApiError& error, std::string_view) override {
    std::string out = Event("error", {{"code", error.code.empty() ? OrderedJson(nullptr) : OrderedJson(error.code)},
                                      {"message", error.message},
                                      {"param", nullptr}});
    OrderedJson response = head_;
    response["status"] = "failed";
    response["error"] = {{"code", "server_error"}, {"message", error.message}};
    return out + Event("response.failed", {{"response", std::move(response)}});
  }

  // Not streamed: the same items, made by the same steps.
  OrderedJson Body(const std::vector<ChatAnswer>& answers) override {
    const ChatAnswer& answer = answers[0];
    OutputEvents events;
    if (!answer.reasoning.empty()) events.push_back({OutputEvent::kReasoning, answer.reasoning, ""});
    if (!answer.content.empty()) events.push_back({OutputEvent::kContent, answer.content, ""});
    for (const ChatAnswer::Call& call : answer.calls)
      events.push_back({OutputEvent::kToolCall, call.arguments, call.name});
    Events(0, events, {}, answer);
    Finish(0, answer, {});
    return Final(answers);
  }

 private:
  std::string Event(const std::string& type, OrderedJson data) {
    OrderedJson event = {{"type", type}, {"sequence_number", sequence_++}};
    event.update(data);
    return fmt::format("event: {}\ndata: {}\n\n", type, Dump(event));
  }

  OrderedJson Where() const { return {{"item_id", item_id_}, {"output_index", output_.size()}, {"content_index", 0}}; }

  OrderedJson Part() const {
    if (kind_ == OutputEvent::kContent)
      return {{"type", "output_text"},
              {"text", text_},
              {"annotations", OrderedJson::array()},
              {"logprobs", OrderedJson::array()}};
    return {{"type", "reasoning_text"}, {"text", text_}};
  }
  OrderedJson Item(const std::string& status, bool with_part) const {
    OrderedJson content = OrderedJson::array();
    if (with_part) content.push_back(Part());
    if (kind_ == OutputEvent::kContent) {
      return {{"id", item_id_},
              {"type", "message"},
              {"status", status},
              {"role", "assistant"},
              {"content", std::move(content)}};
    }
    return {{"id", item_id_},
            {"type", "reasoning"},
            {"summary", OrderedJson::array()},
            {"content", std::move(content)},
            {"status", status}};
  }

  std::string Open(OutputEvent::Kind kind) {
    if (open_ && kind_ == kind) return "";
    std::string out = Close("completed");
    open_ = true;
    kind_ = kind;
    text_.clear();
    item_id_ = MakeId(kind == OutputEvent::kContent ? "msg_" : "rs_");
    out +=
        Event("response.output_item.added", {{"output_index", output_.size()}, {"item", Item("in_progress", false)}});
    OrderedJson data = Where();
    data["part"] = Part();
    return out + Event("response.content_part.added", std::move(data));
  }

  std::string Close(const std::string& status) {
    if (!open_) return "";
    open_ = false;
    if (kind_ == OutputEvent::kToolCall) return CloseCall();
    OrderedJson text = Where(), part = Where();
    text["text"] = text_;
    if (kind_ == OutputEvent::kContent) text["logprobs"] = OrderedJson::array();
    part["part"] = Part();
    std::string out = Event(
        kind_ == OutputEvent::kContent ? "response.output_text.done" : "response.reasoning_text.done", std::move(text));
    out += Event("response.content_part.done", std::move(part));
    const OrderedJson item = Item(status, true);
    out += Event("response.output_item.done", {{"output_index", output_.size()}, {"item", item}});
    output_.push_back(item);
    return out;
  }

  OrderedJson CallItem(const char* status) const {
    return {{"id", item_id_},        {"type", "function_call"}, {"status", status},
            {"call_id", call_id_}, {"name", call_name_},      {"arguments", text_}};
  }
  std::string OpenCall(const ChatAnswer::Call& call) {
    open_ = true;
    kind_ = OutputEvent::kToolCall;
    text_.clear();
    item_id_ = MakeId("fc_");
    call_id_ = call.id;
    call_name_ = call.name;
    return Event("response.output_item.added", {{"output_index", output_.size()}, {"item", CallItem("in_progress")}});
  }
  std::string AddArguments(const std::string& text) {
    if (text.empty()) return "";
    text_ += text;
    return Event("response.function_call_arguments.delta",
                 {{"item_id", item_id_}, {"output_index", output_.size()}, {"delta", text}});
  }
  // A call is whole when its arguments are, whatever the answer then ended by.
  std::string CloseCall() {
    const char* status = OrderedJson::accept(text_) ? "completed" : "incomplete";
    std::string out = Event(
        "response.function_call_arguments.done",
        {{"item_id", item_id_}, {"output_index", output_.size()}, {"name", call_name_}, {"arguments", text_}});
    OrderedJson item = CallItem(status);
    out += Event("response.output_item.done", {{"output_index", output_.size()}, {"item", item}});
    output_.push_back(std::move(item));
    return out;
  }

  OrderedJson Final(const std::vector<ChatAnswer>& answers) const {
    const ChatAnswer& answer = answers[0];
    OrderedJson response = head_;
    response["status"] = answer.ended_by_length ? "incomplete" : "completed";
    if (answer.ended_by_length) response["incomplete_details"] = {{"reason", "max_output_tokens"}};
    response["completed_at"] = UnixTime();
    response["output"] = output_;
    response["usage"] = {{"input_tokens", answer.usage.prompt_tokens},
                         {"input_tokens_details", {{"cached_tokens", answer.usage.cached_tokens}}},
                         {"output_tokens", answer.usage.completion_tokens},
                         {"output_tokens_details", {{"reasoning_tokens", answer.reasoning_tokens}}},
                         {"total_tokens", answer.usage.prompt_tokens + answer.usage.completion_tokens}};
    return response;
  }

  const OrderedJson head_;
  const bool show_reasoning_;
  int64_t sequence_ = 0;
  OrderedJson output_ = OrderedJson::array();
  bool open_ = false;
  OutputEvent::Kind kind_ = OutputEvent::kContent;
  std::string item_id_, text_, call_id_, call_name_;
  size_t calls_ = 0;
};

// Items of `input` to messages of OpenAI's chat shape, which ReadMessages then checks.
OrderedJson InputMessages(Fields* fields, const OrderedJson& input) {
  OrderedJson out = OrderedJson::array();
  if (input.is_string()) {
    out.push_back({{"role", "user"}, {"content", input}});
    return out;
  }
  if (!input.is_array()) {
    fields->Fail("input", "must be a string or an array of items", "invalid_type");
    return out;
  }
  for (size_t i = 0; i < input.size() && fields->ok(); ++i) {
    const OrderedJson& item = input[i];
    const std::string here = fmt::format("input[{}]", i);
    if (!item.is_object()) {
      fields->Fail(here, "must be an object", "invalid_type");
      break;
    }
    const std::string type =
        item.contains("type") && item["type"].is_string() ? item["type"].get<std::string>() : "message";
    const auto string_at = [&](const char* key) -> std::string {
      if (item.contains(key) && item[key].is_string()) return item[key].get<std::string>();
      fields->Fail(fmt::format("{}.{}", here, key), "must be a string", "invalid_type");
      return "";
    };
    if (type == "message") {
      OrderedJson message = OrderedJson::object();
      for (const char* key : {"role", "content"}) {
        if (item.contains(key)) message[key] = item[key];
      }
      out.push_back(std::move(message));
    } else if (type == "function_call") {
      const std::string id = string_at("call_id"), name = string_at("name"), arguments = string_at("arguments");
      OrderedJson call = {{"id", id}, {"type", "function"}, {"function", {{"name", name}, {"arguments", arguments}}}};
      if (out.empty() || out.back()["role"] != "assistant") out.push_back({{"role", "assistant"}, {"content", ""}});
      out.back()["tool_calls"].push_back(std::move(call));
    } else if (type == "function_call_output") {
      OrderedJson message = {{"role", "tool"}, {"tool_call_id", string_at("call_id")}};
      if (item.contains("output")) message["content"] = item["output"];
      out.push_back(std::move(message));
    } else if (type != "reasoning") {  // thoughts of earlier answers are not needed again
      fields->Fail(here + ".type", fmt::format("'{}' is not known here", type.substr(0, 40)), "unsupported_content");
    }
  }
  return out;
}

// Flat function tools; others (web search, files) are the service's own and are left out.
OrderedJson FlatTools(Fields* fields, OrderedJson* left_out) {
  OrderedJson out = OrderedJson::array();
  const OrderedJson* tools = fields->Array("tools", 128);
  for (const OrderedJson& tool : tools != nullptr ? *tools : OrderedJson::array()) {
    if (!tool.is_object() || !tool.contains("type") || !tool["type"].is_string()) {
      fields->Fail("tools", "must hold objects with a 'type'", "invalid_type");
      break;
    }
    if (tool["type"] != "function") {
      left_out->push_back(tool["type"]);
      continue;
    }
    OrderedJson function = OrderedJson::object();
    for (const char* key : {"name", "description", "parameters"}) {
      if (tool.contains(key) && !tool[key].is_null()) function[key] = tool[key];
    }
    out.push_back({{"type", "function"}, {"function", std::move(function)}});
  }
  return out;
}

}  // namespace

void HandleResponses(const Call& call) {
  OrderedJson body;
  if (const auto error = ParseBody(call.request(), &body)) return call.Fail(*error);
  std::optional<ApiError> error;
  Fields fields(body, "", &error);
  ChatCall chat;
  chat.prompt_param = "input";
  chat.model = ReadModel(&fields, *call.app);
  chat.template_args = ReadTemplateArgs(&fields, *call.app);
  OrderedJson messages = OrderedJson::array();
  const auto instructions = fields.String("instructions");
  if (const OrderedJson* input = fields.Any("input")) {
    messages = InputMessages(&fields, *input);
  } else {
    fields.Fail("input", "is missing", "missing_required_parameter");
  }
  if (instructions) messages.insert(messages.begin(), OrderedJson{{"role", "system"}, {"content", *instructions}});
  const OrderedJson wrapped_messages = {{"input", std::move(messages)}};
  Fields inner_messages(wrapped_messages, "", &error);
  chat.messages = ReadMessages(&inner_messages, "input");
  OrderedJson left_out = OrderedJson::array();
  const OrderedJson wrapped_tools = {{"tools", FlatTools(&fields, &left_out)}};
  Fields inner_tools(wrapped_tools, "", &error);
  chat.tools = ReadTools(&inner_tools, "tools");
  if (const OrderedJson* choice = fields.Any("tool_choice")) {
    if (*choice == "none") {
      chat.tool_choice = ToolChoice::kNone;
    } else if (*choice == "required") {
      chat.tool_choice = ToolChoice::kRequired;
    } else if (choice->is_object() && choice->contains("name") && (*choice)["name"].is_string()) {
      chat.tool_choice = ToolChoice::kNamed;
      chat.tool_name = (*choice)["name"].get<std::string>();
      bool known = false;
      for (const OrderedJson& tool : chat.tools.is_array() ? chat.tools : OrderedJson::array())
        known |= tool["function"]["name"] == chat.tool_name;
      if (!known) fields.Fail("tool_choice", "names a function that is not in 'tools'", "invalid_value");
    } else if (*choice != "auto") {
      fields.Fail("tool_choice", "must be none, auto, required or {\"type\": \"function\", \"name\": ..}",
                  "invalid_value");
    }
  }
  chat.parallel_tool_calls = fields.Bool("parallel_tool_calls").value_or(true);
  bool show_reasoning = true;
  if (const OrderedJson* reasoning = fields.Object("reasoning")) {
    Fields inner(*reasoning, "reasoning", &error);
    if (const auto effort = inner.OneOf("effort", {"none", "minimal", "low", "medium", "high", "xhigh"}))
      ApplyReasoningEffort(*effort, &chat.template_args);
    inner.Accept({"summary", "generate_summary"});
  }
  if (const OrderedJson* text = fields.Object("text")) {
    Fields inner(*text, "text", &error);
    inner.Accept({"verbosity"});
    if (const OrderedJson* format = inner.Object("format")) {
      Fields f(*format, "text.format", &error);
      const auto type = f.OneOf("type", {"text", "json_object", "json_schema"});
      if (!type) f.Fail("type", "is missing", "missing_required_parameter");
      if (type == "json_object") chat.format = {{"type", "json_object"}};
      if (type == "json_schema") {
        const OrderedJson* schema = f.Object("schema");
        if (schema == nullptr) {
          f.Fail("schema", "is missing", "missing_required_parameter");
        } else {
          chat.format = {{"type", "json_schema"}, {"schema", *schema}};
        }
      }
    }
  }
  chat.sampling = ReadSampling(&fields, *call.app);
  chat.max_tokens = ReadMaxTokens(&fields, *call.app, {"max_output_tokens"});
  chat.stream = fields.Bool("stream").value_or(false);
  fields.Accept({"user", "metadata", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
                 "stream_options", "include"});
  const auto truncation = fields.OneOf("truncation", {"disabled", "auto"});
  if (truncation == "auto")
    fields.Fail("truncation", "is not supported: nothing is left out of a prompt silently", "unsupported_parameter");
  fields.Refuse("store", "nothing is stored here; leave it out or send false", false);
  fields.Refuse("previous_response_id", "nothing is stored here; send the whole conversation");
  fields.Refuse("conversation", "nothing is stored here; send the whole conversation");
  fields.Refuse("background", "answers come at once", false);
  fields.Refuse("prompt", "there are no stored prompts");
  fields.Refuse("top_logprobs", "use /v1/chat/completions", 0);
  fields.Refuse("max_tool_calls", "tools are the client's to call");
  if (error) return call.Fail(*error);
  if (auto e = call.app->FindModel(chat.model, &chat.adapter)) return call.Fail(*e);
  ChatPrompt prompt;
  if (auto e = PrepareChat(*call.app, &chat, &prompt)) return call.Fail(*e);
  TellIgnored(call, fields);
  const auto or_default = [&body](const char* key, OrderedJson value) {
    return body.contains(key) && !body[key].is_null() ? body[key] : std::move(value);
  };
  if (!left_out.empty()) call.exchange->AddHeader("x-optiq-ignored-tools", std::to_string(left_out.size()));
  OrderedJson tools = or_default("tools", OrderedJson::array());
  for (OrderedJson& tool : tools) {
    if (!tool.is_object() || tool.value("type", "") != "function") continue;
    for (const char* key : {"description", "parameters", "strict"}) {  // the protocol has them in every answer
      if (!tool.contains(key)) tool[key] = nullptr;
    }
  }
  OrderedJson head = {{"id", MakeId("resp_")},
                      {"object", "response"},
                      {"created_at", UnixTime()},
                      {"completed_at", nullptr},
                      {"status", "in_progress"},
                      {"background", false},
                      {"error", nullptr},
                      {"incomplete_details", nullptr},
                      {"instructions", or_default("instructions", nullptr)},
                      {"max_output_tokens", or_default("max_output_tokens", nullptr)},
                      {"model", chat.model},
                      {"output", OrderedJson::array()},
                      {"parallel_tool_calls", chat.parallel_tool_calls},
                      {"previous_response_id", nullptr},
                      {"reasoning", or_default("reasoning", {{"effort", nullptr}, {"summary", nullptr}})},
                      {"store", false},
                      {"temperature", chat.sampling.temperature},
                      {"text", or_default("text", {{"format", {{"type", "text"}}}})},
                      {"tool_choice", or_default("tool_choice", "auto")},
                      {"tools", std::move(tools)},
                      {"top_p", chat.sampling.top_p > 0 ? chat.sampling.top_p : 1.0},
                      {"truncation", "disabled"},
                      {"usage", nullptr},
                      {"presence_penalty", chat.sampling.presence_penalty},
                      {"frequency_penalty", chat.sampling.frequency_penalty},
                      {"top_logprobs", 0},
                      {"max_tool_calls", nullptr},
                      {"service_tier", "default"},
                      {"safety_identifier", or_default("safety_identifier", nullptr)},
                      {"prompt_cache_key", or_default("prompt_cache_key", nullptr)},
                      {"user", or_default("user", nullptr)},
                      {"metadata", or_default("metadata", OrderedJson::object())}};
  StartChat(call, std::move(prompt), 1, chat.stream, "call_",
            std::make_unique<ResponsesWriter>(std::move(head), show_reasoning));
}

}  // namespace optiq
