#include "text/continue_message.h"

namespace optiq {
namespace {

constexpr std::string_view kTag = "CONTINUE_FINAL_MESSAGE_TAG";

}  // namespace

StatusOr<OrderedJson> TagFinalMessage(const OrderedJson& messages) {
  const char* kNoText = "continue_final_message: the last message has no text to continue";
  if (!messages.is_array() || messages.empty() || !messages.back().is_object() ||
      !messages.back().contains("content")) {
    return InvalidArgument("{}", kNoText);
  }
  OrderedJson tagged = messages;
  OrderedJson* text = &tagged.back()["content"];
  if (text->is_array()) {
    OrderedJson* last = nullptr;
    for (OrderedJson& part : *text) {
      if (part.is_object() && part.contains("text")) last = &part["text"];
    }
    text = last;
  }
  if (text == nullptr || !text->is_string()) return InvalidArgument("{}", kNoText);
  // A space follows the tag: whether it is still there tells if the template trims.
  *text = fmt::format("{}{} ", text->get<std::string>(), kTag);
  return tagged;
}

StatusOr<std::string> CutAtTag(std::string text) {
  size_t at = text.rfind(kTag);
  if (at == std::string::npos) {
    return InvalidArgument("continue_final_message: the chat template leaves out the last message");
  }
  bool trimmed = text.compare(at + kTag.size(), 1, " ") != 0;
  text.resize(at);
  if (trimmed) {
    size_t end = text.find_last_not_of(" \t\n\r\f\v");
    text.resize(end == std::string::npos ? 0 : end + 1);
  }
  return text;
}

}  // namespace optiq
