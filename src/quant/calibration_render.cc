#include "quant/calibration_render.h"

#include <algorithm>
#include <utility>

namespace optiq {
namespace {

// Templates that print the date get this one (2025-01-01), so that the tokens are the same every day.
constexpr int64_t kTemplateTime = 1735689600;

std::string Dump(const OrderedJson& json) { return json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace); }

std::string RoleOf(const OrderedJson& message) { return message.value("role", std::string()); }

// A message's text: content as string, the text parts of a list, or the calls of a message that only calls tools.
std::string TextOf(const OrderedJson& message) {
  auto content = message.find("content");
  std::string out;
  if (content != message.end() && content->is_string()) out = content->get<std::string>();
  if (content != message.end() && content->is_array()) {
    for (const OrderedJson& part : *content) {
      if (!part.is_object()) continue;
      auto text = part.find("text");
      if (text != part.end() && text->is_string()) out += text->get<std::string>();
    }
  }
  auto calls = message.find("tool_calls");
  if (calls != message.end() && !calls->is_null()) out += (out.empty() ? "" : "\n") + Dump(*calls);
  return out;
}

std::string Declare(const OrderedJson& tools) {
  std::string out = "Functions that can be called, one a line:";
  for (const OrderedJson& tool : tools) out += "\n" + Dump(tool);
  return out;
}

// The conversation with the declarations at the end of its system message, which is added where there is none.
OrderedJson WithDeclaredTools(const OrderedJson& messages, const OrderedJson& tools) {
  OrderedJson out = messages;
  std::string declared = Declare(tools);
  if (RoleOf(out[0]) == "system") {
    out[0]["content"] = TextOf(out[0]) + "\n\n" + declared;
    return out;
  }
  out.insert(out.begin(), OrderedJson{{"role", "system"}, {"content", declared}});
  return out;
}

bool StartsWith(const std::vector<int32_t>& ids, const std::vector<int32_t>& prefix) {
  return ids.size() >= prefix.size() && std::equal(prefix.begin(), prefix.end(), ids.begin());
}

}  // namespace

std::string PlainConversation(const OrderedJson& messages, const OrderedJson& tools) {
  std::string out = tools.is_array() ? Declare(tools) : "";
  for (const OrderedJson& message : messages) {
    std::string role = RoleOf(message);
    if (!role.empty() && role[0] >= 'a' && role[0] <= 'z') role[0] += 'A' - 'a';
    out += (out.empty() ? "" : "\n\n") + role + ": " + TextOf(message);
  }
  return out;
}

OrderedJson FoldConversation(const OrderedJson& messages, const OrderedJson& tools) {
  OrderedJson out = OrderedJson::array();
  auto add = [&](const char* role, const std::string& text) {
    if (!out.empty() && RoleOf(out.back()) == role) {
      out.back()["content"] = out.back()["content"].get<std::string>() + "\n\n" + text;
    } else {
      out.push_back({{"role", role}, {"content", text}});
    }
  };
  if (tools.is_array()) add("user", Declare(tools));
  for (const OrderedJson& message : messages) {
    std::string role = RoleOf(message), text = TextOf(message);
    if (role == "assistant") {
      if (out.empty()) add("user", "Begin.");
      add("assistant", text);
    } else {
      add("user", role == "tool" ? "Result: " + text : text);
    }
  }
  return out;
}

StatusOr<CalibrationRenderer> CalibrationRenderer::Create(const Tokenizer& tokenizer, const ChatTemplate* chat_template,
                                                          bool always_bos) {
  CalibrationRenderer out(tokenizer, chat_template);
  ASSIGN_OR_RETURN(std::vector<int32_t> plain, tokenizer.Encode("a", EncodeMode::kPlain));
  ASSIGN_OR_RETURN(std::vector<int32_t> with_special, tokenizer.Encode("a", EncodeMode::kWithSpecial));
  auto body = std::search(with_special.begin(), with_special.end(), plain.begin(), plain.end());
  if (body != with_special.end()) out.prefix_.assign(with_special.begin(), body);
  if (out.prefix_.empty() && always_bos) {
    std::optional<std::string> bos = tokenizer.bos_token();
    std::optional<int32_t> id = bos ? tokenizer.TokenId(*bos) : std::nullopt;
    if (!id) return InvalidArgument("tokenizer: names no bos_token to begin calibration text with");
    out.prefix_ = {*id};
  }
  return out;
}

StatusOr<std::vector<int32_t>> CalibrationRenderer::Conversation(const CalibrationDocument& document) {
  if (chat_template_ != nullptr) {
    RenderOptions options;
    options.add_generation_prompt = false;
    options.unix_time = kTemplateTime;
    OrderedJson messages = document.messages;
    if (document.tools.is_array()) {
      if (chat_template_->Uses("tools")) {
        options.tools = document.tools;
      } else {
        messages = WithDeclaredTools(messages, document.tools);
      }
    }
    StatusOr<std::vector<int32_t>> ids = EncodeChat(*chat_template_, *tokenizer_, messages, options);
    if (ids.ok()) return ids;
    options.tools = nullptr;
    ids = EncodeChat(*chat_template_, *tokenizer_, FoldConversation(document.messages, document.tools), options);
    if (ids.ok()) return ids;
    if (refused_++ == 0) refusal_ = Message(ids.status());
  }
  return tokenizer_->Encode(PlainConversation(document.messages, document.tools), EncodeMode::kPlain);
}

StatusOr<std::vector<int32_t>> CalibrationRenderer::Body(const CalibrationDocument& document) {
  ASSIGN_OR_RETURN(std::vector<int32_t> ids, document.messages.is_array()
                                                 ? Conversation(document)
                                                 : tokenizer_->Encode(document.text, EncodeMode::kPlain));
  if (StartsWith(ids, prefix_)) ids.erase(ids.begin(), ids.begin() + prefix_.size());
  return ids;
}

}  // namespace optiq
