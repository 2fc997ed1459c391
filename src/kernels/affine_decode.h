// MLX affine rows to f32, fast. Same values, bit for bit, as tensor/affine.h's DecodeRow.
#ifndef OPTIQ_KERNELS_AFFINE_DECODE_H_
#define OPTIQ_KERNELS_AFFINE_DECODE_H_

#include <cstddef>
#include <cstdint>

#include "io/checkpoint.h"
#include "io/dtype.h"

namespace optiq {

// One row: packed codes [cols * bits / 8 bytes], scales and biases [cols / group_size] of scale_dtype. Any alignment.
void DecodeAffineRow(const std::byte* packed, const std::byte* scales, const std::byte* biases, DType scale_dtype,
                     AffineFormat format, int64_t cols, float* out);

}  // namespace optiq

#endif  // OPTIQ_KERNELS_AFFINE_DECODE_H_
