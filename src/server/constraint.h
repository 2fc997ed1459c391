// response_format and forced tool calls as constraints on tokens.
#ifndef OPTIQ_SERVER_CONSTRAINT_H_
#define OPTIQ_SERVER_CONSTRAINT_H_

#include <optional>

#include "server/chat_call.h"

namespace optiq {

// Sets prompt->constraints and, for forced calls, how the answer is read.
std::optional<ApiError> MakeConstraint(const App& app, const ChatCall& call, ChatPrompt* prompt);

}  // namespace optiq

#endif  // OPTIQ_SERVER_CONSTRAINT_H_
