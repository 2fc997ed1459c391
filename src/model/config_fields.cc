#include "model/config_fields.h"

namespace optiq {

int64_t ConfigFields::Int(const char* key, int64_t min, int64_t max) {
  StatusOr<int64_t> v = RequireInt(object_, key, min, max, what_);
  if (v.ok()) return *v;
  Keep(v.status());
  return min;
}

int64_t ConfigFields::Int(const char* key, int64_t min, int64_t max, int64_t missing) {
  return Has(key) ? Int(key, min, max) : missing;
}

double ConfigFields::Number(const char* key, double min, double max, double missing) {
  StatusOr<std::optional<double>> v = GetDouble(object_, key, what_);
  if (!v.ok()) {
    Keep(v.status());
    return missing;
  }
  if (!v->has_value()) return missing;
  if (!(**v >= min && **v <= max)) {
    Fail(key, fmt::format("is {}; it must be between {} and {}", **v, min, max));
    return missing;
  }
  return **v;
}

bool ConfigFields::Bool(const char* key, bool missing) {
  StatusOr<std::optional<bool>> v = GetBool(object_, key, what_);
  if (!v.ok()) {
    Keep(v.status());
    return missing;
  }
  return v->value_or(missing);
}

std::string ConfigFields::String(const char* key, const std::string& missing) {
  StatusOr<std::optional<std::string>> v = GetString(object_, key, what_);
  if (!v.ok()) {
    Keep(v.status());
    return missing;
  }
  return v->value_or(missing);
}

bool ConfigFields::Has(const char* key) const {
  auto it = object_.find(key);
  return it != object_.end() && !it->is_null();
}

const Json* ConfigFields::Object(const char* key) {
  if (!Has(key)) return nullptr;
  const Json& v = object_.at(key);
  if (!v.is_object()) {
    Fail(key, "must be an object");
    return nullptr;
  }
  return &v;
}

std::vector<std::string> ConfigFields::Strings(const char* key, size_t size) {
  std::vector<std::string> out;
  if (!Has(key)) return out;
  const Json& v = object_.at(key);
  if (!v.is_array() || v.size() != size) {
    Fail(key, fmt::format("must be an array of {} strings", size));
    return out;
  }
  for (const Json& item : v) {
    if (!item.is_string()) {
      Fail(key, fmt::format("must be an array of {} strings", size));
      return {};
    }
    out.push_back(item.get<std::string>());
  }
  return out;
}

std::vector<int64_t> ConfigFields::Ints(const char* key, size_t size) {
  std::vector<int64_t> out;
  if (!Has(key)) return out;
  const Json& v = object_.at(key);
  if (!v.is_array() || v.size() != size) {
    Fail(key, fmt::format("must be an array of {} integers", size));
    return out;
  }
  for (const Json& item : v) {
    if (!item.is_number_integer()) {
      Fail(key, fmt::format("must be an array of {} integers", size));
      return {};
    }
    out.push_back(item.get<int64_t>());
  }
  return out;
}

void ConfigFields::Fail(const char* key, const std::string& why) {
  Keep(InvalidArgument("{}: field '{}' {}", what_, key, why));
}

}  // namespace optiq
