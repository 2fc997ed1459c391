// MLX's affine group quantization, scalar definitions. Per row, each group of group_size consecutive inputs has one scale and one
// bias; w ~= scale * code + bias with code in [0, 2^bits). Reproduces mx.quantize and mx.dequantize of mlx 0.32 (CPU) bit for bit.
//
// Packing: one little-endian bit stream per row, code i in bits [i*bits, (i+1)*bits); a row is in*bits/32 u32 words.
#ifndef OPTIQ_TENSOR_AFFINE_H_
#define OPTIQ_TENSOR_AFFINE_H_

#include <cstdint>
#include <vector>

#include "io/checkpoint.h"
#include "io/dtype.h"

namespace optiq {

bool IsValidAffineFormat(AffineFormat format);

// The parameters of one group before rounding to the storage type.
struct AffineGroup {
  float scale, bias;
};

// mx.quantize's choice for g values: the end of the range with the larger magnitude is kept exactly (ties take the upper end),
// zero is representable when it lies inside the range. Scales are negative when the upper end is the edge.
AffineGroup FitGroupRtn(const float* w, int64_t g, int bits);

// code = clamp(rint((w - bias) / scale), 0, 2^bits - 1), rint half to even.
void CodesOf(const float* w, int64_t g, AffineGroup group, int bits, uint8_t* codes);

// Appends codes to the bit stream of a row: packed must be zeroed.
void PackCodes(const uint8_t* codes, int64_t n, int bits, uint32_t* packed);
void UnpackCodes(const uint32_t* packed, int64_t n, int bits, uint8_t* codes);

// An encoded matrix [rows, cols] that owns its storage. Scales and biases are stored in scale_dtype (f32, f16 or bf16).
struct AffineMatrix {
  int64_t rows = 0, cols = 0;
  AffineFormat format;
  DType scale_dtype = DType::kBF16;
  std::vector<uint32_t> packed;     // [rows, cols * bits / 32]
  std::vector<std::byte> scales;    // [rows, cols / group_size] of scale_dtype
  std::vector<std::byte> biases;

  int64_t words_per_row() const { return cols * format.bits / 32; }
  int64_t groups_per_row() const { return cols / format.group_size; }
};

// Sizes the storage for rows x cols. cols % group_size must be 0.
AffineMatrix MakeAffineMatrix(int64_t rows, int64_t cols, AffineFormat format, DType scale_dtype);

// Encodes one row of `matrix` by mx.quantize's rule from f32 values (codes use the unrounded f32 parameters, as mlx does).
void EncodeRowRtn(const float* w, int64_t row, AffineMatrix* matrix);

// Stores a float as f32, f16 or bf16 at index i; and reads it back.
void StoreFloat(DType dtype, std::byte* data, int64_t i, float value);
float LoadFloat(DType dtype, const std::byte* data, int64_t i);

// code * scale + bias in f32 with the stored parameters widened: the values our exact path computes with.
void DecodeRow(const AffineMatrix& matrix, int64_t row, float* out);

// mx.dequantize's values: product and sum each rounded to scale_dtype.
void DecodeRowMlx(const AffineMatrix& matrix, int64_t row, float* out);

}  // namespace optiq

#endif  // OPTIQ_TENSOR_AFFINE_H_
