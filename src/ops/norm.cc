#include "ops/norm.h"

#include "kernels/vector.h"

namespace optiq {

void RmsNormRows(const float* x, int64_t rows, int64_t n, const float* weight, float eps, float* out, ThreadPool* pool) {
  pool->ParallelFor(rows, [&](int64_t r, int) { RmsNormRow(x + r * n, weight, n, eps, out + r * n); });
}

}  // namespace optiq
