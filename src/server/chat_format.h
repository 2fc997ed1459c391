// How a model writes thoughts and tool calls. Found from its chat template's text and its tokenizer, never from its
// name.
#ifndef OPTIQ_SERVER_CHAT_FORMAT_H_
#define OPTIQ_SERVER_CHAT_FORMAT_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace optiq {

enum class ToolSyntax {
  kNone,
  kHermes,   // <tool_call>{"name": .., "arguments": {..}}</tool_call> (Qwen, SmolLM, Hermes), also with <function=..>
             // inside
  kLlama3,   // {"name": .., "parameters": {..}} as the whole answer, perhaps after <|python_tag|>
  kMistral,  // [TOOL_CALLS][{..}, ..] or [TOOL_CALLS]name[ARGS]{..}
  kGemma4,   // <|tool_call>call:name{key:<|"|>text<|"|>,n:3}<tool_call|>
  kLfm2,     // <|tool_call_start|>[name(key="text", n=3), ..]<|tool_call_end|>
};
std::string_view ToolSyntaxName(ToolSyntax syntax);

struct ChatFormat {
  ToolSyntax tools = ToolSyntax::kNone;
  std::string think_open, think_close;  // empty: no thoughts
  std::string think_header;     // follows think_open and is not part of the thought ("thought" of Gemma's channel)
  bool think_anywhere = false;  // thoughts may also come in the middle of an answer
  bool keep_special = false;    // the markers are special tokens: they must be kept in the text

  std::string_view tool_open() const;  // empty for kNone and kLlama3's bare form
  std::string_view tool_close() const;
};

// template_source: empty without a template. tokenizer may be null (tests).
ChatFormat DetectChatFormat(std::string_view template_source, const Tokenizer* tokenizer);


// Whether a prompt ends inside a thought that its template has opened.
bool EndsInThought(const ChatFormat& format, const Tokenizer& tokenizer, const std::vector<int32_t>& prompt);

}  // namespace optiq

#endif  // OPTIQ_SERVER_CHAT_FORMAT_H_
