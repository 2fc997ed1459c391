#include "server/chat_call.h"

#include <algorithm>

#include "server/constraint.h"
#include "server/sampling_fields.h"
#include "text/ordered_json.h"

namespace optiq {
namespace {

// A string, or an array of parts of which only text is known.
std::string ReadContent(Fields* fields, const OrderedJson& content, const std::string& path) {
  if (content.is_string()) return content.get<std::string>();
  std::string text;
  if (!content.is_array()) {
    fields->Fail(path, "must be a string or an array of parts", "invalid_type");
    return text;
  }
  for (size_t i = 0; i < content.size() && fields->ok(); ++i) {
    const OrderedJson& part = content[i];
    const std::string here = fmt::format("{}[{}]", path, i);
    if (!part.is_object() || !part.contains("type") || !part["type"].is_string()) {
      fields->Fail(here, "must be an object with a 'type'", "invalid_type");
      break;
    }
    const std::string type = part["type"].get<std::string>();
    if (type != "text" && type != "input_text" && type != "output_text" && type != "refusal") {
      fields->Fail(here, fmt::format("has the type '{}'; this model reads text only", type.substr(0, 40)),
                   "unsupported_content");
      break;
    }
    const char* key = type == "refusal" ? "refusal" : "text";
    if (!part.contains(key) || !part[key].is_string()) {
      fields->Fail(here + "." + key, "must be a string", "invalid_type");
      break;
    }
    text += part[key].get_ref<const std::string&>();
  }
  return text;
}

OrderedJson ReadCalls(Fields* fields, const OrderedJson& calls, const std::string& path) {
  OrderedJson out = OrderedJson::array();
  if (!calls.is_array() || calls.size() > 128) {
    fields->Fail(path, "must be an array of at most 128 calls", "invalid_type");
    return out;
  }
  for (size_t i = 0; i < calls.size() && fields->ok(); ++i) {
    const std::string here = fmt::format("{}[{}].function", path, i);
    const OrderedJson& call = calls[i];
    if (!call.is_object() || !call.contains("function") || !call["function"].is_object() ||
        !call["function"].contains("name") || !call["function"]["name"].is_string()) {
      fields->Fail(here, "must be an object with a 'name'", "invalid_type");
      break;
    }
    OrderedJson arguments = OrderedJson::object();
    if (call["function"].contains("arguments")) {
      const OrderedJson& given = call["function"]["arguments"];
      if (given.is_object()) {
        arguments = given;
      } else if (given.is_string()) {
        // Templates print the arguments as an object.
        const auto& text = given.get_ref<const std::string&>();
        StatusOr<OrderedJson> parsed = ParseOrderedJson(text.empty() ? "{}" : text, "arguments");
        if (!parsed.ok() || !parsed->is_object()) {
          fields->Fail(here + ".arguments", "must be the JSON of an object", "invalid_value");
          break;
        }
        arguments = *std::move(parsed);
      } else {
        fields->Fail(here + ".arguments", "must be a string", "invalid_type");
        break;
      }
    }
    OrderedJson entry = {{"type", "function"},
                         {"function", {{"name", call["function"]["name"]}, {"arguments", arguments}}}};
    if (call.contains("id") && call["id"].is_string()) entry["id"] = call["id"];
    out.push_back(std::move(entry));
  }
  return out;
}


}  // namespace

OrderedJson ReadMessages(Fields* fields, const char* name) {
  OrderedJson out = OrderedJson::array();
  if (!fields->Has(name)) fields->Fail(name, "is missing", "missing_required_parameter");
  const OrderedJson* messages = fields->Array(name, 100'000);
  if (messages == nullptr) return out;
  if (messages->empty()) fields->Fail(name, "is empty; at least one message is needed", "invalid_value");
  for (size_t i = 0; i < messages->size() && fields->ok(); ++i) {
    const OrderedJson& message = (*messages)[i];
    const std::string here = fmt::format("{}[{}]", name, i);
    if (!message.is_object()) {
      fields->Fail(here, "must be an object", "invalid_type");
      break;
    }
    if (!message.contains("role") || !message["role"].is_string()) {
      fields->Fail(here + ".role", "must be a string", "invalid_type");
      break;
    }
    const std::string role = message["role"].get<std::string>();
    if (role != "system" && role != "developer" && role != "user" && role != "assistant" && role != "tool") {
      fields->Fail(here + ".role", "must be one of system, developer, user, assistant, tool", "invalid_value");
      break;
    }
    OrderedJson entry = {{"role", role}};
    const bool calls = role == "assistant" && message.contains("tool_calls") && !message["tool_calls"].is_null() &&
                       !message["tool_calls"].empty();
    if (message.contains("content") && !message["content"].is_null()) {
      entry["content"] = ReadContent(fields, message["content"], here + ".content");
    } else if (calls || role == "assistant") {
      entry["content"] = "";
    } else {
      fields->Fail(here + ".content", "is missing", "missing_required_parameter");
      break;
    }
    for (const char* key : {"reasoning_content", "reasoning"}) {
      if (role != "assistant" || !message.contains(key) || message[key].is_null() ||
          entry.contains("reasoning_content"))
        continue;
      if (!message[key].is_string()) {
        fields->Fail(here + "." + key, "must be a string", "invalid_type");
        break;
      }
      entry["reasoning_content"] = message[key];
    }
    if (calls) entry["tool_calls"] = ReadCalls(fields, message["tool_calls"], here + ".tool_calls");
    for (const char* key : {"name", "tool_call_id"}) {
      if (!message.contains(key) || message[key].is_null()) continue;
      if (!message[key].is_string()) {
        fields->Fail(here + "." + key, "must be a string", "invalid_type");
        break;
      }
      entry[key] = message[key];
    }
    out.push_back(std::move(entry));
  }
  return out;
}

OrderedJson ReadTools(Fields* fields, const char* name) {
  const OrderedJson* tools = fields->Array(name, 128);
  if (tools == nullptr || tools->empty()) return nullptr;
  for (size_t i = 0; i < tools->size() && fields->ok(); ++i) {
    const OrderedJson& tool = (*tools)[i];
    const std::string here = fmt::format("{}[{}]", name, i);
    if (!tool.is_object() || !tool.contains("type") || tool["type"] != "function") {
      fields->Fail(here + ".type", "must be 'function'", "invalid_value");
      break;
    }
    if (!tool.contains("function") || !tool["function"].is_object()) {
      fields->Fail(here + ".function", "must be an object", "invalid_type");
      break;
    }
    const OrderedJson& f = tool["function"];
    const bool named = f.contains("name") && f["name"].is_string();
    const std::string tool_name = named ? f["name"].get<std::string>() : "";
    const bool fine = !tool_name.empty() && tool_name.size() <= 64 &&
                      std::all_of(tool_name.begin(), tool_name.end(), [](unsigned char c) {
                        return std::isalnum(c) || c == '_' || c == '-' || c == '.' || c == ':' || c == '/';
                      });
    if (!fine) {
      fields->Fail(here + ".function.name", "must be 1 to 64 letters, digits, underscores or dashes", "invalid_value");
      break;
    }
    if (f.contains("parameters") && !f["parameters"].is_null() && !f["parameters"].is_object()) {
      fields->Fail(here + ".function.parameters", "must be an object", "invalid_type");
      break;
    }
    if (f.contains("description") && !f["description"].is_null() && !f["description"].is_string()) {
      fields->Fail(here + ".function.description", "must be a string", "invalid_type");
      break;
    }
  }
  return *tools;
}

OrderedJson ReadTemplateArgs(Fields* fields, const App& app) {
  OrderedJson args = app.options.template_args;
  if (const OrderedJson* given = fields->Object("chat_template_kwargs")) {
    for (const auto& [name, value] : given->items()) {
      if (name == "messages" || name == "tools" || name == "add_generation_prompt") {
        fields->Fail("chat_template_kwargs", fmt::format("may not hold '{}'", name), "invalid_value");
        break;
      }
      args[name] = value;
    }
  }
  return args;
}

void ApplyReasoningEffort(const std::string& effort, OrderedJson* args) {
  (*args)["reasoning_effort"] = effort;
  if (!args->contains("enable_thinking")) (*args)["enable_thinking"] = effort != "none" && effort != "minimal";
}

std::optional<ApiError> PrepareChat(const App& app, ChatCall* call, ChatPrompt* prompt) {
  if (!app.chat_template)
    return ApiError{400, "the model has no chat template; use /v1/completions", "", "no_chat_template"};
  const bool tools = call->tools.is_array() && call->tool_choice != ToolChoice::kNone;
  const bool forced = call->tool_choice == ToolChoice::kRequired || call->tool_choice == ToolChoice::kNamed;
  if (forced && !call->tools.is_array())
    return ApiError{400, "'tool_choice' asks for a tool, but there are no tools", "tool_choice", "invalid_value"};
  if (tools && !forced && !app.chat_template->Uses("tools")) {
    return ApiError{400, "'tools' cannot be used: the model's chat template has no place for them", "tools",
                    "unsupported_parameter"};
  }
  // Templates of the older kind know "system" only.
  if (app.chat_template->source().find("developer") == std::string::npos) {
    for (OrderedJson& message : call->messages) {
      if (message["role"] == "developer") message["role"] = "system";
    }
  }
  RenderOptions render;
  if (tools) render.tools = call->tools;
  render.extra = call->template_args;
  render.add_generation_prompt = !call->continue_final;
  render.continue_final_message = call->continue_final;
  StatusOr<std::vector<int32_t>> ids = EncodeChat(*app.chat_template, *app.tokenizer, call->messages, render);
  if (!ids.ok()) {
    ApiError error = ToApiError(ids.status());
    if (error.status == 400 || ids.status().code() == absl::StatusCode::kResourceExhausted)
      error = {400, error.message, call->prompt_param, "template_error"};
    return error;
  }
  if (ids->empty()) return ApiError{400, "the prompt is empty", call->prompt_param, "invalid_value"};
  if (auto error = FitContext(app, ids->size(), call->prompt_param, &call->max_tokens)) return error;

  OutputParserOptions& parser = prompt->parser;
  parser.format = app.format;
  if (tools) parser.tools = call->tools;
  parser.parallel_tool_calls = call->parallel_tool_calls;
  parser.start_in_reasoning = !call->continue_final && EndsInThought(app.format, *app.tokenizer, *ids);

  EngineRequest& request = prompt->request;
  request.prompt = *std::move(ids);
  request.max_tokens = call->max_tokens;
  request.sampling = call->sampling;
  request.stop = call->stop;
  request.stop_scope = {.open = app.format.think_open,
                        .close = app.format.think_close,
                        .inside = parser.start_in_reasoning,
                        .anywhere = app.format.think_anywhere};
  request.ignore_eos = call->ignore_eos;
  request.top_logprobs = call->top_logprobs;
  request.adapter = call->adapter;
  request.keep_special = app.format.keep_special && (tools || !app.format.think_open.empty());
  if (forced || !call->format.is_null()) return MakeConstraint(app, *call, prompt);
  return std::nullopt;
}

}  // namespace optiq
