// Encoding whole matrices, threaded over rows.
#ifndef OPTIQ_QUANT_ENCODE_H_
#define OPTIQ_QUANT_ENCODE_H_

#include <string>
#include <vector>

#include "base/status.h"
#include "base/thread_pool.h"
#include "tensor/affine.h"
#include "tensor/weight_matrix.h"

namespace optiq {

// The dtype of scales and biases for a matrix stored as `dtype`: its own float dtype, as mx.quantize keeps it; bf16 for GGUF blocks.
DType ScaleDType(const WeightMatrix& w);

// Encodes w's values by `encoder` ("rtn": bit-identical to mx.quantize). kDataLoss when a value is not finite, naming the module.
StatusOr<AffineMatrix> EncodeMatrix(const WeightMatrix& w, AffineFormat format, const std::string& encoder,
                                    ThreadPool* pool);

// sum_ij h_j (W - decoded)_ij^2 / sum_ij h_j W_ij^2. h: [cols] or empty for ones.
double RelativeError(const WeightMatrix& w, const AffineMatrix& encoded, const std::vector<float>& h, ThreadPool* pool);

}  // namespace optiq

#endif  // OPTIQ_QUANT_ENCODE_H_
