#include "io/safetensors_header.h"

#include <algorithm>
#include <array>

#include "base/json.h"
#include "base/limits.h"
#include "io/safetensors.h"

namespace optiq {
namespace {

// Dtypes that the format defines and we do not read: worth another message than a misspelt one.
constexpr std::array<std::string_view, 6> kForeignDTypes = {"F4",      "F6_E2M3",     "F6_E3M2",
                                                            "F8_E8M0", "F8_E4M3FNUZ", "C64"};

class HeaderReader : public nlohmann::json_sax<Json> {
 public:
  // mlx writes "__metadata__": null when there is none, and the Rust crate reads that as absent.
  bool null() override {
    if (place_ == Place::kRoot && key_ == "__metadata__" && !metadata_seen_) return metadata_seen_ = true;
    return Unexpected("null");
  }
  bool boolean(bool) override { return Unexpected("a boolean"); }
  bool number_integer(number_integer_t) override { return Unexpected("a negative number"); }
  bool number_float(number_float_t, const string_t&) override {
    return Unexpected("a fraction or a number above 64 bits");
  }
  bool binary(binary_t&) override { return Unexpected("a binary value"); }

  bool number_unsigned(number_unsigned_t v) override {
    if (place_ == Place::kShape) {
      if (v > static_cast<uint64_t>(INT64_MAX)) return Fail("the shape holds a number above 63 bits");
      if (tensor_.shape.size() == limits::kTensorRank) {
        return Fail(fmt::format("the shape has more than {} dimensions", limits::kTensorRank));
      }
      tensor_.shape.push_back(static_cast<int64_t>(v));
      return true;
    }
    if (place_ == Place::kOffsets) {
      if (offsets_ == 2) return Fail("data_offsets must hold two numbers");
      (offsets_++ == 0 ? tensor_.begin : tensor_.end) = v;
      return true;
    }
    return Unexpected("a number");
  }

  bool string(string_t& v) override {
    if (place_ == Place::kMetadata) {
      header_.metadata[key_] = std::move(v);
      return true;
    }
    if (place_ != Place::kTensor || field_ != Field::kDType) return Unexpected("a string");
    std::optional<DType> dtype = DTypeFromSafetensors(v);
    if (!dtype) {
      if (std::find(kForeignDTypes.begin(), kForeignDTypes.end(), v) != kForeignDTypes.end()) {
        code_ = absl::StatusCode::kUnimplemented;
        return Fail(fmt::format("dtype {} is not supported", v));
      }
      return Fail(fmt::format("unknown dtype '{}'", PrintableName(v)));
    }
    tensor_.dtype = *dtype;
    return true;
  }

  bool start_object(size_t) override {
    switch (place_) {
      case Place::kStart:
        place_ = Place::kRoot;
        return true;
      case Place::kRoot:
        place_ = key_ == "__metadata__" ? Place::kMetadata : Place::kTensor;
        seen_ = 0;
        if (place_ == Place::kTensor) return BeginTensor();
        if (metadata_seen_) return Fail("__metadata__ appears twice");
        return metadata_seen_ = true;
      default:
        return Unexpected("an object");
    }
  }

  bool key(string_t& k) override {
    switch (place_) {
      case Place::kRoot:
        key_ = std::move(k);
        return true;
      case Place::kMetadata:
        key_ = std::move(k);
        if (header_.metadata.contains(key_))
          return Fail(fmt::format("the key '{}' appears twice", PrintableName(key_)));
        return true;
      case Place::kTensor:
        if (k == "dtype") return Begin(Field::kDType, "dtype");
        if (k == "shape") return Begin(Field::kShape, "shape");
        if (k == "data_offsets") return Begin(Field::kOffsets, "data_offsets");
        return Fail(fmt::format("unknown field '{}'", PrintableName(k)));
      default:
        return Unexpected("a key");
    }
  }

  bool end_object() override {
    if (place_ == Place::kTensor) {
      if (seen_ != 7) return Fail("dtype, shape or data_offsets is missing");
      header_.entries.push_back(std::move(tensor_));
    }
    place_ = place_ == Place::kRoot ? Place::kEnd : Place::kRoot;
    return true;
  }

