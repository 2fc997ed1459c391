#include "server/constraint.h"

namespace optiq {

std::optional<ApiError> MakeConstraint(const App&, const ChatCall& call, ChatPrompt*) {
  if (!call.format.is_null()) return ApiError{400, "'response_format' is not supported yet", "response_format", "unsupported_parameter"};
  return ApiError{400, "'tool_choice' can only be auto or none yet", "tool_choice", "unsupported_parameter"};
}

}  // namespace optiq
