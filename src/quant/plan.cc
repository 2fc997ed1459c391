#include "quant/plan.h"

#include "base/limits.h"
#include "quant/affine_json.h"
#include "quant/escape.h"

namespace optiq {
namespace {

constexpr int64_t kVersion = 1;

// Plans are edited by hand: a misspelt field must not be passed over.
Status CheckFields(const Json& object, std::initializer_list<std::string_view> known, std::string_view what) {
  for (const auto& [key, value] : object.items()) {
    bool ok = false;
    for (std::string_view k : known) ok = ok || key == k;
    if (!ok) {
      return InvalidArgument("{}: unknown field '{}'; known are {}", what, key.substr(0, 64), fmt::join(known, ", "));
    }
  }
  return OkStatus();
}

StatusOr<PlanEntry> EntryFromJson(const Json& json, const AffineFormat& defaults, std::string_view what) {
  PlanEntry entry;
  if (json.is_boolean() && !json.get<bool>()) {
    entry.dense = true;
    return entry;
  }
  if (!json.is_object()) {
    return InvalidArgument(
        "{}: must be {{\"bits\": .., \"group_size\": .., \"encoder\": ..}}, or false to leave it dense", what);
  }
  RETURN_IF_ERROR(CheckFields(json, {"bits", "group_size", "encoder"}, what));
  ASSIGN_OR_RETURN(entry.format, AffineFormatFromJson(json, what, &defaults));
  ASSIGN_OR_RETURN(std::optional<std::string> encoder, GetString(json, "encoder", what));
  if (encoder) {
    RETURN_IF_ERROR(CheckEncoderName(*encoder, what));
    entry.encoder = *encoder;
  }
  return entry;
}

}  // namespace

Json Plan::ToJson() const {
  Json layers = Json::object();
  for (const auto& [path, e] : entries) {
    if (e.dense) {
      layers[ValidUtf8(path)] = false;
    } else {
      layers[ValidUtf8(path)] = {{"bits", e.format.bits}, {"group_size", e.format.group_size}, {"encoder", e.encoder}};
    }
  }
  return {{"version", kVersion},
          {"base_model", ValidUtf8(base_model)},
          {"origin", ValidUtf8(origin)},
          {"default", {{"bits", default_format.bits}, {"group_size", default_format.group_size}}},
          {"layers", std::move(layers)}};
}

StatusOr<Plan> Plan::FromJson(const Json& json, std::string_view what) {
  if (!json.is_object()) return InvalidArgument("{}: a plan must be a JSON object", what);
  RETURN_IF_ERROR(CheckFields(json, {"version", "base_model", "origin", "default", "layers", "comment"}, what));
  ASSIGN_OR_RETURN(int64_t version, RequireInt(json, "version", 1, INT64_MAX, what));
  if (version != kVersion) {
    return InvalidArgument("{}: plan version {} is not known (this program reads {})", what, version, kVersion);
  }
  Plan plan;
  ASSIGN_OR_RETURN(std::optional<std::string> base_model, GetString(json, "base_model", what));
  plan.base_model = base_model.value_or("");
  ASSIGN_OR_RETURN(std::optional<std::string> origin, GetString(json, "origin", what));
  plan.origin = origin.value_or(fmt::format("file {}", what));
  auto defaults = json.find("default");
  if (defaults == json.end() || !defaults->is_object()) {
    return InvalidArgument("{}: field 'default' must be an object with bits and group_size", what);
  }
  std::string default_what = fmt::format("{}: default", what);
  RETURN_IF_ERROR(CheckFields(*defaults, {"bits", "group_size"}, default_what));
  ASSIGN_OR_RETURN(plan.default_format, AffineFormatFromJson(*defaults, default_what));
  auto layers = json.find("layers");
  if (layers == json.end() || !layers->is_object()) {
    return InvalidArgument("{}: field 'layers' must be an object of module path -> format", what);
  }
  if (layers->size() > limits::kTensorsPerFile) {
    return InvalidArgument("{}: more than {} layers", what, limits::kTensorsPerFile);
  }
  for (const auto& [path, value] : layers->items()) {
    if (path.empty() || path.size() > limits::kTensorNameBytes) {
      return InvalidArgument("{}: layers: a module path must have 1 to {} bytes", what, limits::kTensorNameBytes);
    }
    ASSIGN_OR_RETURN(plan.entries[path],
                     EntryFromJson(value, plan.default_format, fmt::format("{}: layers: '{}'", what, path)));
  }
  return plan;
}

}  // namespace optiq
