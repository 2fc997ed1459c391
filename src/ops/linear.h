// y = x W^T for any WeightMatrix, threaded over output rows.
#ifndef OPTIQ_OPS_LINEAR_H_
#define OPTIQ_OPS_LINEAR_H_

#include <cstdint>
#include <functional>
#include <span>

#include "base/thread_pool.h"
#include "tensor/weight_matrix.h"

namespace optiq {

// Rows [begin, end) as f32, [end - begin, cols].
void DecodeRows(const WeightMatrix& w, int64_t begin, int64_t end, float* out);

// Up to this many rows of x, weights are read once and multiplied row by row; above, panels are packed, with another order of
// additions.
inline constexpr int64_t kFewRows = 4;

enum class Products {
  kF32,   // exact path: f32 products and sums
  kBF16,  // both factors rounded to bf16, f32 sums; f32 where the CPU has no bf16 dot product
  // For running a model. Affine weights: activations in 15 bits per group, integer dot products; dense weights: bf16 products
  // where the CPU has them; GGUF blocks, and dense weights elsewhere: as kF32. But for those, a row's result does not depend on the
  // other rows or on m.
  kFast,
  // kF32 and kFast where a row's result must not depend on m for any weight: few rows do not take a path of their own.
  kF32Fixed,
  kFastFixed,
};
inline bool IsFast(Products p) { return p == Products::kFast || p == Products::kFastFixed; }
// The products whose rows never depend on the rows beside them.
inline Products WithFixedOrder(Products p) {
  return p == Products::kF32 ? Products::kF32Fixed : p == Products::kFast ? Products::kFastFixed : p;
}

// x: f32 [m, cols] with row stride ldx; y: f32 [m, rows] with row stride ldy. Every element is one fixed chain of additions over
// cols, whatever m > kFewRows and the number of threads. bias: [rows] or nullptr.
void Linear(const float* x, int64_t m, int64_t ldx, const WeightMatrix& w, const float* bias, float* y, int64_t ldy,
            ThreadPool* pool, Products products = Products::kF32);

// One of several products of the same x.
struct LinearProduct {
  const WeightMatrix* w = nullptr;
  const float* bias = nullptr;
  float* y = nullptr;
  int64_t ldy = 0;
};
// Linear for each, in one parallel region where the path allows. All matrices have the same cols.
void LinearMany(const float* x, int64_t m, int64_t ldx, std::span<const LinearProduct> all, ThreadPool* pool,
                Products products = Products::kF32);

// Calls consume(first_row, n, block) for blocks of output rows, block = f32 [m, n] with row stride n, in parallel; for products
// with too many output rows to keep (logits). Only rows [row_begin, row_end) of w.
void LinearBlocks(const float* x, int64_t m, int64_t ldx, const WeightMatrix& w, int64_t row_begin, int64_t row_end,
                  ThreadPool* pool, Products products,
                  const std::function<void(int64_t first_row, int64_t n, const float* block, int thread)>& consume);

}  // namespace optiq

#endif  // OPTIQ_OPS_LINEAR_H_
