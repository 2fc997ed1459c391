// JSON from untrusted bytes: depth, value count and duplicate keys are checked while parsing (nlohmann's SAX interface), and
// field access returns Status instead of throwing. Non-finite numbers (1e999) are refused.
#ifndef OPTIQ_BASE_JSON_H_
#define OPTIQ_BASE_JSON_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "base/limits.h"
#include "base/status.h"

namespace optiq {

using Json = nlohmann::json;                 // objects sorted by key
using OrderedJson = nlohmann::ordered_json;  // objects keep the order of insertion (chat templates depend on it)

struct JsonLimits {
  int max_depth = limits::kJsonDepth;
  size_t max_values = limits::kJsonValues;
};

// Parses `text`. `what` names the source in errors (a path or field). Errors: kDataLoss with byte position.
StatusOr<Json> ParseJson(std::string_view text, std::string_view what, const JsonLimits& limits = {});

// Reads a file of at most `max_bytes` and parses it.
StatusOr<Json> ReadJsonFile(const std::string& path, uint64_t max_bytes = limits::kConfigBytes);

// Field access. `what` names the object in errors. A missing or null field gives nullopt; a wrong type is an error.
StatusOr<std::optional<int64_t>> GetInt(const Json& object, const char* key, std::string_view what);
StatusOr<std::optional<double>> GetDouble(const Json& object, const char* key, std::string_view what);
StatusOr<std::optional<bool>> GetBool(const Json& object, const char* key, std::string_view what);
StatusOr<std::optional<std::string>> GetString(const Json& object, const char* key, std::string_view what);

// A required integer in [min, max]; the error names the field and the allowed range.
StatusOr<int64_t> RequireInt(const Json& object, const char* key, int64_t min, int64_t max, std::string_view what);

}  // namespace optiq

#endif  // OPTIQ_BASE_JSON_H_
