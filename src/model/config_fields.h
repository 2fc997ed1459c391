// Reads fields of config.json, keeping the first error, so that a family's file reads as a list.
#ifndef OPTIQ_MODEL_CONFIG_FIELDS_H_
#define OPTIQ_MODEL_CONFIG_FIELDS_H_

#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/status.h"

namespace optiq {

class ConfigFields {
 public:
  ConfigFields(const Json& object, std::string what) : object_(object), what_(std::move(what)) {}

  // Required, within [min, max].
  int64_t Int(const char* key, int64_t min, int64_t max);
  // With a default for a missing or null field.
  int64_t Int(const char* key, int64_t min, int64_t max, int64_t missing);
  double Number(const char* key, double min, double max, double missing);
  bool Bool(const char* key, bool missing);
  std::string String(const char* key, const std::string& missing);
  bool Has(const char* key) const;
  const Json* Object(const char* key);  // nullptr when missing; an error when it is something else
  // An array of `size` strings or integers; empty when missing.
  std::vector<std::string> Strings(const char* key, size_t size);
  std::vector<int64_t> Ints(const char* key, size_t size);

  // Records an error about a field.
  void Fail(const char* key, const std::string& why);
  const Status& status() const { return status_; }
  const Json& json() const { return object_; }
  const std::string& what() const { return what_; }

 private:
  void Keep(const Status& status) {
    if (status_.ok()) status_ = status;
  }
  const Json& object_;
  std::string what_;
  Status status_;
};

}  // namespace optiq

#endif  // OPTIQ_MODEL_CONFIG_FIELDS_H_
