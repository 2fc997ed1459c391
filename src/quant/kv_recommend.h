// From measured sensitivities to a recommended cache: allocation by bytes at a stated context, a check by real KL, and the files.
#ifndef OPTIQ_QUANT_KV_RECOMMEND_H_
#define OPTIQ_QUANT_KV_RECOMMEND_H_

#include <map>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/progress.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "io/checkpoint.h"
#include "kv/kv_plan.h"
#include "quant/calibration.h"
#include "quant/kv_sensitivity.h"

namespace optiq {

struct KvRecommendOptions {
  double target_bits = 4.5;  // the bytes of a cache with this many bits per code everywhere (4: as large as uniform 4 bits)
  std::vector<int> candidate_bits = {4, 8};  // of 2 3 4 5 6 8 16
  int group_size = 64;
  // Tokens that quantized layers keep in bf16 in the extended file: the first (attention sinks) and the most recent. Few bytes at a long
  // context, and what attention reads most.
  int64_t dense_first = 4, dense_recent = 64;
  int64_t context = 0;       // positions that the bytes are counted for; 0: the model's context, at most 32768
  CalibrationOptions calibration = {.sequences = 2, .length = 2048};
  CalibrationOptions heldout = {.sequences = 2, .length = 2048, .heldout = true};  // of the check
  int64_t score_tokens = 128;
  // Scale the probes by what quantizing one side everywhere really does: a probe sees the next tokens only, not the rest of the prefix,
  // which is computed with quantized reads too, and values suffer from that more than keys.
  bool calibrate = true;
  bool check = true;
  uint64_t memory_bytes = 2ull << 30;
};

// Real KL of a cache: the prefix is read with it, and the last score_tokens of every sequence are compared with an f32 cache's.
struct KvCheck {
  std::string name;
  int64_t bytes = 0;  // at the context
  double kl = 0, kl_stderr = 0, top1 = 0;
};

struct KvRecommendation {
  KvPlan plan;      // keys and values apart
  KvPlan alike;     // keys and values of a layer alike, for mlx-optiq's schema
  std::string shipped = "plan";  // "plan", or the name of the uniform format that the check found better for no more bytes
  double predicted_kl = 0;       // sum of the single probes
  int64_t context = 0, bytes = 0, alike_bytes = 0, bf16_bytes = 0, budget = 0;
  KvSensitivity sensitivity;                    // single probes
  std::map<int, double> key_factor, value_factor;  // real KL of one side at some bits everywhere / sum of its probes
  std::vector<KvCheck> checks;
  int64_t check_tokens = 0;
  std::string fingerprint;
};

// The lightest plan by bytes of the sensitivities within the budget: every (layer, side) is a class of an exact knapsack; with
// `alike`, every layer. kInvalidArgument when even the lowest widths are too large.
StatusOr<KvPlan> AllocateKv(const KvGeometry& geometry, const KvSensitivity& sensitivity, const KvRecommendOptions& options,
                            int64_t context, bool alike, double* predicted_kl);
// Bytes of the tokens that `options` keep in bf16 in one layer; 0 where it cannot be quantized.
int64_t KvDenseBytes(const KvLayerGeometry& layer, const KvRecommendOptions& options, int64_t context);
// The bytes that options.target_bits stand for.
int64_t KvBudget(const KvGeometry& geometry, const KvRecommendOptions& options, int64_t context);

// Real KL of some plans.
struct NamedKvPlan {
  std::string name;
  KvPlan plan;
};
StatusOr<std::vector<KvCheck>> EvaluateKvPlans(Decoder* decoder, const std::vector<NamedKvPlan>& plans, const TokenBatch& tokens,
                                               int64_t score_tokens, int64_t context, ThreadPool* pool, ProgressSink* progress);

// Measures, allocates, checks. kUnimplemented for a model without attention layers, or whose heads no group size divides.
StatusOr<KvRecommendation> RecommendKv(const Checkpoint& checkpoint, const KvRecommendOptions& options, ThreadPool* pool,
                                       ProgressSink* progress);

// Writes kv_config.json and optiq_kv_config.json into a directory.
Status WriteKvConfigs(const std::string& directory, const KvGeometry& geometry, const KvRecommendation& recommendation,
                      const KvRecommendOptions& options);

// A sentence for the model card.
std::string KvAdvice(const KvRecommendation& recommendation);

}  // namespace optiq

#endif  // OPTIQ_QUANT_KV_RECOMMEND_H_
