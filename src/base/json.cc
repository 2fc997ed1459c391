#include "base/json.h"

#include <cmath>
#include <unordered_set>
#include <vector>

#include "base/file.h"

namespace optiq {
namespace {

// Builds a Json without recursion and stops at the first limit passed.
class LimitedBuilder : public nlohmann::json_sax<Json> {
 public:
  LimitedBuilder(const JsonLimits& limits, Json* root) : limits_(limits), root_(root) {}

  bool null() override { return Put(nullptr); }
  bool boolean(bool v) override { return Put(v); }
  bool number_integer(number_integer_t v) override { return Put(v); }
  bool number_unsigned(number_unsigned_t v) override { return Put(v); }
  bool number_float(number_float_t v, const string_t&) override {
    if (!std::isfinite(v)) return Fail("a number is too large");
    return Put(v);
  }
  bool string(string_t& v) override { return Put(std::move(v)); }
  bool binary(binary_t&) override { return Fail("binary values are not JSON"); }
  bool start_object(size_t) override { return Open(Json::object()); }
  bool end_object() override { return Close(); }
  bool start_array(size_t) override { return Open(Json::array()); }
  bool end_array() override { return Close(); }
  bool key(string_t& k) override {
    if (stack_.back()->contains(k)) return Fail(fmt::format("the key '{}' appears twice", k.substr(0, 80)));
    key_ = std::move(k);
    return true;
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) override {
    return Fail(fmt::format("not valid JSON at byte {}", position));
  }

  const std::string& error() const { return error_; }

 private:
  bool Fail(std::string why) {
    if (error_.empty()) error_ = std::move(why);
    return false;
  }
  Json* Place(Json&& v) {
    if (++count_ > limits_.max_values) {
      Fail(fmt::format("more than {} values", limits_.max_values));
      return nullptr;
    }
    if (stack_.empty()) {
      *root_ = std::move(v);
      return root_;
    }
    Json* top = stack_.back();
    if (top->is_array()) {
      top->push_back(std::move(v));
      return &top->back();
    }
    Json& slot = (*top)[key_];
    slot = std::move(v);
    return &slot;
  }
  template <typename T>
  bool Put(T&& v) {
    return Place(Json(std::forward<T>(v))) != nullptr;
  }
  bool Open(Json&& v) {
    if (static_cast<int>(stack_.size()) >= limits_.max_depth) {
      return Fail(fmt::format("nested deeper than {} levels", limits_.max_depth));
    }
    Json* placed = Place(std::move(v));
    if (placed == nullptr) return false;
    stack_.push_back(placed);
    return true;
  }
  bool Close() {
    stack_.pop_back();
    return true;
  }

  const JsonLimits& limits_;
  Json* root_;
  std::vector<Json*> stack_;
  std::string key_;
  std::string error_;
  size_t count_ = 0;
};

template <typename T>
Status WrongType(std::string_view what, const char* key, T expected) {
  return InvalidArgument("{}: field '{}' must be {}", what, key, expected);
}

const Json* FindField(const Json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  auto it = object.find(key);
  if (it == object.end() || it->is_null()) return nullptr;
  return &*it;
}

}  // namespace

StatusOr<Json> ParseJson(std::string_view text, std::string_view what, const JsonLimits& limits) {
  // The parser takes a NUL byte for the end of the text.
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos) {
    return DataLoss("{}: not valid JSON at byte {}", what, nul);
  }
  Json root;
  LimitedBuilder builder(limits, &root);
  if (!Json::sax_parse(text.begin(), text.end(), &builder)) {
    return DataLoss("{}: {}", what, builder.error().empty() ? "not valid JSON" : builder.error());
  }
  return root;
}

StatusOr<Json> ReadJsonFile(const std::string& path, uint64_t max_bytes) {
  ASSIGN_OR_RETURN(std::string text, ReadTextFile(path, max_bytes));
  if (text.starts_with("version https://git-lfs")) {
    return DataLoss("{}: this is a Git LFS pointer, not the file; fetch it with `git lfs pull`", path);
  }
  return ParseJson(text, path);
}

StatusOr<std::optional<int64_t>> GetInt(const Json& object, const char* key, std::string_view what) {
  const Json* f = FindField(object, key);
  if (f == nullptr) return std::nullopt;
  if (f->is_number_unsigned() && f->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
    return InvalidArgument("{}: field '{}' is too large", what, key);
  }
  if (f->is_number_integer()) return f->get<int64_t>();
  if (f->is_number_float()) {
    double v = f->get<double>();
    if (v == std::floor(v) && std::fabs(v) < 9e15) return static_cast<int64_t>(v);
  }
  return WrongType(what, key, "an integer");
}

StatusOr<std::optional<double>> GetDouble(const Json& object, const char* key, std::string_view what) {
  const Json* f = FindField(object, key);
  if (f == nullptr) return std::nullopt;
  if (!f->is_number()) return WrongType(what, key, "a number");
  return f->get<double>();
}

StatusOr<std::optional<bool>> GetBool(const Json& object, const char* key, std::string_view what) {
  const Json* f = FindField(object, key);
  if (f == nullptr) return std::nullopt;
  if (!f->is_boolean()) return WrongType(what, key, "true or false");
  return f->get<bool>();
}

StatusOr<std::optional<std::string>> GetString(const Json& object, const char* key, std::string_view what) {
  const Json* f = FindField(object, key);
  if (f == nullptr) return std::nullopt;
  if (!f->is_string()) return WrongType(what, key, "a string");
  return f->get<std::string>();
}

StatusOr<int64_t> RequireInt(const Json& object, const char* key, int64_t min, int64_t max, std::string_view what) {
  ASSIGN_OR_RETURN(std::optional<int64_t> v, GetInt(object, key, what));
  if (!v) return InvalidArgument("{}: field '{}' is missing", what, key);
  if (*v < min || *v > max) {
    return InvalidArgument("{}: field '{}' is {}; it must be between {} and {}", what, key, *v, min, max);
  }
  return *v;
}

}  // namespace optiq
