// Reads the fields of a request's JSON object. The first thing that is wrong is kept, with the path of the field:
// readers go on and look at ok() once.
#ifndef OPTIQ_SERVER_FIELDS_H_
#define OPTIQ_SERVER_FIELDS_H_

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "server/api_error.h"

namespace optiq {

class Fields {
 public:
  // `errors` is shared by the readers of nested objects; path: "" for the body, else "messages[0]".
  Fields(const OrderedJson& object, std::string path, std::optional<ApiError>* errors);

  // null and missing are the same.
  bool Has(const char* name);
  std::optional<int64_t> Int(const char* name, int64_t min, int64_t max);
  std::optional<double> Number(const char* name, double min, double max);
  std::optional<bool> Bool(const char* name);
  std::optional<std::string> String(const char* name, size_t max_bytes = SIZE_MAX);
  std::optional<std::string> OneOf(const char* name, std::initializer_list<std::string_view> values);
  const OrderedJson* Array(const char* name, size_t max_size = SIZE_MAX);
  const OrderedJson* Object(const char* name);
  const OrderedJson* Any(const char* name);
  // A string or an array of strings.
  std::optional<std::vector<std::string>> Strings(const char* name, size_t max_size, size_t max_bytes);

  std::string Require(const char* name);  // a string that must be there

  // Known, and without effect on what is answered.
  void Accept(std::initializer_list<const char*> names);
  // An error if given with anything but null or `harmless`.
  void Refuse(const char* name, std::string_view why, const OrderedJson& harmless = nullptr);

  void Fail(std::string_view name, std::string message, std::string code = "");
  bool ok() const { return !errors_->has_value(); }
  std::string PathOf(std::string_view name) const;
  // Fields that nothing asked for.
  std::vector<std::string> Unknown() const;

 private:
  const OrderedJson* Find(const char* name);
  void WrongType(const char* name, std::string_view expected);

  const OrderedJson& object_;
  std::string path_;
  std::optional<ApiError>* errors_;
  std::set<std::string, std::less<>> asked_;
};

}  // namespace optiq

#endif  // OPTIQ_SERVER_FIELDS_H_
