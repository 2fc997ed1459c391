// ExpertLinear on the fast path's integer products: all experts of a layer in two parallel regions.
#ifndef OPTIQ_OPS_EXPERT_LINEAR_FAST_H_
#define OPTIQ_OPS_EXPERT_LINEAR_FAST_H_

#include <cstdint>
#include <span>

#include "base/thread_pool.h"
#include "ops/expert_linear.h"

namespace optiq {

// Whether all experts are affine of one format.
bool CanMultiplyExpertsFast(std::span<const WeightMatrix> experts);

// As ExpertLinear with Products::kFast, to the same bits as a product per expert. Rows of x are quantized once, however many experts
// read them.
void ExpertLinearAffine(const float* x, int64_t ldx, std::span<const ExpertPair> pairs, std::span<const WeightMatrix> experts,
                        float* y, int64_t ldy, ExpertOutput output, ThreadPool* pool);

}  // namespace optiq

#endif  // OPTIQ_OPS_EXPERT_LINEAR_FAST_H_
