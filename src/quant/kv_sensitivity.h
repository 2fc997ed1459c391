// What quantizing one layer's keys, or values, does to the next tokens: measured like decoding reads a cache.
//
// A long prefix is read with a dense cache. Then, per layer, side and width, that layer's cached rows alone are encoded, and the KL
// divergence of the following tokens' distributions from the reference's is taken. The probes share everything before their layer:
// they branch off block by block and run on side by side, all over the same prefix. A layer that others read from (KV sharing) carries
// its readers' sensitivity.
#ifndef OPTIQ_QUANT_KV_SENSITIVITY_H_
#define OPTIQ_QUANT_KV_SENSITIVITY_H_

#include <cstdint>
#include <map>
#include <vector>

#include "base/json.h"
#include "base/progress.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "kv/kv_plan.h"
#include "model/decoder.h"
#include "quant/calibration.h"

namespace optiq {

struct KvLayerSensitivity {
  // Mean KL in nats by bits; empty for layers without keys of their own and formats that do not fit.
  std::map<int, double> keys, values;
};

struct KvSensitivity {
  std::vector<KvLayerSensitivity> layers;
  int64_t tokens = 0;  // scored
};

struct KvSensitivityOptions {
  std::vector<int> bits = {4, 8};
  int group_size = 64;
  int64_t dense_first = 0, dense_recent = 0;  // tokens that a quantized layer keeps in bf16
  int64_t score_tokens = 128;  // of every sequence, at its end
  uint64_t memory_bytes = 2ull << 30;
};

// The group size for a head: the largest of group_size and below that divides it; 0: none, the layer stays dense.
int KvGroupFor(int64_t head_dim, int group_size);

// tokens.length > score_tokens. Arithmetic of the scored tokens is exact (f32); their prefix is read with fast products, which probes and
// reference share.
StatusOr<KvSensitivity> MeasureKvSensitivity(Decoder* decoder, const TokenBatch& tokens, const KvSensitivityOptions& options,
                                             ThreadPool* pool, ProgressSink* progress);

}  // namespace optiq

#endif  // OPTIQ_QUANT_KV_SENSITIVITY_H_
