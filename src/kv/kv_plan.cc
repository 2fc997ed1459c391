#include "kv/kv_plan.h"

#include <algorithm>

#include "tensor/affine.h"

namespace optiq {
namespace {

Status CheckFormat(const KvFormat& f, const KvLayerGeometry& g, size_t layer, const char* side) {
  if (f.bits == 16 || f.bits == 32) return OkStatus();
  if (f.bits < 2 || f.bits == 7 || f.bits > 8) {
    return InvalidArgument("layer {}: {} bits for {}; there are 2, 3, 4, 5, 6, 8 and 16 (not quantized)", layer, f.bits, side);
  }
  if (!IsValidAffineFormat({f.bits, f.group_size})) {
    return InvalidArgument("layer {}: group size {} for {}; there are 32, 64 and 128", layer, f.group_size, side);
  }
  if (g.head_dim % f.group_size != 0) {
    return InvalidArgument("layer {}: its head size {} is not a multiple of the group size {}; use a smaller group or 16 bits for "
                           "this layer", layer, g.head_dim, f.group_size);
  }
  return OkStatus();
}

}  // namespace

KvPlan UniformKvPlan(const KvGeometry& geometry, KvFormat keys, KvFormat values) {
  KvPlan plan;
  plan.layers.assign(geometry.size(), {.keys = keys, .values = values});
  return plan;
}

Status CheckKvPlan(const KvPlan& plan, const KvGeometry& geometry) {
  if (plan.layers.size() != geometry.size()) {
    return InvalidArgument("the cache plan has {} layers, the model {}", plan.layers.size(), geometry.size());
  }
  for (size_t i = 0; i < geometry.size(); ++i) {
    if (geometry[i].heads == 0) continue;
    RETURN_IF_ERROR(CheckFormat(plan.layers[i].keys, geometry[i], i, "keys"));
    RETURN_IF_ERROR(CheckFormat(plan.layers[i].values, geometry[i], i, "values"));
    if (plan.layers[i].dense_first < 0 || plan.layers[i].dense_recent < 0) {
      return InvalidArgument("layer {}: numbers of dense tokens must not be negative", i);
    }
  }
  return OkStatus();
}

int64_t KvPositionsKept(const KvLayerGeometry& layer, int64_t context) {
  return layer.window > 0 ? std::min(layer.window, context) : context;
}

int64_t KvBytesPerToken(const KvLayerGeometry& g, const KvLayerPlan& plan) {
  if (g.heads == 0) return 0;
  return KvRowBytes(plan.keys, g.heads, g.head_dim) + KvRowBytes(plan.values, g.heads, g.head_dim);
}

int64_t KvLayerBytes(const KvLayerGeometry& g, const KvLayerPlan& plan, int64_t context) {
  if (g.heads == 0) return g.state * 4;
  const int64_t kept = KvPositionsKept(g, context), per_token = KvBytesPerToken(g, plan);
  if (!plan.quantized()) return kept * per_token;
  const int64_t dense = 2 * KvRowBytes(KvFormat{}, g.heads, g.head_dim);
  // Dense copies are kept beside the quantized rows' places.
  return kept * per_token + (std::min(plan.dense_first, kept) + std::min(plan.dense_recent, kept)) * dense;
}

int64_t KvPlanBytes(const KvPlan& plan, const KvGeometry& geometry, int64_t context) {
  int64_t total = 0;
  for (size_t i = 0; i < geometry.size(); ++i) total += KvLayerBytes(geometry[i], plan.layers[i], context);
  return total;
}

}  // namespace optiq
