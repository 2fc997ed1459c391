#include "io/gguf.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "io/gguf_scalar.h"

namespace optiq {

std::string QuoteForError(std::string_view text) {
  constexpr size_t kShown = 80;
  std::string out = "'";
  for (const char c : text.substr(0, kShown)) {
    const auto u = static_cast<unsigned char>(c);
    if (u < 0x20 || u >= 0x7F) {
      out += fmt::format("\\x{:02x}", u);
    } else {
      out += c;
    }
  }
  if (text.size() > kShown) out += "...";
  return out + "'";
}

std::vector<int64_t> GgufTensor::Shape() const {
  std::vector<int64_t> shape(rank);
  for (size_t i = 0; i < rank; ++i) shape[rank - 1 - i] = LoadScalar<int64_t>(dims + 8 * i);
  return shape;
}

const std::byte* GgufFile::FindValue(std::string_view key) const {
  const auto it = std::lower_bound(keys_.begin(), keys_.end(), key,
                                   [](const Key& k, std::string_view name) { return k.name < name; });
  return it != keys_.end() && it->name == key ? it->value : nullptr;
}

bool GgufFile::HasPrefix(std::string_view prefix) const {
  const auto it = std::lower_bound(keys_.begin(), keys_.end(), prefix,
                                   [](const Key& k, std::string_view name) { return k.name < name; });
  return it != keys_.end() && it->name.substr(0, prefix.size()) == prefix;
}

Status GgufFile::WrongType(std::string_view key, std::string_view wanted) const {
  return DataLoss("{}: metadata key {} is not {}", name_, QuoteForError(key), wanted);
}

StatusOr<std::optional<int64_t>> GgufFile::GetInt(std::string_view key) const {
  const std::byte* value = FindValue(key);
  if (value == nullptr) return std::optional<int64_t>();
  const std::optional<int64_t> found = IntAt(static_cast<GgufType>(LoadScalar<uint32_t>(value)), value + 4);
  if (!found) return WrongType(key, "an integer of 63 bits");
  return found;
}

StatusOr<std::optional<double>> GgufFile::GetDouble(std::string_view key) const {
  const std::byte* value = FindValue(key);
  if (value == nullptr) return std::optional<double>();
  const GgufType type = static_cast<GgufType>(LoadScalar<uint32_t>(value));
  double found = 0;
  if (type == GgufType::kFloat32) {
    found = LoadScalar<float>(value + 4);
  } else if (type == GgufType::kFloat64) {
    found = LoadScalar<double>(value + 4);
  } else if (const std::optional<int64_t> integer = IntAt(type, value + 4)) {
    found = static_cast<double>(*integer);
  } else {
    return WrongType(key, "a number");
  }
  if (!std::isfinite(found)) return WrongType(key, "a finite number");
  return std::optional<double>(found);
}

StatusOr<std::optional<bool>> GgufFile::GetBool(std::string_view key) const {
  const std::byte* value = FindValue(key);
  if (value == nullptr) return std::optional<bool>();
  if (static_cast<GgufType>(LoadScalar<uint32_t>(value)) != GgufType::kBool) return WrongType(key, "a boolean");
  return std::optional<bool>(value[4] == std::byte{1});
}

StatusOr<std::optional<std::string_view>> GgufFile::GetString(std::string_view key) const {
  const std::byte* value = FindValue(key);
  if (value == nullptr) return std::optional<std::string_view>();
  if (static_cast<GgufType>(LoadScalar<uint32_t>(value)) != GgufType::kString) return WrongType(key, "a string");
  return std::optional<std::string_view>(
      std::string_view(reinterpret_cast<const char*>(value + 12), LoadScalar<uint64_t>(value + 4)));
}

StatusOr<int64_t> GgufFile::RequireInt(std::string_view key, int64_t min, int64_t max) const {
  ASSIGN_OR_RETURN(const std::optional<int64_t> found, GetInt(key));
  if (!found) return DataLoss("{}: metadata key {} is missing", name_, QuoteForError(key));
  if (*found < min || *found > max) {
    return DataLoss("{}: metadata key {} is {}; {} to {} is allowed", name_, QuoteForError(key), *found, min, max);
  }
  return *found;
}

StatusOr<std::string_view> GgufFile::RequireString(std::string_view key) const {
  ASSIGN_OR_RETURN(const std::optional<std::string_view> found, GetString(key));
  if (!found) return DataLoss("{}: metadata key {} is missing", name_, QuoteForError(key));
  return *found;
}

std::optional<uint64_t> GgufFile::ArraySize(std::string_view key) const {
  const std::byte* value = FindValue(key);
  if (value == nullptr || static_cast<GgufType>(LoadScalar<uint32_t>(value)) != GgufType::kArray) return std::nullopt;
  return LoadScalar<uint64_t>(value + 8);
}

StatusOr<const std::byte*> GgufFile::RequireArray(std::string_view key, std::string_view wanted) const {
  const std::byte* value = FindValue(key);
  if (value == nullptr) return DataLoss("{}: metadata key {} is missing", name_, QuoteForError(key));
  if (static_cast<GgufType>(LoadScalar<uint32_t>(value)) != GgufType::kArray) return WrongType(key, wanted);
  return value + 4;
}

StatusOr<std::vector<std::string_view>> GgufFile::GetStrings(std::string_view key) const {
  ASSIGN_OR_RETURN(const std::byte* array, RequireArray(key, "an array of strings"));
  if (static_cast<GgufType>(LoadScalar<uint32_t>(array)) != GgufType::kString)
    return WrongType(key, "an array of strings");
  std::vector<std::string_view> out(LoadScalar<uint64_t>(array + 4));
  const std::byte* p = array + 12;
  for (std::string_view& item : out) {
    item = {reinterpret_cast<const char*>(p + 8), static_cast<size_t>(LoadScalar<uint64_t>(p))};
    p += 8 + item.size();
  }
  return out;
}

StatusOr<std::vector<int64_t>> GgufFile::GetInts(std::string_view key) const {
  ASSIGN_OR_RETURN(const std::byte* array, RequireArray(key, "an array of integers"));
  const GgufType type = static_cast<GgufType>(LoadScalar<uint32_t>(array));
  const uint64_t size = ScalarBytes(type);
  std::vector<int64_t> out(LoadScalar<uint64_t>(array + 4));
  for (size_t i = 0; i < out.size(); ++i) {
    const std::byte* p = array + 12 + i * size;
    const std::optional<int64_t> item = type == GgufType::kBool ? LoadScalar<uint8_t>(p) : IntAt(type, p);
    if (!item) return WrongType(key, "an array of integers");
    out[i] = *item;
  }
  return out;
}

StatusOr<std::vector<float>> GgufFile::GetFloats(std::string_view key) const {
  ASSIGN_OR_RETURN(const std::byte* array, RequireArray(key, "an array of f32"));
  if (static_cast<GgufType>(LoadScalar<uint32_t>(array)) != GgufType::kFloat32)
    return WrongType(key, "an array of f32");
  std::vector<float> out(LoadScalar<uint64_t>(array + 4));
  if (!out.empty()) std::memcpy(out.data(), array + 12, out.size() * sizeof(float));
  return out;
}

}  // namespace optiq
