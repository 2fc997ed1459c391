// The fast path: affine-quantized weights times activations in integers, on the weights' own layout.
//
// An activation row is cut into blocks of kB inputs (32 for group_size 32, else 64), each with one f32 scale. With top = 127
// (ActivationBits::k8) or 127 * 128 (ActivationBits::k15):
//   v = rint(x * (top / max|x|)),   d = max|x| * (1 / top),   ds = d * sum(v).
// An output is one chain over the blocks in ascending order. q are the unsigned codes of the weights, s and b the parameters of the
// group the block lies in, P = sum q v is exact in 32 bits:
//   y = fma(fl(s d), float(P), y);   y = fma(b, ds, y).
// Every kernel of every instruction set computes this chain, so a result is the same bits for any batch, tile, thread count and
// CPU (affine_matmul_test compares them with ==).
#ifndef OPTIQ_KERNELS_AFFINE_MATMUL_H_
#define OPTIQ_KERNELS_AFFINE_MATMUL_H_

#include <cstddef>
#include <cstdint>

#include "io/checkpoint.h"
#include "io/dtype.h"

namespace optiq {

// Rows of an affine matrix as stored, any alignment; or laid out anew in strips (affine_strips.h).
struct AffineRows {
  const std::byte* codes = nullptr;   // [rows][cols * bits / 8]
  const std::byte* scales = nullptr;  // [rows][cols / group_size] of scale_dtype
  const std::byte* biases = nullptr;
  DType scale_dtype = DType::kBF16;
  AffineFormat format;
  int64_t cols = 0;
  const std::byte* strips = nullptr;  // if set, read instead of the three above

  int64_t code_stride() const { return cols * format.bits / 8; }
  int64_t groups() const { return cols / format.group_size; }
};

// 15: two int8 planes, v = 128 high + low. Four times the dot products' precision costs in matrix-vector products nothing (they
// wait for memory) and halves the rate of large products on CPUs with byte dot products.
enum class ActivationBits { k8, k15 };

// What the quantized activations for a matrix depend on. With P planes, input i of a block of kB stands at
// (i % P) * (kB / P) + i / P: codes of 4 and 2 bits unpack to planes without a shuffle.
struct ActivationFormat {
  int block = 64;
  int planes = 1;
  ActivationBits bits = ActivationBits::k15;
  bool operator==(const ActivationFormat&) const = default;
};
ActivationFormat ActivationFormatFor(const AffineRows& weights, ActivationBits bits);

// m quantized rows; the bytes of a row are the kernels' own.
struct QuantizedRows {
  std::byte* codes = nullptr;  // [m][row_bytes]
  float* d = nullptr;          // [m][blocks]
  float* ds = nullptr;         // [m][blocks]
  int64_t m = 0, row_bytes = 0, blocks = 0;
  ActivationBits bits = ActivationBits::k15;
};

// The kernels of one instruction set.
struct AffineKernels {
  const char* name;
  // Bytes of a quantized row of cols inputs, a multiple of 64.
  int64_t (*row_bytes)(int64_t cols, ActivationBits bits);
  // One row of n values (a multiple of 32). A value that is not finite makes its block's d not finite, so that it shows in y.
  void (*quantize)(const float* x, int64_t n, ActivationFormat format, std::byte* codes, float* d, float* ds);
  // y[r - begin] for rows [begin, end) of w and the single row a. Rows up to `ahead` may be prefetched.
  void (*gemv)(const AffineRows& w, int64_t begin, int64_t end, int64_t ahead, const QuantizedRows& a, float* y);
  // y[i * ldy + r - begin] for all rows of a, packed where the set asks for it, and rows [begin, end) of w. scratch:
  // scratch_bytes(cols, m) on a cache line.
  void (*gemm)(const AffineRows& w, int64_t begin, int64_t end, const QuantizedRows& a, float* y, int64_t ldy,
               std::byte* scratch);
  int64_t (*scratch_bytes)(int64_t cols, int64_t m);
  // The order that gemm reads rows in: pack(a, tile, out) for every tile in [0, pack_tiles(m)), out with storage like a's.
  // nullptr: rows as they are.
  int64_t (*pack_tiles)(int64_t m);
  void (*pack)(const QuantizedRows& a, int64_t tile, const QuantizedRows& out);
  int64_t panel_rows = 0;  // rows that gemm unpacks at a time
  // Bytes of sixteen rows in strips, and strips [begin, end) of w to out; nullptr: this set reads weights as they are stored. With
  // w.strips, the rows given to gemv and gemm begin at a multiple of 16.
  int64_t (*strip_bytes)(const AffineRows& w) = nullptr;
  void (*pack_strips)(const AffineRows& w, int64_t rows, int64_t begin, int64_t end, std::byte* out) = nullptr;
};

// The best set that this CPU and OPTIQ_ISA allow; one by name, nullptr where it cannot run ("scalar" is the definition).
const AffineKernels& BestAffineKernels();
const AffineKernels* AffineKernelsNamed(const char* name);

}  // namespace optiq

#endif  // OPTIQ_KERNELS_AFFINE_MATMUL_H_
