#include "text/ordered_json.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

namespace optiq {
namespace {

// Builds a value without recursion and stops at the first limit passed.
class Builder : public nlohmann::json_sax<OrderedJson> {
 public:
  Builder(const JsonLimits& limits, OrderedJson* root) : limits_(limits), root_(root) {}

  bool null() override { return Place(nullptr) != nullptr; }
  bool boolean(bool v) override { return Place(v) != nullptr; }
  bool number_integer(number_integer_t v) override { return Place(v) != nullptr; }
  bool number_unsigned(number_unsigned_t v) override { return Place(v) != nullptr; }
  bool number_float(number_float_t v, const string_t&) override {
    return std::isfinite(v) ? Place(v) != nullptr : Fail("a number is too large");
  }
  bool string(string_t& v) override { return Place(std::move(v)) != nullptr; }
  bool binary(binary_t&) override { return Fail("binary values are not JSON"); }
  bool start_object(size_t) override { return Open(OrderedJson::object()); }
  bool start_array(size_t) override { return Open(OrderedJson::array()); }
  bool key(string_t& k) override {
    keys_.push_back(std::move(k));
    return true;
  }
  bool end_object() override {
    // Adjacent equal names after sorting: linear search in the ordered map would be quadratic on wide objects.
    std::vector<std::string_view> names;
    for (const auto& [name, value] : stack_.back()->get_ref<OrderedJson::object_t&>()) names.push_back(name);
    std::sort(names.begin(), names.end());
    auto twice = std::adjacent_find(names.begin(), names.end());
    if (twice != names.end()) return Fail(fmt::format("the key '{}' appears twice", twice->substr(0, 80)));
    stack_.pop_back();
    return true;
  }
  bool end_array() override {
    stack_.pop_back();
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
  OrderedJson* Place(OrderedJson v) {
    if (++count_ > limits_.max_values) {
      Fail(fmt::format("more than {} values", limits_.max_values));
      return nullptr;
    }
    if (stack_.empty()) {
      *root_ = std::move(v);
      return root_;
    }
    if (stack_.back()->is_array()) {
      stack_.back()->push_back(std::move(v));
      return &stack_.back()->back();
    }
    auto& object = stack_.back()->get_ref<OrderedJson::object_t&>();
    object.std::vector<std::pair<const std::string, OrderedJson>>::emplace_back(std::move(keys_.back()), std::move(v));
    keys_.pop_back();
    return &object.back().second;
  }
  bool Open(OrderedJson v) {
    if (static_cast<int>(stack_.size()) >= limits_.max_depth) {
      return Fail(fmt::format("nested deeper than {} levels", limits_.max_depth));
    }
    OrderedJson* placed = Place(std::move(v));
    if (placed != nullptr) stack_.push_back(placed);
    return placed != nullptr;
  }

  const JsonLimits& limits_;
  OrderedJson* root_;
  std::vector<OrderedJson*> stack_;
  std::vector<std::string> keys_;  // names whose values are still to come
  std::string error_;
  size_t count_ = 0;
};

}  // namespace

StatusOr<OrderedJson> ParseOrderedJson(std::string_view text, std::string_view what, const JsonLimits& limits) {
  OrderedJson root;
  Builder builder(limits, &root);
  if (!OrderedJson::sax_parse(text.begin(), text.end(), &builder)) {
    return DataLoss("{}: {}", what, builder.error().empty() ? "not valid JSON" : builder.error());
  }
  return root;
}

bool DeeperThan(const OrderedJson& value, int depth) {
  if (!value.is_structured()) return false;
  if (depth <= 0) return true;
  return std::any_of(value.begin(), value.end(), [&](const OrderedJson& v) { return DeeperThan(v, depth - 1); });
}

}  // namespace optiq