  bool start_array(size_t) override {
    if (place_ != Place::kTensor || field_ == Field::kDType) return Unexpected("an array");
    place_ = field_ == Field::kShape ? Place::kShape : Place::kOffsets;
    return true;
  }

  bool end_array() override {
    if (place_ == Place::kOffsets && offsets_ != 2) return Fail("data_offsets must hold two numbers");
    place_ = Place::kTensor;
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) override {
    place_ = Place::kStart;  // the fault is in the text, not in one tensor
    return Fail(fmt::format("not valid JSON at byte {}", position));
  }

  Status status() const { return error_.empty() ? OkStatus() : Status(code_, error_); }
  SafetensorsHeader Take() { return std::move(header_); }

 private:
  enum class Place { kStart, kRoot, kMetadata, kTensor, kShape, kOffsets, kEnd };
  enum class Field { kDType = 1, kShape = 2, kOffsets = 4 };

  bool BeginTensor() {
    if (key_.empty()) return Fail("the name is empty");
    if (key_.size() > limits::kTensorNameBytes) {
      return Fail(fmt::format("the name is longer than {} bytes", limits::kTensorNameBytes));
    }
    if (std::any_of(key_.begin(), key_.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; })) {
      return Fail("the name contains control characters");
    }
    if (header_.entries.size() == limits::kTensorsPerFile) {
      return Fail(fmt::format("more than {} tensors", limits::kTensorsPerFile));
    }
    tensor_ = HeaderEntry();
    tensor_.name = key_;
    offsets_ = 0;
    return true;
  }

  bool Begin(Field field, const char* name) {
    if (seen_ & static_cast<int>(field)) return Fail(fmt::format("the field {} appears twice", name));
    seen_ |= static_cast<int>(field);
    field_ = field;
    return true;
  }

  bool Unexpected(std::string_view what) {
    switch (place_) {
      case Place::kShape:
        return Fail(fmt::format("the shape holds {}", what));
      case Place::kOffsets:
        return Fail(fmt::format("data_offsets holds {}", what));
      case Place::kMetadata:
        return Fail(fmt::format("the value of '{}' must be a string, not {}", PrintableName(key_), what));
      case Place::kTensor:
        return Fail(
            fmt::format("{} must be {}, not {}",
                        field_ == Field::kDType ? "dtype" : (field_ == Field::kShape ? "shape" : "data_offsets"),
                        field_ == Field::kDType ? "a string" : "an array of whole numbers", what));
      default:
        return Fail(fmt::format("must be an object, not {}", what));
    }
  }

  bool Fail(const std::string& why) {
    if (!error_.empty()) return false;
    switch (place_) {
      case Place::kStart:
      case Place::kEnd:
        error_ = "header: " + why;
        break;
      case Place::kMetadata:
        error_ = "__metadata__: " + why;
        break;
      default:
        error_ = fmt::format("tensor '{}': {}", PrintableName(key_), why);
    }
    return false;
  }

  SafetensorsHeader header_;
  HeaderEntry tensor_;
  Place place_ = Place::kStart;
  Field field_ = Field::kDType;
  int seen_ = 0;     // Field bits of the current tensor
  int offsets_ = 0;  // numbers read of data_offsets
  bool metadata_seen_ = false;
  std::string key_;  // of the root: a tensor's name; of __metadata__: its key
  std::string error_;
  absl::StatusCode code_ = absl::StatusCode::kDataLoss;
};

}  // namespace

StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view json) {
  if (!json.starts_with('{')) return DataLoss("header: must start with '{{'");
  // The JSON lexer takes a NUL for the end of the text and would not look at what follows.
  if (json.find('\0') != std::string_view::npos) return DataLoss("header: contains a NUL byte");
  HeaderReader reader;
  const bool ok = Json::sax_parse(json.begin(), json.end(), &reader);
  RETURN_IF_ERROR(reader.status());
  if (!ok) return DataLoss("header: not valid JSON");
  return reader.Take();
}

}  // namespace optiq
