#include "io/stored_tensor.h"

#include <cstring>

#include "io/gguf_blocks.h"
#include "base/half.h"

namespace optiq {
namespace {

// The bytes of a file need not be aligned (mlx does not pad its header), so elements are read with memcpy, which
// compilers turn into unaligned vector loads.
template <typename T, typename Widen>
void WidenAll(const std::byte* src, int64_t n, float* out, Widen widen) {
  for (int64_t i = 0; i < n; ++i) {
    T v;
    std::memcpy(&v, src + i * sizeof(T), sizeof(T));
    out[i] = widen(v);
  }
}

void WidenRun(DType dtype, const std::byte* src, int64_t n, float* out) {
  switch (dtype) {
    case DType::kF32:
      if (n > 0) std::memcpy(out, src, n * sizeof(float));
      return;
    case DType::kF16:
      return WidenAll<uint16_t>(src, n, out, F16ToF32);
    case DType::kBF16:
      return WidenAll<uint16_t>(src, n, out, BF16ToF32);
    case DType::kF64:
      return WidenAll<double>(src, n, out, [](double v) { return static_cast<float>(v); });
    default:
      OPTIQ_CHECK(IsBlock(dtype));
      return DequantizeBlocks(dtype, src, n, out);
  }
}

}  // namespace

int64_t StoredTensor::rows() const {
  int64_t n = 1;
  for (size_t i = 0; i + 1 < shape.size(); ++i) n *= shape[i];
  return n;
}

std::string StoredTensor::ShapeString() const { return fmt::format("[{}]", fmt::join(shape, ", ")); }

bool CanReadRows(DType dtype) { return IsFloat(dtype) || dtype == DType::kF64 || IsBlock(dtype); }

void ReadRows(const StoredTensor& tensor, int64_t begin, int64_t end, float* out) {
  OPTIQ_CHECK(CanReadRows(tensor.dtype) && 0 <= begin && begin <= end && end <= tensor.rows());
  int64_t cols = tensor.cols();
  if (tensor.rotary_heads != 0 && tensor.rank() == 1) {  // a bias: its elements are the rows that were permuted
    begin *= cols;
    end *= cols;
    cols = 1;
  }
  const int64_t row_bytes = cols / DTypeBlockElements(tensor.dtype) * DTypeBlockBytes(tensor.dtype);
  const int64_t n = (end - begin) * cols;
  if (tensor.rotary_heads == 0) {
    WidenRun(tensor.dtype, tensor.bytes.data() + begin * row_bytes, n, out);
  } else {
    const int64_t all_rows = tensor.rank() == 1 ? tensor.elements() : tensor.rows();
    const int64_t head = all_rows / tensor.rotary_heads;
    OPTIQ_CHECK(head * tensor.rotary_heads == all_rows && head % 2 == 0);
    for (int64_t r = begin; r < end; ++r) {
      const int64_t in_head = r % head, j = in_head / (head / 2), i = in_head % (head / 2);
      const int64_t source = r - in_head + 2 * i + j;
      WidenRun(tensor.dtype, tensor.bytes.data() + source * row_bytes, cols, out + (r - begin) * cols);
    }
  }
  if (tensor.add_constant != 0.0f) {
    for (int64_t i = 0; i < n; ++i) out[i] += tensor.add_constant;
  }
}

StatusOr<std::vector<float>> ReadVector(const StoredTensor& tensor) {
  if (!CanReadRows(tensor.dtype)) {
    return InvalidArgument("tensor '{}': dtype {}, expected F32, F16 or BF16", tensor.name, DTypeName(tensor.dtype));
  }
  std::vector<float> out(tensor.elements());
  ReadRows(tensor, 0, tensor.rows(), out.data());
  return out;
}

}  // namespace optiq
