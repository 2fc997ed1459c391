// kv_config.json: which layers of a model keep their keys and values in how many bits.
//
// Two schemas are read. mlx-optiq's is a list of {"layer_idx", "bits", "group_size"}, one entry per layer that has keys of its own
// (group_size 64 when it is missing; 16 bits: bf16). Ours is an object:
//   {"format": "optiq-kv-config", "version": 1, "quantized_kv_start": 0, ...,
//    "layers": [{"layer_idx": 0, "keys": {"bits": 8, "group_size": 64}, "values": {"bits": 4, "group_size": 64},
//                "dense_first": 0, "dense_recent": 0}, ...]}
// with keys and values apart, 16 bits for bf16, and tokens that stay bf16. Whoever writes may add "model" (a fingerprint), "context" and
// what was measured; the reader refuses a file made for another model.
#ifndef OPTIQ_KV_KV_CONFIG_H_
#define OPTIQ_KV_KV_CONFIG_H_

#include <string>

#include "base/json.h"
#include "base/status.h"
#include "kv/kv_plan.h"

namespace optiq {

inline constexpr char kKvConfigName[] = "kv_config.json";               // mlx-optiq's schema
inline constexpr char kKvConfigExtendedName[] = "optiq_kv_config.json";  // ours

// A plan for `geometry`. Every layer with keys of its own must be named once; `what` names the file in errors. kDataLoss or
// kInvalidArgument, naming layer and field, for unknown, duplicate, missing or shared layers, wrong types, and formats that do not
// exist or do not fit the head size. `fingerprint`: of the model in use, compared with the file's if both are there.
StatusOr<KvPlan> ParseKvConfig(const Json& json, const KvGeometry& geometry, const std::string& fingerprint,
                               const std::string& what);
// Reads a file of at most 1 MB.
StatusOr<KvPlan> ReadKvConfig(const std::string& path, const KvGeometry& geometry, const std::string& fingerprint);

// mlx-optiq's schema; keys and values of a layer must be alike.
Json KvConfigToList(const KvPlan& plan, const KvGeometry& geometry);
// Ours, without measurements.
Json KvConfigToJson(const KvPlan& plan, const KvGeometry& geometry);

}  // namespace optiq

#endif  // OPTIQ_KV_KV_CONFIG_H_
