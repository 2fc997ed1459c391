#include "quant/affine_json.h"

#include <algorithm>

namespace optiq {

bool IsAffineBits(int64_t bits) { return bits >= 2 && bits <= 8 && bits != 7; }
bool IsAffineGroupSize(int64_t group) { return group == 32 || group == 64 || group == 128; }

StatusOr<AffineFormat> AffineFormatFromJson(const Json& object, std::string_view what, const AffineFormat* defaults) {
  ASSIGN_OR_RETURN(std::optional<int64_t> bits, GetInt(object, "bits", what));
  ASSIGN_OR_RETURN(std::optional<int64_t> group, GetInt(object, "group_size", what));
  if (defaults != nullptr) {
    if (!bits) bits = defaults->bits;
    if (!group) group = defaults->group_size;
  }
  if (!bits) return InvalidArgument("{}: field 'bits' is missing", what);
  if (!group) return InvalidArgument("{}: field 'group_size' is missing", what);
  if (!IsAffineBits(*bits)) return InvalidArgument("{}: bits is {}; it must be 2, 3, 4, 5, 6 or 8", what, *bits);
  if (!IsAffineGroupSize(*group)) {
    return InvalidArgument("{}: group_size is {}; it must be 32, 64 or 128", what, *group);
  }
  return AffineFormat{static_cast<int>(*bits), static_cast<int>(*group)};
}

Status CheckEncoderName(std::string_view name, std::string_view what) {
  bool ok = !name.empty() && name.size() <= 32 && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '+';
  });
  if (ok) return OkStatus();
  return InvalidArgument("{}: '{}' is not an encoder name; it must be 1 to 32 characters of a-z, 0-9, '-', '_', '+'",
                         what, name.substr(0, 64));
}

StatusOr<std::string> RequireString(const Json& object, const char* key, std::string_view what, size_t max_bytes) {
  ASSIGN_OR_RETURN(std::optional<std::string> s, GetString(object, key, what));
  if (!s) return InvalidArgument("{}: field '{}' is missing", what, key);
  if (s->size() > max_bytes) {
    return InvalidArgument("{}: field '{}' is {} bytes long; at most {} are taken", what, key, s->size(), max_bytes);
  }
  return std::move(*s);
}

}  // namespace optiq
