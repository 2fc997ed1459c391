// A request for a chat answer, whatever the protocol: what every protocol's reader fills, and its way to a prompt.
#ifndef OPTIQ_SERVER_CHAT_CALL_H_
#define OPTIQ_SERVER_CHAT_CALL_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "server/app.h"
#include "server/fields.h"
#include "server/output_parser.h"

namespace optiq {

enum class ToolChoice { kAuto, kNone, kRequired, kNamed };

struct ChatCall {
  std::string model;  // as the client wrote it
  std::string adapter;
  OrderedJson messages = OrderedJson::array();  // OpenAI's shape, for the template
  OrderedJson tools;                            // OpenAI's array, or null
  ToolChoice tool_choice = ToolChoice::kAuto;
  std::string tool_name;  // of kNamed
  bool parallel_tool_calls = true;
  OrderedJson template_args = OrderedJson::object();
  // null: any text. {"type": "json_object"} or {"type": "json_schema", "schema": {..}}.
  OrderedJson format;
  SamplingParams sampling;
  int64_t max_tokens = 0;
  std::vector<std::string> stop;
  int64_t n = 1;
  int top_logprobs = -1;
  bool ignore_eos = false;
  bool stream = false;
  bool continue_final = false;  // the last message is the assistant's and is to be continued
  const char* prompt_param = "messages";
};

// What the engine gets, and how its text is to be read.
struct ChatPrompt {
  EngineRequest request;
  OutputParserOptions parser;
  std::vector<std::shared_ptr<TokenConstraint>> constraints;  // one per answer, or none
};

// Renders and tokenizes; limits max_tokens to the context; makes the constraint.
std::optional<ApiError> PrepareChat(const App& app, ChatCall* call, ChatPrompt* prompt);

// OpenAI's messages: checks shapes, joins text parts, parses arguments of earlier tool calls. Errors go to `fields`.
OrderedJson ReadMessages(Fields* fields, const char* name);
// OpenAI's tools (at most 128).
OrderedJson ReadTools(Fields* fields, const char* name);
// Arguments of the template: chat_template_kwargs over the server's.
OrderedJson ReadTemplateArgs(Fields* fields, const App& app);
// reasoning_effort to template arguments.
void ApplyReasoningEffort(const std::string& effort, OrderedJson* template_args);

}  // namespace optiq

#endif  // OPTIQ_SERVER_CHAT_CALL_H_
