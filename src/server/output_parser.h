// A model's text as it comes to thoughts, answer and tool calls. What comes out depends on the whole text only, never
// on how it was cut.
#ifndef OPTIQ_SERVER_OUTPUT_PARSER_H_
#define OPTIQ_SERVER_OUTPUT_PARSER_H_

#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "server/chat_format.h"
#include "server/tool_call_parser.h"

namespace optiq {

struct OutputEvent {
  // kToolArguments: how the arguments of the last call go on, in streams.
  enum Kind { kReasoning, kContent, kToolCall, kToolArguments } kind = kContent;
  std::string text;  // of a tool call: its arguments, or how they begin
  std::string name;  // of a tool call
  friend bool operator==(const OutputEvent&, const OutputEvent&) = default;
};
using OutputEvents = std::vector<OutputEvent>;

struct OutputParserOptions {
  ChatFormat format;
  OrderedJson tools;                // OpenAI's array; null: tool markup is text
  bool start_in_reasoning = false;  // the prompt ends inside an open thought
  bool parallel_tool_calls = true;  // false: what follows the first call is dropped
  // Arguments come out while they are written, in formats that write them as JSON after the name. A call that has begun so and is cut
  // off, or is no JSON, stays as it is; otherwise calls come whole, and what cannot be read is text.
  bool stream_arguments = false;
};

class OutputParser {
 public:
  explicit OutputParser(OutputParserOptions options);

  // Neighbouring events of the same kind are joined.
  void Push(std::string_view text, OutputEvents* events);
  // The end of the text.
  void Finish(OutputEvents* events);

  int tool_calls() const { return tool_calls_; }
  bool in_reasoning() const { return mode_ == Mode::kReasoning; }
  // Nothing that follows would count (parallel_tool_calls is off and there was a call).
  bool satisfied() const { return !options_.parallel_tool_calls && tool_calls_ > 0; }

 private:
  // kBetween: nothing but spaces since the start, a thought or a call.
  enum class Mode { kBetween, kContent, kReasoning, kTool, kToolEnd };

  bool Step(bool last, OutputEvents* events);  // false when more text is needed
  bool StepBetween(bool last, OutputEvents* events);
  bool StepContent(bool last, OutputEvents* events);
  bool StepReasoning(bool last, OutputEvents* events);
  bool StepTool(bool last, OutputEvents* events);
  bool StepToolEnd(bool last, OutputEvents* events);
  void OpenTool(std::string_view marker);
  void StreamArguments(OutputEvents* events);
  void CloseTool(OutputEvents* events);
  void Emit(OutputEvent::Kind kind, std::string_view text, OutputEvents* events);

  OutputParserOptions options_;
  std::set<std::string> names_;
  Mode mode_ = Mode::kBetween;
  std::string text_;      // not yet decided
  bool at_start_ = true;  // nothing has come out yet
  bool thought_begun_ = false,
       thought_text_ = false;  // of the current thought: past its header, past its leading spaces
  std::unique_ptr<ToolBlock> block_;
  bool call_begun_ = false;  // of the current block: its call has come out
  std::string raw_;  // of the current tool block, for when it is none
  int tool_calls_ = 0;
};

}  // namespace optiq

#endif  // OPTIQ_SERVER_OUTPUT_PARSER_H_
