// Compares whole models with the float reference on a token batch, block by block: the reference and every variant advance together,
// so nothing needs to be resident but one block and the hidden states.
#ifndef OPTIQ_QUANT_EVALUATE_H_
#define OPTIQ_QUANT_EVALUATE_H_

#include <functional>
#include <string>
#include <vector>

#include "base/progress.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "io/checkpoint.h"
#include "model/decoder_spec.h"
#include "quant/calibration.h"
#include "quant/input_moments.h"
#include "quant/plan.h"
#include "quant/summary.h"

namespace optiq {

// A model to compare: the reference's weights encoded by `plan` (paths it does not name stay dense), or the weights of `artifact`, an
// MLX directory of the same architecture.
struct EvalVariant {
  std::string name;
  const Plan* plan = nullptr;
  const InputMoments* moments = nullptr;  // of the plan's encoders; nullptr: not known
  const Checkpoint* artifact = nullptr;
  double bpw = 0;      // copied to the row
  uint64_t bytes = 0;  // copied to the row
};

struct Evaluation {
  double reference_perplexity = 0;
  int64_t tokens = 0;
  std::vector<EvalRow> rows;  // one per variant
};

// All arithmetic is exact (f32). kDataLoss when a model's logits are not finite.
StatusOr<Evaluation> EvaluateVariants(const Checkpoint& reference, const DecoderSpec& spec, const TokenBatch& tokens,
                                      const std::vector<EvalVariant>& variants, ThreadPool* pool,
                                      ProgressSink* progress);

}  // namespace optiq

#endif  // OPTIQ_QUANT_EVALUATE_H_
