// Products::kFast for affine weights: integer dot products on the packed codes (kernels/affine_matmul.h).
#ifndef OPTIQ_OPS_LINEAR_FAST_H_
#define OPTIQ_OPS_LINEAR_FAST_H_

#include <cstdint>
#include <span>

#include "base/thread_pool.h"
#include "kernels/affine_matmul.h"
#include "ops/linear.h"

namespace optiq {

AffineRows AffineRowsOf(const WeightMatrix& w);  // w.affine is set

// All products read the same x: f32 [m, cols] with row stride ldx. Every matrix must be affine.
void LinearAffine(const float* x, int64_t m, int64_t ldx, std::span<const LinearProduct> products, ActivationBits bits,
                  ThreadPool* pool);

}  // namespace optiq

#endif  // OPTIQ_OPS_LINEAR_FAST_H_
