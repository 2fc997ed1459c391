// Products of rows with experts chosen per row: only the experts that are chosen are read.
#ifndef OPTIQ_OPS_EXPERT_LINEAR_H_
#define OPTIQ_OPS_EXPERT_LINEAR_H_

#include <cstdint>
#include <span>

#include "base/thread_pool.h"
#include "ops/linear.h"
#include "tensor/weight_matrix.h"

namespace optiq {

// y[out_row] (+)= W[expert] x[in_row].
struct ExpertPair {
  int32_t expert = 0;
  int64_t in_row = 0, out_row = 0;
};

enum class ExpertOutput { kStore, kAccumulate };

struct ExpertLinearOptions {
  Products products = Products::kF32;
  ExpertOutput output = ExpertOutput::kStore;
  // Every product by the same chain of additions, however many rows chose an expert: f(x) of a row does not depend on
  // the others.
  bool fixed_order = false;
};

// x, y: f32 with row strides ldx, ldy; `experts` are matrices of equal shape. Pairs of one expert must have different
// out_rows. Sums over experts run in ascending order of expert.
void ExpertLinear(const float* x, int64_t ldx, std::span<const ExpertPair> pairs, std::span<const WeightMatrix> experts,
                  float* y, int64_t ldy, ThreadPool* pool, const ExpertLinearOptions& options = {});

}  // namespace optiq

#endif  // OPTIQ_OPS_EXPERT_LINEAR_H_
