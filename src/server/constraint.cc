#include "server/constraint.h"

#include <algorithm>
#include <limits>

#include "text/grammar.h"

namespace optiq {
namespace {

// Lets a thought pass that the prompt has opened, then holds the answer to the grammar.
class AnswerConstraint : public TokenConstraint {
 public:
  AnswerConstraint(GrammarMatcher matcher, const App& app, bool thinking)
      : matcher_(std::move(matcher)),
        tokenizer_(app.tokenizer),
        end_ids_(app.end_ids),
        think_close_(app.format.think_close),
        thinking_(thinking) {}

  Status Mask(std::span<float> logits) override {
    if (!thinking_) return matcher_.Mask(logits);
    // An end of text inside the thought would leave no answer.
    for (const int32_t id : end_ids_) {
      if (id >= 0 && static_cast<size_t>(id) < logits.size()) logits[id] = -std::numeric_limits<float>::infinity();
    }
    return OkStatus();
  }

  Status Accept(int32_t id) override {
    if (thinking_) {
      text_ += tokenizer_->TokenText(id).value_or("");
      if (text_.find(think_close_) != std::string::npos) thinking_ = false;
      if (text_.size() > 2 * think_close_.size() + 64) text_.erase(0, text_.size() - think_close_.size() - 32);
      return OkStatus();
    }
    if (matcher_.done() || std::find(end_ids_.begin(), end_ids_.end(), id) != end_ids_.end()) return OkStatus();
    return matcher_.Accept(id);
  }

  bool done() const override { return !thinking_ && matcher_.done(); }

 private:
  GrammarMatcher matcher_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::vector<int32_t> end_ids_;
  std::string think_close_, text_;
  bool thinking_;
};

// Small models run off in blanks where a grammar lets them: the layout is fixed.
OrderedJson FixedLayout(OrderedJson schema) {
  OrderedJson guidance =
      schema.contains("x-guidance") && schema["x-guidance"].is_object() ? schema["x-guidance"] : OrderedJson::object();
  guidance.erase("whitespace_pattern");
  guidance["whitespace_flexible"] = false;
  guidance["item_separator"] = ", ";
  guidance["key_separator"] = ": ";
  schema["x-guidance"] = std::move(guidance);
  return schema;
}

// A tool's schema becomes part of a larger one: its definitions move to the top under names of their own, and
// references follow.
void MoveReferences(OrderedJson* schema, const std::string& prefix) {
  if (schema->is_array()) {
    for (OrderedJson& item : *schema) MoveReferences(&item, prefix);
  }
  if (!schema->is_object()) return;
  for (auto& [key, value] : schema->items()) {
    if (key == "$ref" && value.is_string()) {
      const std::string ref = value.get<std::string>();
      for (const std::string_view start : {"#/$defs/", "#/definitions/"}) {
        if (ref.starts_with(start)) value = "#/$defs/" + prefix + ref.substr(start.size());
      }
    } else {
      MoveReferences(&value, prefix);
    }
  }
}

// A forced call is written as {"name": .., "arguments": {..}}.
OrderedJson CallSchema(const ChatCall& call) {
  OrderedJson any = OrderedJson::array(), definitions = OrderedJson::object();
  for (const OrderedJson& tool : call.tools) {
    const OrderedJson& function = tool["function"];
    if (call.tool_choice == ToolChoice::kNamed && function["name"] != call.tool_name) continue;
    OrderedJson parameters =
        function.contains("parameters") && function["parameters"].is_object() && !function["parameters"].empty()
            ? function["parameters"]
            : OrderedJson{{"type", "object"}};
    const std::string prefix = fmt::format("tool{}_", any.size());
    MoveReferences(&parameters, prefix);
    for (const char* key : {"$defs", "definitions"}) {
      if (!parameters.contains(key) || !parameters[key].is_object()) continue;
      for (auto& [name, value] : parameters[key].items()) definitions[prefix + name] = value;
      parameters.erase(key);
    }
    any.push_back({{"type", "object"},
                   {"properties", {{"name", {{"const", function["name"]}}}, {"arguments", std::move(parameters)}}},
                   {"required", OrderedJson::array({"name", "arguments"})},
                   {"additionalProperties", false}});
  }
  OrderedJson schema = any.size() == 1 ? any[0] : OrderedJson{{"anyOf", any}};
  if (!definitions.empty()) schema["$defs"] = std::move(definitions);
  return schema;
}

}  // namespace

std::optional<ApiError> MakeConstraint(const App& app, const ChatCall& call, ChatPrompt* prompt) {
  const bool forced = call.tool_choice == ToolChoice::kRequired || call.tool_choice == ToolChoice::kNamed;
  const char* param = forced ? "tools" : "response_format";
  OrderedJson schema = {{"type", "object"}};
  if (forced) {
    schema = CallSchema(call);
  } else if (call.format.contains("schema")) {
    schema = call.format["schema"];
  }
  StatusOr<std::shared_ptr<const Grammar>> grammar = app.GetGrammar();
  if (!grammar.ok()) return ApiError{400, Message(grammar.status()), param, "unsupported_parameter"};
  const std::string text = Dump(FixedLayout(std::move(schema)));
  for (int64_t i = 0; i < call.n; ++i) {
    StatusOr<GrammarMatcher> matcher = (*grammar)->Match("json_schema", text);
    if (!matcher.ok())
      return ApiError{400, fmt::format("'{}' cannot be used: {}", param, Message(matcher.status())), param,
                      "invalid_schema"};
    prompt->constraints.push_back(
        std::make_shared<AnswerConstraint>(*std::move(matcher), app, prompt->parser.start_in_reasoning));
  }
  if (forced) {
    prompt->parser.tools = call.tools;
    prompt->parser.format.tools = ToolSyntax::kLlama3;  // the whole answer is the call
    prompt->parser.parallel_tool_calls = false;
  }
  return std::nullopt;
}

}  // namespace optiq
