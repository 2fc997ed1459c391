// The inside of one tool call block, character by character, so that how the text was cut cannot matter.
#ifndef OPTIQ_SERVER_TOOL_CALL_PARSER_H_
#define OPTIQ_SERVER_TOOL_CALL_PARSER_H_

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "server/argument_stream.h"
#include "server/chat_format.h"

namespace optiq {

struct ToolCall {
  std::string name;
  std::string arguments;  // a JSON object
};

class ToolBlock {
 public:
  enum class State { kMore, kDone, kBroken };
  virtual ~ToolBlock() = default;
  // The next character after the opening marker. kDone: it was the last one of the block (a closing marker may follow).
  // kBroken: this is no tool call.
  virtual State Push(char c) = 0;
  // The calls of a block that is done, or was cut off by the end of the answer; empty when they cannot be read.
  virtual std::vector<ToolCall> Calls() const = 0;
  // For streams: the one call of the block whose arguments come out while they are written; nullptr for notations that are
  // no JSON or hold several calls.
  virtual ArgumentStream* stream() { return nullptr; }
};

// tools: the request's (OpenAI's shape), whose parameter types decide about untyped values.
std::unique_ptr<ToolBlock> MakeToolBlock(ToolSyntax syntax, const OrderedJson& tools);

// {"name": .., "arguments" | "parameters": {..}} to a call.
std::optional<ToolCall> CallFromJson(const OrderedJson& json);

// The JSON of Gemma's notation {key:<|"|>text<|"|>,n:3,list:[true]}; nullopt when it is not in that notation.
std::optional<OrderedJson> ParseGemmaObject(std::string_view text);

}  // namespace optiq

#endif  // OPTIQ_SERVER_TOOL_CALL_PARSER_H_
