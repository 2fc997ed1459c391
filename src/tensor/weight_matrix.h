// One weight matrix of a model, as stored: dense or affine-quantized, [out, in]. A view; the Checkpoint owns the bytes.
#ifndef OPTIQ_TENSOR_WEIGHT_MATRIX_H_
#define OPTIQ_TENSOR_WEIGHT_MATRIX_H_

#include <optional>
#include <string>
#include <string_view>

#include "base/status.h"
#include "io/checkpoint.h"
#include "tensor/affine.h"

namespace optiq {

struct WeightMatrix {
  std::string path;              // MLX module path, without ".weight"
  int64_t rows = 0, cols = 0;    // out, in
  StoredTensor weight;           // dense values, or packed codes [rows, cols * bits / 32] u32
  std::optional<AffineFormat> affine;
  StoredTensor scales, biases;   // [rows, cols / group_size]
  const std::byte* strips = nullptr;  // affine: the same once more in the layout of kernels/affine_strips.h, for fast products

  // Bytes in the file: weight, scales and biases.
  uint64_t bytes() const { return weight.bytes.size() + scales.bytes.size() + biases.bytes.size(); }
};

// Finds the module's tensors and checks that they are [rows, cols]. Errors name the tensor and both shapes.
StatusOr<WeightMatrix> LoadWeightMatrix(const Checkpoint& checkpoint, const std::string& path, int64_t rows, int64_t cols);

// A stack of `experts` matrices [out, in] under one name, tensors [experts, out, ..], as one matrix of experts * out rows.
StatusOr<WeightMatrix> LoadStackedWeight(const Checkpoint& checkpoint, const std::string& path, int64_t experts, int64_t out,
                                         int64_t in);

// Rows [begin, end) of w. GGUF's permuted tensors (rotary_heads) cannot be cut.
WeightMatrix RowSlice(const WeightMatrix& w, int64_t begin, int64_t end);

// A view on an encoded matrix in memory.
WeightMatrix ViewOf(const AffineMatrix& matrix, std::string path);
// A view on f32 values [rows, cols] in memory.
WeightMatrix ViewOf(const float* values, int64_t rows, int64_t cols, std::string path);

}  // namespace optiq

#endif  // OPTIQ_TENSOR_WEIGHT_MATRIX_H_
