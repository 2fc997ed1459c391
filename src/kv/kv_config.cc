#include "kv/kv_config.h"

#include <fmt/format.h>

namespace optiq {
namespace {

constexpr uint64_t kMaxBytes = 1 << 20;
constexpr char kFormatName[] = "optiq-kv-config";

// {"bits": .., "group_size": ..}
StatusOr<KvFormat> ParseFormat(const Json& json, const std::string& what) {
  KvFormat format;
  ASSIGN_OR_RETURN(const int64_t bits, RequireInt(json, "bits", 0, 64, what));
  if (bits < 2 || bits == 7 || (bits > 8 && bits != 16)) {
    return InvalidArgument("{}: bits is {}; there are 2, 3, 4, 5, 6, 8 and 16 (not quantized)", what, bits);
  }
  format.bits = static_cast<int>(bits);
  ASSIGN_OR_RETURN(const auto group, GetInt(json, "group_size", what));
  const int64_t group_size = group.value_or(64);
  if (group_size != 32 && group_size != 64 && group_size != 128) {
    return InvalidArgument("{}: group_size is {}; there are 32, 64 and 128", what, group_size);
  }
  format.group_size = static_cast<int>(group_size);
  return format;
}

StatusOr<KvLayerPlan> ParseLayer(const Json& item, bool list, const std::string& what) {
  KvLayerPlan plan;
  if (list) {
    ASSIGN_OR_RETURN(plan.keys, ParseFormat(item, what));
    plan.values = plan.keys;
    return plan;
  }
  for (const char* side : {"keys", "values"}) {
    auto it = item.find(side);
    if (it == item.end() || !it->is_object()) return InvalidArgument("{}: '{}' must be an object with bits and group_size", what, side);
    ASSIGN_OR_RETURN((side[0] == 'k' ? plan.keys : plan.values), ParseFormat(*it, fmt::format("{}.{}", what, side)));
  }
  for (const char* key : {"dense_first", "dense_recent"}) {
    ASSIGN_OR_RETURN(const auto n, GetInt(item, key, what));
    if (n.value_or(0) < 0 || n.value_or(0) > 1 << 20) {
      return InvalidArgument("{}: {} is {}; it must be between 0 and {}", what, key, *n, 1 << 20);
    }
    (key[6] == 'f' ? plan.dense_first : plan.dense_recent) = n.value_or(0);
  }
  return plan;
}

Json FormatJson(const KvFormat& f) {
  Json json = {{"bits", f.bits}};
  if (f.quantized()) json["group_size"] = f.group_size;
  return json;
}

}  // namespace

StatusOr<KvPlan> ParseKvConfig(const Json& json, const KvGeometry& geometry, const std::string& fingerprint,
                               const std::string& what) {
  KvPlan plan;
  const bool list = json.is_array();
  const Json* layers = &json;
  if (!list) {
    if (!json.is_object() || !json.contains("format") || json["format"] != kFormatName) {
      return InvalidArgument("{}: must be a list of {{layer_idx, bits, group_size}} or an object of format {}", what, kFormatName);
    }
    RETURN_IF_ERROR(RequireInt(json, "version", 1, 1, what).status());
    ASSIGN_OR_RETURN(const auto made_for, GetString(json, "model", what));
    if (made_for && !fingerprint.empty() && *made_for != fingerprint) {
      return InvalidArgument("{}: it was made for another model (fingerprint {:.12}, this one has {:.12})", what, *made_for, fingerprint);
    }
    ASSIGN_OR_RETURN(const auto start, GetInt(json, "quantized_kv_start", what));
    if (start.value_or(0) < 0) return InvalidArgument("{}: quantized_kv_start is {}; it must not be negative", what, *start);
    plan.quantized_start = start.value_or(0);
    auto it = json.find("layers");
    if (it == json.end() || !it->is_array()) return InvalidArgument("{}: 'layers' must be a list", what);
    layers = &*it;
  }
  plan.layers.resize(geometry.size());
  std::vector<bool> seen(geometry.size(), false);
  for (size_t i = 0; i < layers->size(); ++i) {
    const Json& item = (*layers)[i];
    const std::string where = fmt::format("{}: entry {}", what, i);
    if (!item.is_object()) return InvalidArgument("{}: must be an object", where);
    ASSIGN_OR_RETURN(const auto index, GetInt(item, "layer_idx", where));
    if (!index) return InvalidArgument("{}: layer_idx is missing", where);
    const int64_t layer = *index;
    if (layer < 0 || layer >= static_cast<int64_t>(geometry.size())) {
      return InvalidArgument("{}: layer_idx {} does not exist; the model has {} layers", where, layer, geometry.size());
    }
    if (geometry[layer].donor >= 0) {
      return InvalidArgument("{}: layer {} keeps no keys of its own, it reads those of layer {}; configure that one", where, layer,
                             geometry[layer].donor);
    }
    if (geometry[layer].heads == 0) return InvalidArgument("{}: layer {} has no attention", where, layer);
    if (seen[layer]) return InvalidArgument("{}: layer {} is there twice", where, layer);
    seen[layer] = true;
    ASSIGN_OR_RETURN(plan.layers[layer], ParseLayer(item, list, fmt::format("{}: layer {}", what, layer)));
  }
  for (size_t i = 0; i < geometry.size(); ++i) {
    if (geometry[i].heads > 0 && !seen[i]) {
      return InvalidArgument("{}: layer {} is missing; give it 16 bits to leave it as it is", what, i);
    }
  }
  if (const Status status = CheckKvPlan(plan, geometry); !status.ok()) return Annotate(status, what);
  return plan;
}

StatusOr<KvPlan> ReadKvConfig(const std::string& path, const KvGeometry& geometry, const std::string& fingerprint) {
  ASSIGN_OR_RETURN(const Json json, ReadJsonFile(path, kMaxBytes));
  return ParseKvConfig(json, geometry, fingerprint, path);
}

Json KvConfigToList(const KvPlan& plan, const KvGeometry& geometry) {
  Json list = Json::array();
  for (size_t i = 0; i < geometry.size(); ++i) {
    if (geometry[i].heads == 0) continue;
    OPTIQ_CHECK(plan.layers[i].keys == plan.layers[i].values);
    Json item = FormatJson(plan.layers[i].keys);
    item["layer_idx"] = i;
    list.push_back(std::move(item));
  }
  return list;
}

Json KvConfigToJson(const KvPlan& plan, const KvGeometry& geometry) {
  Json layers = Json::array();
  for (size_t i = 0; i < geometry.size(); ++i) {
    if (geometry[i].heads == 0) continue;
    const KvLayerPlan& p = plan.layers[i];
    Json item = {{"layer_idx", i}, {"keys", FormatJson(p.keys)}, {"values", FormatJson(p.values)}};
    if (p.dense_first > 0) item["dense_first"] = p.dense_first;
    if (p.dense_recent > 0) item["dense_recent"] = p.dense_recent;
    layers.push_back(std::move(item));
  }
  return {{"format", kFormatName}, {"version", 1}, {"quantized_kv_start", plan.quantized_start}, {"layers", std::move(layers)}};
}

}  // namespace optiq
