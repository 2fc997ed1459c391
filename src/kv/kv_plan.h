// What a cache is made of: the layers' geometry, which the model fixes, and the formats, which the user or a kv_config.json chooses.
#ifndef OPTIQ_KV_KV_PLAN_H_
#define OPTIQ_KV_KV_PLAN_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "tensor/kv_page.h"

namespace optiq {

// One layer of the model.
struct KvLayerGeometry {
  int64_t heads = 0;     // key-value heads; 0: the layer keeps no keys of its own
  int64_t head_dim = 0;
  int64_t window = 0;    // positions visible from a query, itself included: a ring of that many; 0: all are kept
  int64_t keep = 0;      // of a ring: the first `keep` positions are never overwritten (mlx-lm's attention sinks)
  int donor = -1;        // the layer whose keys and values this one reads; -1: its own
  int64_t state = 0;     // f32 values carried along instead of keys (short convolutions)
};
using KvGeometry = std::vector<KvLayerGeometry>;

struct KvLayerPlan {
  KvFormat keys, values;
  int64_t dense_first = 0;   // of a quantized layer: the first tokens stay bf16
  int64_t dense_recent = 0;  // and so do the most recent ones, until they are no longer
  bool quantized() const { return keys.quantized() || values.quantized(); }
  friend bool operator==(const KvLayerPlan& a, const KvLayerPlan& b) {
    return a.keys == b.keys && a.values == b.values &&
           (!a.quantized() || (a.dense_first == b.dense_first && a.dense_recent == b.dense_recent));
  }
};

struct KvPlan {
  std::vector<KvLayerPlan> layers;  // as the geometry; entries of layers without keys of their own are not looked at
  // Layers stay dense until the cache holds this many positions, and are converted then (mlx-lm's quantized_kv_start). With 0 rows
  // are quantized as they come.
  int64_t quantized_start = 0;
};

// All layers alike. bits: as KvFormat; a quantized format whose group does not divide a layer's head_dim is refused by CheckKvPlan.
KvPlan UniformKvPlan(const KvGeometry& geometry, KvFormat keys, KvFormat values);
inline KvPlan UniformKvPlan(const KvGeometry& geometry, KvFormat both) { return UniformKvPlan(geometry, both, both); }

// kInvalidArgument, naming the layer, for bits or groups that do not exist or do not divide the head size, and for plans with
// another number of layers.
Status CheckKvPlan(const KvPlan& plan, const KvGeometry& geometry);

// Positions a layer keeps of `context` positions.
int64_t KvPositionsKept(const KvLayerGeometry& layer, int64_t context);
// Bytes of keys and values of one position in a layer, in the plan's format (dense_first and dense_recent apart).
int64_t KvBytesPerToken(const KvLayerGeometry& layer, const KvLayerPlan& plan);
// Bytes of the layer's cache after `context` positions, without the unused rows of the last page.
int64_t KvLayerBytes(const KvLayerGeometry& layer, const KvLayerPlan& plan, int64_t context);
// Of all layers.
int64_t KvPlanBytes(const KvPlan& plan, const KvGeometry& geometry, int64_t context);

}  // namespace optiq

#endif  // OPTIQ_KV_KV_PLAN_H_
