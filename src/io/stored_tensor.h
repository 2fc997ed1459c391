// One tensor of a checkpoint, as a view on mapped bytes. Data only; the Checkpoint owns the mapping.
#ifndef OPTIQ_IO_STORED_TENSOR_H_
#define OPTIQ_IO_STORED_TENSOR_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "io/dtype.h"

namespace optiq {

struct StoredTensor {
  std::string name;            // path name in the Hugging Face or MLX layout ("model.layers.0.mlp.up_proj.weight")
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;  // C order, outermost first; GGUF's reversed dims are turned round by its reader
  std::span<const std::byte> bytes;  // exactly TensorBytes(dtype, shape)

  // GGUF conventions undone while reading (both zero elsewhere):
  // llama.cpp stores the rows of llama's q/k projections as interleaved rotary pairs; with rotary_heads = number of heads,
  // row h*D + j*D/2 + i of this tensor is row h*D + 2*i + j of the file (D = rows / heads, j in {0,1}).
  int64_t rotary_heads = 0;
  // llama.cpp stores gemma's norm weights as 1 + w; add_constant = -1 takes that off.
  float add_constant = 0.0f;

  int64_t rank() const { return static_cast<int64_t>(shape.size()); }
  // Rows and columns when seen as a matrix: the last dimension is a row, all others are multiplied. Scalars are 1 x 1.
  int64_t cols() const { return shape.empty() ? 1 : shape.back(); }
  int64_t rows() const;
  int64_t elements() const { return rows() * cols(); }
  // True when the bytes may be used as they are (no block format, no permutation, no constant).
  bool is_plain() const { return !IsBlock(dtype) && rotary_heads == 0 && add_constant == 0.0f; }
  std::string ShapeString() const;  // "[576, 1536]"
};

// Widens rows [begin, end) to f32 into out[(end-begin) * cols]. Float and block dtypes only (checked by the caller with
// CanReadRows). Exact for f16 and bf16; block formats give the values of the `gguf` package's dequantize, bit for bit.
void ReadRows(const StoredTensor& tensor, int64_t begin, int64_t end, float* out);
bool CanReadRows(DType dtype);

// A small float tensor (norm weight, bias) as f32. Error if its dtype is not a float.
StatusOr<std::vector<float>> ReadVector(const StoredTensor& tensor);

}  // namespace optiq

#endif  // OPTIQ_IO_STORED_TENSOR_H_
