// Compares a model's next-token distributions with a reference's, position by position, over the whole vocabulary. The vocabulary is
// walked in slices, so that neither logits of all tokens nor of all candidates are ever resident.
#ifndef OPTIQ_QUANT_LOGIT_COMPARE_H_
#define OPTIQ_QUANT_LOGIT_COMPARE_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "base/thread_pool.h"
#include "ops/linear.h"
#include "tensor/weight_matrix.h"

namespace optiq {

// One set of distributions to compare. Rows as the reference's.
struct LogitCandidate {
  // Shared head: difference from the reference's normed hidden states, [rows, hidden_size]; may be nullptr for none.
  // Own head: the full normed hidden states.
  const float* hidden = nullptr;
  const WeightMatrix* head = nullptr;  // nullptr: the reference's head
};

struct LogitComparison {
  std::vector<double> kl;              // KL(reference || candidate) per row, nats
  std::vector<double> target_logprob;  // of the target under the candidate; empty without targets
  std::vector<uint8_t> same_top1;      // filled when asked for
  double mean_kl() const;
  double stderr_kl() const;            // standard error of the mean over rows
};

struct LogitReference {
  const float* hidden = nullptr;       // normed hidden states, [rows, hidden_size]
  int64_t rows = 0;
  const WeightMatrix* head = nullptr;
  float softcap = 0;
  const int32_t* targets = nullptr;    // next token per row, -1: none; or nullptr
};

struct CompareOptions {
  Products products = Products::kBF16;  // for candidates that share the head; others use f32
  bool top1 = false;
  std::function<void(double fraction)> progress;
};

// reference_logprob: of the targets under the reference (may be nullptr). flops: matrix product operations done are added.
std::vector<LogitComparison> CompareLogits(const LogitReference& reference, const std::vector<LogitCandidate>& candidates,
                                           const CompareOptions& options, ThreadPool* pool,
                                           std::vector<double>* reference_logprob, double* flops);

}  // namespace optiq

#endif  // OPTIQ_QUANT_LOGIT_COMPARE_H_
