// Calls as LFM2 writes them: [get_weather(city="Oslo", days=3), ping()]
#ifndef OPTIQ_SERVER_PYTHON_CALLS_H_
#define OPTIQ_SERVER_PYTHON_CALLS_H_

#include <optional>
#include <string_view>
#include <vector>

#include "server/tool_call_parser.h"

namespace optiq {

// One call, or a list of them. Arguments are named and literals: strings, numbers, True, False, None, lists, tuples and
// dictionaries with strings for keys. nullopt for anything else: nothing is evaluated.
std::optional<std::vector<ToolCall>> ParsePythonCalls(std::string_view text);

}  // namespace optiq

#endif  // OPTIQ_SERVER_PYTHON_CALLS_H_
