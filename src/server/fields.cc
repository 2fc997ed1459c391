#include "server/fields.h"

#include <fmt/ranges.h>

#include <cmath>

namespace optiq {

Fields::Fields(const OrderedJson& object, std::string path, std::optional<ApiError>* errors)
    : object_(object), path_(std::move(path)), errors_(errors) {
  if (!object.is_object()) Fail("", "must be an object");
}

std::string Fields::PathOf(std::string_view name) const {
  if (path_.empty()) return std::string(name);
  return name.empty() ? path_ : fmt::format("{}.{}", path_, name);
}

void Fields::Fail(std::string_view name, std::string message, std::string code) {
  if (errors_->has_value()) return;
  const std::string param = PathOf(name);
  *errors_ = ApiError{400, param.empty() ? "the body " + message : fmt::format("'{}' {}", param, message), param,
                      std::move(code)};
}

void Fields::WrongType(const char* name, std::string_view expected) {
  Fail(name, fmt::format("must be {}", expected), "invalid_type");
}

const OrderedJson* Fields::Find(const char* name) {
  asked_.insert(name);
  if (!object_.is_object()) return nullptr;
  const auto it = object_.find(name);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

bool Fields::Has(const char* name) { return Find(name) != nullptr; }
const OrderedJson* Fields::Any(const char* name) { return Find(name); }

std::optional<int64_t> Fields::Int(const char* name, int64_t min, int64_t max) {
  const OrderedJson* f = Find(name);
  if (f == nullptr) return std::nullopt;
  int64_t value = 0;
  if (f->is_number_unsigned()) {
    value =
        f->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX) ? INT64_MAX : static_cast<int64_t>(f->get<uint64_t>());
  } else if (f->is_number_integer()) {
    value = f->get<int64_t>();
  } else if (f->is_number_float() && std::fabs(f->get<double>()) < 9e15 &&
             f->get<double>() == std::floor(f->get<double>())) {
    value = static_cast<int64_t>(f->get<double>());
  } else {
    WrongType(name, "an integer");
    return std::nullopt;
  }
  if (value < min || value > max) {
    Fail(name, fmt::format("is {}; it must be between {} and {}", f->dump(), min, max), "out_of_range");
    return std::nullopt;
  }
  return value;
}

std::optional<double> Fields::Number(const char* name, double min, double max) {
  const OrderedJson* f = Find(name);
  if (f == nullptr) return std::nullopt;
  if (!f->is_number()) {
    WrongType(name, "a number");
    return std::nullopt;
  }
  const double value = f->get<double>();
  if (!(value >= min && value <= max)) {
    Fail(name, fmt::format("is {}; it must be between {} and {}", f->dump(), min, max), "out_of_range");
    return std::nullopt;
  }
  return value;
}

std::optional<bool> Fields::Bool(const char* name) {
  const OrderedJson* f = Find(name);
  if (f == nullptr) return std::nullopt;
  if (f->is_boolean()) return f->get<bool>();
  WrongType(name, "true or false");
  return std::nullopt;
}

std::optional<std::string> Fields::String(const char* name, size_t max_bytes) {
  const OrderedJson* f = Find(name);
  if (f == nullptr) return std::nullopt;
  if (!f->is_string()) {
    WrongType(name, "a string");
    return std::nullopt;
  }
  const auto& text = f->get_ref<const std::string&>();
  if (text.size() > max_bytes) {
    Fail(name, fmt::format("is longer than {} bytes", max_bytes), "too_long");
    return std::nullopt;
  }
  return text;
}

std::string Fields::Require(const char* name) {
  if (!Has(name)) {
    Fail(name, "is missing", "missing_required_parameter");
    return "";
  }
  return String(name).value_or("");
}

std::optional<std::string> Fields::OneOf(const char* name, std::initializer_list<std::string_view> values) {
  std::optional<std::string> text = String(name);
  if (!text) return text;
  for (const std::string_view v : values) {
    if (*text == v) return text;
  }
  Fail(name, fmt::format("must be one of {}", fmt::join(values, ", ")), "invalid_value");
  return std::nullopt;
}

const OrderedJson* Fields::Array(const char* name, size_t max_size) {
  const OrderedJson* f = Find(name);
  if (f == nullptr) return nullptr;
  if (!f->is_array()) {
    WrongType(name, "an array");
    return nullptr;
  }
  if (f->size() > max_size) {
    Fail(name, fmt::format("has {} entries; at most {} are taken", f->size(), max_size), "too_long");
    return nullptr;
  }
  return f;
}

const OrderedJson* Fields::Object(const char* name) {
  const OrderedJson* f = Find(name);
  if (f != nullptr && !f->is_object()) {
    WrongType(name, "an object");
    return nullptr;
  }
  return f;
}

std::optional<std::vector<std::string>> Fields::Strings(const char* name, size_t max_size, size_t max_bytes) {
  const OrderedJson* f = Find(name);
  if (f == nullptr) return std::nullopt;
  std::vector<std::string> out;
  const auto add = [&](const OrderedJson& v) {
    if (!v.is_string()) return WrongType(name, "a string or an array of strings");
    if (v.get_ref<const std::string&>().size() > max_bytes)
      return Fail(name, fmt::format("holds a text longer than {} bytes", max_bytes));
    out.push_back(v.get<std::string>());
  };
  if (f->is_array()) {
    if (f->size() > max_size)
      Fail(name, fmt::format("has {} entries; at most {} are taken", f->size(), max_size), "too_long");
    for (const OrderedJson& v : *f) {
      if (!ok()) break;
      add(v);
    }
  } else {
    add(*f);
  }
  if (!ok()) return std::nullopt;
  return out;
}

void Fields::Accept(std::initializer_list<const char*> names) {
  for (const char* name : names) asked_.insert(name);
}

void Fields::Refuse(const char* name, std::string_view why, const OrderedJson& harmless) {
  const OrderedJson* f = Find(name);
  if (f != nullptr && *f != harmless) Fail(name, fmt::format("is not supported: {}", why), "unsupported_parameter");
}

std::vector<std::string> Fields::Unknown() const {
  std::vector<std::string> out;
  if (!object_.is_object()) return out;
  for (const auto& [name, value] : object_.items()) {
    if (!asked_.contains(name)) out.push_back(name);
  }
  return out;
}

}  // namespace optiq
