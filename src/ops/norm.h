// RMS normalization of rows in parallel.
#ifndef OPTIQ_OPS_NORM_H_
#define OPTIQ_OPS_NORM_H_

#include <cstdint>

#include "base/thread_pool.h"

namespace optiq {

// out[r] = RmsNormRow(x[r]) for x, out f32 [rows, n]; they may be the same. weight [n] or nullptr.
void RmsNormRows(const float* x, int64_t rows, int64_t n, const float* weight, float eps, float* out, ThreadPool* pool);

}  // namespace optiq

#endif  // OPTIQ_OPS_NORM_H_
