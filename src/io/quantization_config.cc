#include "io/quantization_config.h"

#include <algorithm>
#include <array>

#include "base/checked.h"
#include "io/safetensors.h"

namespace optiq {
namespace {

constexpr std::array<int, 6> kBits = {2, 3, 4, 5, 6, 8};
constexpr std::array<int, 3> kGroupSizes = {32, 64, 128};

template <size_t N>
StatusOr<int> OneOf(const Json& object, const char* key, const std::array<int, N>& allowed, std::optional<int> missing,
                    const std::string& what) {
  ASSIGN_OR_RETURN(std::optional<int64_t> v, GetInt(object, key, what));
  if (!v && missing) return *missing;
  if (!v) return InvalidArgument("{}: field '{}' is missing", what, key);
  if (std::find(allowed.begin(), allowed.end(), *v) == allowed.end()) {
    return InvalidArgument("{}: field '{}' is {}; it must be one of {}", what, key, *v, fmt::join(allowed, ", "));
  }
  return static_cast<int>(*v);
}

// One {"bits", "group_size", "mode"} object. An entry may leave bits or group_size out: mlx then takes 4 and 64.
StatusOr<AffineFormat> ParseFormat(const Json& object, bool is_entry, const std::string& what) {
  if (!object.is_object()) return InvalidArgument("{}: must be an object with bits and group_size", what);
  ASSIGN_OR_RETURN(std::optional<std::string> mode, GetString(object, "mode", what));
  if (mode && *mode != "affine") {
    return Unimplemented("{}: quantization mode '{}' is not supported, only 'affine'", what, PrintableName(*mode));
  }
  AffineFormat format;
  const std::optional<int> default_bits = is_entry ? std::optional(4) : std::nullopt;
  const std::optional<int> default_group = is_entry ? std::optional(64) : std::nullopt;
  ASSIGN_OR_RETURN(format.bits, OneOf(object, "bits", kBits, default_bits, what));
  ASSIGN_OR_RETURN(format.group_size, OneOf(object, "group_size", kGroupSizes, default_group, what));
  return format;
}

// Fields of the section itself; the others are module paths.
bool IsGlobalField(std::string_view key) { return key == "bits" || key == "group_size" || key == "mode"; }

const Json* Field(const Json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

std::string EntryName(std::string_view path) {
  return fmt::format("config.json: quantization['{}']", PrintableName(path));
}

// Does `format` describe a weight of `packed` u32 per row with `groups` scales per row?
bool Fits(const AffineFormat& format, int64_t packed, int64_t groups) {
  const auto bits = CheckedMul(groups, static_cast<uint64_t>(format.bits) * format.group_size);
  const auto have = CheckedMul(packed, 32);
  return bits && have && *bits == *have;
}

StatusOr<AffineFormat> Infer(const Json& config, const std::string& name, int64_t packed, int64_t groups,
                             int64_t in_dim) {
  if (in_dim > 0) {
    for (int bits : kBits) {
      for (int group : kGroupSizes) {
        if (groups == in_dim / group && in_dim % group == 0 && Fits({bits, group}, packed, groups)) {
          return AffineFormat{bits, group};
        }
      }
    }
    return DataLoss("tensor '{}.weight': {} packed words and {} scales a row fit no affine format of {} inputs", name,
                    packed, groups, in_dim);
  }
  ASSIGN_OR_RETURN(AffineFormat global, ParseFormat(config["quantization"], false, "config.json: quantization"));
  if (Fits(global, packed, groups)) return global;
  std::vector<AffineFormat> fitting;
  for (int bits : kBits) {
    for (int group : kGroupSizes) {
      if (Fits({bits, group}, packed, groups)) fitting.push_back({bits, group});
    }
  }
  if (fitting.size() == 1) return fitting[0];
  if (fitting.empty()) {
    return DataLoss("tensor '{}.weight': {} packed words and {} scales a row fit no affine format", name, packed,
                    groups);
  }
  return InvalidArgument(
      "config.json: quantization has no entry for '{}', and {} packed words with {} scales a row fit several formats; "
      "add its bits and group_size",
      name, packed, groups);
}

Status CheckTensors(const std::string& name, const ModuleTensors& t) {
  if (t.biases == nullptr) return DataLoss("tensor '{}.biases': missing beside '{}.scales'", name, name);
  if (t.weight->dtype != DType::kU32) {
    return DataLoss("tensor '{}.weight': dtype {}, expected U32 beside scales", name, DTypeName(t.weight->dtype));
  }
  if (!IsFloat(t.scales->dtype)) {
    return Unimplemented(
        "tensor '{}.scales': dtype {}; only affine quantization (F32, F16 or BF16 scales) is supported", name,
        DTypeName(t.scales->dtype));
  }
  if (t.biases->dtype != t.scales->dtype) {
    return DataLoss("tensor '{}.biases': dtype {}, but scales are {}", name, DTypeName(t.biases->dtype),
                    DTypeName(t.scales->dtype));
  }
  if (t.biases->shape != t.scales->shape) {
    return DataLoss("tensor '{}.biases': shape {}, but scales are {}", name, t.biases->ShapeString(),
                    t.scales->ShapeString());
  }
  if (t.weight->rank() < 2 || t.scales->rank() != t.weight->rank() ||
      !std::equal(t.weight->shape.begin(), t.weight->shape.end() - 1, t.scales->shape.begin())) {
    return DataLoss("tensor '{}.scales': shape {} does not go with a weight of {}", name, t.scales->ShapeString(),
                    t.weight->ShapeString());
  }
  if (t.scales->cols() == 0 || t.weight->cols() == 0) return DataLoss("tensor '{}.weight': empty rows", name);
  return OkStatus();
}

}  // namespace

bool HasQuantization(const Json& config) { return Field(config, "quantization") != nullptr; }

Status CheckQuantizationSection(const Json& config, std::string_view what) {
  if (const Json* section = Field(config, "quantization")) {
    const std::string subject = fmt::format("{}: quantization", what);
    RETURN_IF_ERROR(ParseFormat(*section, false, subject).status());
    for (const auto& [key, value] : section->items()) {
      if (IsGlobalField(key) || value.is_boolean()) continue;
      // mlx-swift and others add notes such as "linear_class": "quantized_linear"; a module path has a dot.
      if (value.is_primitive() && key.find('.') == std::string::npos) continue;
      RETURN_IF_ERROR(ParseFormat(value, true, fmt::format("{}['{}']", subject, PrintableName(key))).status());
    }
    return OkStatus();
  }
  const Json* legacy = Field(config, "quantization_config");
  if (legacy == nullptr) {
    if (const Json* text = Field(config, "text_config")) legacy = Field(*text, "quantization_config");
  }
  if (legacy == nullptr || (legacy->is_object() && legacy->empty())) return OkStatus();
  const std::string subject = fmt::format("{}: quantization_config", what);
  if (!legacy->is_object()) return InvalidArgument("{}: must be an object", subject);
  ASSIGN_OR_RETURN(std::optional<std::string> method, GetString(*legacy, "quant_method", subject));
  if (!method) return InvalidArgument("{}: field 'quant_method' is missing", subject);
  return Unimplemented("{}: weights quantized with '{}' are not supported; start from the unquantized or an MLX model",
                       subject, PrintableName(*method));
}

StatusOr<std::optional<AffineFormat>> ResolveQuantization(const Json& config, std::string_view module_path,
                                                          const ModuleTensors& tensors, int64_t in_dim) {
  const std::string name(module_path);
  const Json* section = Field(config, "quantization");
  if (section == nullptr) {
    if (tensors.scales != nullptr && tensors.weight != nullptr && tensors.weight->dtype == DType::kU32) {
      return InvalidArgument("config.json: '{}' is quantized, but there is no 'quantization' field",
                             PrintableName(name));
    }
    return std::nullopt;
  }
  const Json* entry = IsGlobalField(name) ? nullptr : Field(*section, name.c_str());
  const bool has_scales = tensors.weight != nullptr && tensors.scales != nullptr;
  if (entry != nullptr && entry->is_boolean() && !entry->get<bool>()) {
    if (has_scales) return InvalidArgument("{}: is false, but the file holds '{}.scales'", EntryName(name), name);
    return std::nullopt;
  }
  if (!has_scales) {
    if (entry == nullptr || tensors.weight == nullptr) return std::nullopt;
    return InvalidArgument("{}: says quantized, but the file holds no '{}.scales'", EntryName(name), name);
  }
  RETURN_IF_ERROR(CheckTensors(name, tensors));
  const int64_t packed = tensors.weight->cols(), groups = tensors.scales->cols();
  if (entry == nullptr) {
    ASSIGN_OR_RETURN(AffineFormat format, Infer(config, name, packed, groups, in_dim));
    return format;
  }
  AffineFormat format;
  if (entry->is_boolean()) {
    ASSIGN_OR_RETURN(format, ParseFormat(*section, false, "config.json: quantization"));
  } else {
    ASSIGN_OR_RETURN(format, ParseFormat(*entry, true, EntryName(name)));
  }
  const std::optional<uint64_t> inputs = CheckedMul(groups, format.group_size);
  if (!Fits(format, packed, groups) || (in_dim > 0 && inputs != static_cast<uint64_t>(in_dim))) {
    return InvalidArgument("{}: {} bits in groups of {}, but the weight is {} and the scales are {}", EntryName(name),
                           format.bits, format.group_size, tensors.weight->ShapeString(),
                           tensors.scales->ShapeString());
  }
  return format;
}

}  // namespace optiq
