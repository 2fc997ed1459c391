#include "quant/sensitivity_table.h"

#include <cmath>
#include <map>
#include <set>
#include <unordered_set>

#include "base/checked.h"
#include "base/limits.h"
#include "quant/affine_json.h"
#include "quant/escape.h"

namespace optiq {
namespace {

constexpr int64_t kVersion = 1;
constexpr size_t kMaxItems = limits::kTensorsPerFile;
constexpr size_t kMaxOptions = 256;
constexpr int64_t kMaxBytes = int64_t{1} << 50;

// A number that must be there, finite and not negative.
StatusOr<double> RequireMeasure(const Json& object, const char* key, std::string_view what) {
  ASSIGN_OR_RETURN(std::optional<double> v, GetDouble(object, key, what));
  if (!v) return InvalidArgument("{}: field '{}' is missing", what, key);
  if (!std::isfinite(*v) || *v < 0) {
    return InvalidArgument("{}: field '{}' is {}; it must be a finite number, 0 or above", what, key, *v);
  }
  return *v;
}

// The group size that most options have; ties to the smaller one.
int CommonGroupSize(const SensitivityTable& table) {
  std::map<int, int> count;
  for (const SensitivityItem& item : table.items) {
    for (const SensitivityOption& option : item.options) ++count[option.format.group_size];
  }
  int best = AffineFormat{}.group_size, most = 0;
  for (auto [group, n] : count) {
    if (n > most) best = group, most = n;
  }
  return best;
}

Json OptionToJson(const SensitivityOption& o) {
  return {{"bits", o.format.bits},
          {"group_size", o.format.group_size},
          {"encoder", o.encoder},
          {"bytes", o.bytes},
          {"kl", o.kl},
          {"measured", o.measured},
          {"kl_stderr", o.kl_stderr},
          {"weight_error", o.weight_error}};
}

StatusOr<SensitivityOption> OptionFromJson(const Json& json, std::string_view what) {
  if (!json.is_object()) return InvalidArgument("{}: must be an object", what);
  SensitivityOption o;
  ASSIGN_OR_RETURN(o.format, AffineFormatFromJson(json, what));
  ASSIGN_OR_RETURN(o.encoder, RequireString(json, "encoder", what));
  RETURN_IF_ERROR(CheckEncoderName(o.encoder, what));
  ASSIGN_OR_RETURN(int64_t bytes, RequireInt(json, "bytes", 1, kMaxBytes, what));
  o.bytes = static_cast<uint64_t>(bytes);
  ASSIGN_OR_RETURN(o.kl, RequireMeasure(json, "kl", what));
  ASSIGN_OR_RETURN(std::optional<bool> measured, GetBool(json, "measured", what));
  o.measured = measured.value_or(false);
  ASSIGN_OR_RETURN(o.kl_stderr, RequireMeasure(json, "kl_stderr", what));
  ASSIGN_OR_RETURN(o.weight_error, RequireMeasure(json, "weight_error", what));
  return o;
}

// mlx-optiq's view of an item: one KL per bit width, at the table's group size where there is one.
Json SensitivitiesByBits(const SensitivityItem& item, int group_size) {
  std::map<int, const SensitivityOption*> by_bits;
  for (const SensitivityOption& o : item.options) {
    const SensitivityOption*& slot = by_bits[o.format.bits];
    if (slot == nullptr || (slot->format.group_size != group_size && o.format.group_size == group_size)) slot = &o;
  }
  Json out = Json::object();
  for (auto [bits, option] : by_bits) out[std::to_string(bits)] = option->kl;
  return out;
}

Status ExpertsFromJson(const Json& json, const std::string& what, SensitivityItem* item) {
  auto tokens = json.find("expert_tokens"), shares = json.find("expert_error_shares");
  if (tokens == json.end()) return OkStatus();
  const size_t experts = item->shape.size() == 3 ? static_cast<size_t>(item->shape[0]) : 0;
  if (!tokens->is_array() || tokens->size() != experts) {
    return InvalidArgument("{}: field 'expert_tokens' must be a list of one count per expert", what);
  }
  for (const Json& v : *tokens) {
    if (!v.is_number_integer() || v.get<int64_t>() < 0) return InvalidArgument("{}: field 'expert_tokens' must hold counts", what);
    item->expert_tokens.push_back(v.get<int64_t>());
  }
  if (shares == json.end()) return OkStatus();
  if (!shares->is_array() || (!shares->empty() && shares->size() != experts)) {
    return InvalidArgument("{}: field 'expert_error_shares' must be a list of one number per expert", what);
  }
  for (const Json& v : *shares) {
    if (!v.is_number() || !(v.get<double>() >= 0 && v.get<double>() <= 1)) {
      return InvalidArgument("{}: field 'expert_error_shares' must hold numbers from 0 to 1", what);
    }
    item->expert_error_shares.push_back(v.get<double>());
  }
  return OkStatus();
}

StatusOr<SensitivityItem> ItemFromJson(const Json& json, std::string_view where) {
  if (!json.is_object()) return InvalidArgument("{}: must be an object", where);
  SensitivityItem item;
  ASSIGN_OR_RETURN(item.path, RequireString(json, "layer_name", where, limits::kTensorNameBytes));
  if (item.path.empty()) return InvalidArgument("{}: field 'layer_name' is empty", where);
  std::string what = fmt::format("{} ('{}')", where, item.path);
  auto shape = json.find("shape");
  if (shape == json.end() || !shape->is_array() || shape->size() < 2 || shape->size() > limits::kTensorRank) {
    return InvalidArgument("{}: field 'shape' must be a list of 2 to {} sizes", what, limits::kTensorRank);
  }
  for (const Json& d : *shape) {
    if (!d.is_number_integer() || d.get<int64_t>() < 1 || d.get<int64_t>() > (int64_t{1} << 40)) {
      return InvalidArgument("{}: field 'shape' must hold integers of 1 or more", what);
    }
    item.shape.push_back(d.get<int64_t>());
  }
  std::optional<uint64_t> params = CheckedProduct(item.shape);
  if (!params || *params > static_cast<uint64_t>(kMaxBytes)) return InvalidArgument("{}: the shape is too large", what);
  ASSIGN_OR_RETURN(std::optional<int64_t> count, GetInt(json, "param_count", what));
  if (count && static_cast<uint64_t>(*count) != *params) {
    return InvalidArgument("{}: param_count is {} but the shape holds {}", what, *count, *params);
  }
  ASSIGN_OR_RETURN(int64_t block, RequireInt(json, "block", -1, limits::kLayers, what));
  item.block = static_cast<int>(block);
  ASSIGN_OR_RETURN(int64_t dense, RequireInt(json, "dense_bytes", 0, kMaxBytes, what));
  item.dense_bytes = static_cast<uint64_t>(dense);
  auto options = json.find("options");
  if (options == json.end() || !options->is_array()) {
    return InvalidArgument(
        "{}: field 'options' must be a list; tables of other programs carry no byte counts, so measure "
        "the model again",
        what);
  }
  RETURN_IF_ERROR(ExpertsFromJson(json, what, &item));
  if (options->size() > kMaxOptions) return InvalidArgument("{}: more than {} options", what, kMaxOptions);
  if (options->empty() && item.dense_bytes == 0) return InvalidArgument("{}: there is no option to choose", what);
  for (size_t i = 0; i < options->size(); ++i) {
    ASSIGN_OR_RETURN(SensitivityOption o, OptionFromJson((*options)[i], fmt::format("{}: options[{}]", what, i)));
    if (item.shape.back() % o.format.group_size != 0) {
      return InvalidArgument("{}: options[{}]: rows of {} do not divide into groups of {}", what, i, item.shape.back(),
                             o.format.group_size);
    }
    for (const SensitivityOption& other : item.options) {
      if (other.format == o.format && other.encoder == o.encoder) {
        return InvalidArgument("{}: options[{}]: {}-bit, group {}, {} is there twice", what, i, o.format.bits,
                               o.format.group_size, o.encoder);
      }
    }
    item.options.push_back(std::move(o));
  }
  return item;
}

}  // namespace

uint64_t SensitivityItem::params() const { return CheckedProduct(shape).value_or(0); }

uint64_t AffineBytes(const std::vector<int64_t>& shape, AffineFormat format, int scale_bytes) {
  if (shape.empty() || !IsAffineBits(format.bits) || !IsAffineGroupSize(format.group_size)) return 0;
  if (shape.back() % format.group_size != 0) return 0;
  std::optional<uint64_t> params = CheckedProduct(shape);
  if (!params) return 0;
  uint64_t groups = *params / static_cast<uint64_t>(format.group_size);
  // A group is a multiple of 32 codes, so it fills whole 32-bit words.
  uint64_t group_bytes =
      static_cast<uint64_t>(format.group_size) * format.bits / 8 + 2 * static_cast<uint64_t>(scale_bytes);
  return CheckedMul(groups, group_bytes).value_or(0);
}

Json SensitivityTable::ToJson() const {
  int group_size = CommonGroupSize(*this);
  std::set<int> bits;
  Json layers = Json::array();
  for (const SensitivityItem& item : items) {
    Json options = Json::array();
    for (const SensitivityOption& o : item.options) {
      bits.insert(o.format.bits);
      options.push_back(OptionToJson(o));
    }
    layers.push_back({{"layer_name", ValidUtf8(item.path)},
                      {"sensitivities", SensitivitiesByBits(item, group_size)},
                      {"param_count", item.params()},
                      {"metadata", {{"block", item.block}}},
                      {"shape", item.shape},
                      {"block", item.block},
                      {"dense_bytes", item.dense_bytes},
                      {"options", std::move(options)}});
    if (!item.expert_tokens.empty()) {
      layers.back()["expert_tokens"] = item.expert_tokens;
      layers.back()["expert_error_shares"] = item.expert_error_shares;
    }
  }
  return {{"version", kVersion},
          {"base_model", ValidUtf8(base_model)},
          {"candidate_bits", bits},
          {"group_size", group_size},
          {"metric", ValidUtf8(metric)},
          {"reference", ValidUtf8(reference)},
          {"fingerprint", fingerprint},
          {"calibration",
           {{"sha256", calibration_sha256}, {"sequences", calibration_sequences}, {"length", calibration_length}}},
          {"layers", std::move(layers)}};
}

StatusOr<SensitivityTable> SensitivityTable::FromJson(const Json& json, std::string_view what) {
  if (!json.is_object()) return InvalidArgument("{}: a sensitivity table must be a JSON object", what);
  ASSIGN_OR_RETURN(std::optional<int64_t> version, GetInt(json, "version", what));
  if (!version) {
    return InvalidArgument("{}: field 'version' is missing; was this sensitivity table written by another program?",
                           what);
  }
  if (*version != kVersion) {
    return InvalidArgument("{}: sensitivity table version {} is not known (this program reads {})", what, *version,
                           kVersion);
  }
  SensitivityTable table;
  ASSIGN_OR_RETURN(table.base_model, RequireString(json, "base_model", what));
  ASSIGN_OR_RETURN(table.metric, RequireString(json, "metric", what));
  ASSIGN_OR_RETURN(table.reference, RequireString(json, "reference", what));
  ASSIGN_OR_RETURN(table.fingerprint, RequireString(json, "fingerprint", what));
  auto calibration = json.find("calibration");
  if (calibration == json.end() || !calibration->is_object()) {
    return InvalidArgument("{}: field 'calibration' must be an object", what);
  }
  std::string calibration_what = fmt::format("{}: calibration", what);
  ASSIGN_OR_RETURN(table.calibration_sha256, RequireString(*calibration, "sha256", calibration_what));
  ASSIGN_OR_RETURN(table.calibration_sequences,
                   RequireInt(*calibration, "sequences", 0, int64_t{1} << 40, calibration_what));
  ASSIGN_OR_RETURN(table.calibration_length, RequireInt(*calibration, "length", 0, limits::kContext, calibration_what));
  auto layers = json.find("layers");
  if (layers == json.end() || !layers->is_array()) return InvalidArgument("{}: field 'layers' must be a list", what);
  if (layers->size() > kMaxItems) return InvalidArgument("{}: more than {} layers", what, kMaxItems);
  std::unordered_set<std::string> seen;
  for (size_t i = 0; i < layers->size(); ++i) {
    ASSIGN_OR_RETURN(SensitivityItem item, ItemFromJson((*layers)[i], fmt::format("{}: layers[{}]", what, i)));
    if (!seen.insert(item.path).second) return InvalidArgument("{}: '{}' is listed twice", what, item.path);
    table.items.push_back(std::move(item));
  }
  return table;
}

}  // namespace optiq
