// How well a model predicts a text, and how far its predictions are from a reference model's, with any KV cache.
#ifndef OPTIQ_EVAL_EVALUATE_MODEL_H_
#define OPTIQ_EVAL_EVALUATE_MODEL_H_

#include <atomic>
#include <cstdint>
#include <optional>

#include "base/progress.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "kv/kv_plan.h"
#include "model/decoder.h"
#include "quant/calibration.h"

namespace optiq {

struct EvalOptions {
  KvPlan kv_plan;                // of the model; the reference has an f32 cache
  int64_t score_tokens = 0;      // only the last ones of every sequence count; 0: all
  const std::atomic<bool>* cancel = nullptr;
};

// A mean over tokens. The error is the standard error of the mean over sequences where there are enough of them (8), because tokens of
// one text are alike, else over tokens.
struct Estimate {
  double mean = 0, standard_error = 0;
};

struct DivergenceResult {
  Estimate kl;  // KL(reference || model), nats per token
  double kl_median = 0, kl_p99 = 0, kl_max = 0;
  Estimate same_top1;  // 0..1
  Estimate reference_nll;
};

struct EvalResult {
  int64_t sequences = 0, length = 0, tokens = 0;  // tokens: scored
  Estimate nll;  // nats per token that has a successor; perplexity is exp of it
  std::optional<DivergenceResult> divergence;  // with a reference
};

// reference may be nullptr; its vocabulary must be the model's (kInvalidArgument). Both run with their own products().
StatusOr<EvalResult> EvaluateModel(Decoder* model, Decoder* reference, const TokenBatch& tokens, const EvalOptions& options,
                                   ThreadPool* pool, ProgressSink* progress);

}  // namespace optiq

#endif  // OPTIQ_EVAL_EVALUATE_MODEL_H_
