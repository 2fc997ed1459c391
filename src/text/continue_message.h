// Prompts that end inside the last message (transformers' continue_final_message): a tag is put at the end of its text,
// the template is rendered, and the prompt is cut at the tag.
#ifndef OPTIQ_TEXT_CONTINUE_MESSAGE_H_
#define OPTIQ_TEXT_CONTINUE_MESSAGE_H_

#include <string>

#include "base/json.h"
#include "base/status.h"

namespace optiq {

// `messages` with the tag after the last message's content (a string, or the last text part of a list).
StatusOr<OrderedJson> TagFinalMessage(const OrderedJson& messages);

// The text before the last tag; without the spaces before it when the template trimmed the message.
StatusOr<std::string> CutAtTag(std::string text);

}  // namespace optiq

#endif  // OPTIQ_TEXT_CONTINUE_MESSAGE_H_
