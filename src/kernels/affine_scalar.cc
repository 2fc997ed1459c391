// The scalar definition of the fast path, and the kernels of CPUs without anything better. Quantized rows are int16 in natural
// order.
#include <bit>
#include <cmath>
#include <cstring>

#include "kernels/affine_kernels.h"
#include "tensor/affine.h"

namespace optiq {
namespace {

int64_t RowBytes(int64_t cols, ActivationBits) { return (cols * 2 + 63) / 64 * 64; }

void Quantize(const float* x, int64_t n, ActivationFormat format, std::byte* codes, float* d, float* ds) {
  const float top = format.bits == ActivationBits::k8 ? kTop8 : kTop15;
  const int block = format.block;
  int16_t values[64];
  for (int64_t b = 0; b * block < n; ++b) {
    // On the bits without the sign: NaN is above infinity is above every number.
    uint32_t largest = 0;
    for (int i = 0; i < block; ++i) {
      const uint32_t u = std::bit_cast<uint32_t>(x[b * block + i]) & 0x7fffffffu;
      largest = u > largest ? u : largest;
    }
    const float max = std::bit_cast<float>(largest);
    const bool finite = largest < 0x7f800000u;
    if (!finite || max < kTinyBlock) {
      std::memset(values, 0, sizeof(values));
      d[b] = finite ? 0.0f : max;
      ds[b] = d[b] * 0.0f;
    } else {
      const float inverse = top / max;
      int32_t sum = 0;
      for (int i = 0; i < block; ++i) {
        values[i] = static_cast<int16_t>(std::nearbyint(x[b * block + i] * inverse));
        sum += values[i];
      }
      d[b] = max * (1.0f / top);
      ds[b] = d[b] * static_cast<float>(sum);
    }
    std::memcpy(codes + b * block * 2, values, block * 2);
  }
}

void UnpackBlock(const std::byte* packed, int bits, int block, uint8_t* codes) {
  const uint32_t mask = (1u << bits) - 1;
  for (int i = 0; i < block; i += 8) {  // eight codes are `bits` bytes
    uint64_t word = 0;
    std::memcpy(&word, packed + i * bits / 8, bits);
    for (int j = 0; j < 8; ++j) codes[i + j] = static_cast<uint8_t>((word >> (j * bits)) & mask);
  }
}

void Gemm(const AffineRows& w, int64_t begin, int64_t end, const QuantizedRows& a, float* y, int64_t ldy, std::byte*) {
  const int block = w.format.group_size == 32 ? 32 : 64;
  const int64_t per_group = w.format.group_size / block, scale_bytes = DTypeBlockBytes(w.scale_dtype);
  uint8_t codes[64];
  int16_t values[64];
  for (int64_t r = begin; r < end; ++r) {
    const std::byte* row = w.codes + r * w.code_stride();
    const std::byte* scales = w.scales + r * w.groups() * scale_bytes;
    const std::byte* biases = w.biases + r * w.groups() * scale_bytes;
    for (int64_t i = 0; i < a.m; ++i) y[i * ldy + r - begin] = 0;
    for (int64_t b = 0; b < w.cols / block; ++b) {
      UnpackBlock(row + b * block * w.format.bits / 8, w.format.bits, block, codes);
      const float s = LoadFloat(w.scale_dtype, scales, b / per_group);
      const float z = LoadFloat(w.scale_dtype, biases, b / per_group);
      for (int64_t i = 0; i < a.m; ++i) {
        std::memcpy(values, a.codes + i * a.row_bytes + b * block * 2, block * 2);
        int32_t dot = 0;
        for (int j = 0; j < block; ++j) dot += codes[j] * values[j];
        float& out = y[i * ldy + r - begin];
        out = std::fma(s * a.d[i * a.blocks + b], static_cast<float>(dot), out);
        out = std::fma(z, a.ds[i * a.blocks + b], out);
      }
    }
  }
}

void Gemv(const AffineRows& w, int64_t begin, int64_t end, int64_t, const QuantizedRows& a, float* y) {
  Gemm(w, begin, end, a, y, end - begin, nullptr);
}

int64_t ScratchBytes(int64_t, int64_t) { return 0; }

}  // namespace

const AffineKernels* AffineKernelsScalar() {
  static constexpr AffineKernels kKernels = {"scalar", RowBytes, Quantize, Gemv, Gemm, ScratchBytes, nullptr, nullptr, 16};
  return &kKernels;
}

}  // namespace optiq
