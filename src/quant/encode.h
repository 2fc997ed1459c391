// Encoding whole matrices, threaded over rows.
#ifndef OPTIQ_QUANT_ENCODE_H_
#define OPTIQ_QUANT_ENCODE_H_

#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/thread_pool.h"
#include "tensor/affine.h"
#include "tensor/weight_matrix.h"

namespace optiq {

// The encoders a plan may name. "rtn": bit-identical to mx.quantize. "search": ranges and least squares weighted by the inputs'
// mean squares (kernels/affine_search.h); what it writes is read by stock MLX all the same.
inline constexpr const char* kEncoders[] = {"rtn", "search"};
bool IsKnownEncoder(std::string_view name);

// The dtype of scales and biases for a matrix stored as `dtype`: its own float dtype, as mx.quantize keeps it; bf16 for GGUF blocks.
DType ScaleDType(const WeightMatrix& w);

// Encodes w's values. h: [cols] mean squares of the inputs, or empty when they are not known (all alike). kDataLoss when a value is
// not finite, naming the module.
StatusOr<AffineMatrix> EncodeMatrix(const WeightMatrix& w, AffineFormat format, const std::string& encoder,
                                    std::span<const float> h, ThreadPool* pool);

// error: sum_ij h_j (W - decoded)_ij^2; total: sum_ij h_j W_ij^2. h: [cols] or empty for ones.
struct OutputError {
  double error = 0, total = 0;
};
OutputError OutputErrorOf(const WeightMatrix& w, const AffineMatrix& encoded, std::span<const float> h, ThreadPool* pool);

}  // namespace optiq

#endif  // OPTIQ_QUANT_ENCODE_H_
