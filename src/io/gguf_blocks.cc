#include "io/gguf_blocks.h"

#include "base/status.h"
#include "base/half.h"

// Every product of a scale and a code below is exact in f32 (an f16 scale has 11 significant bits, a sub-scale at most
// 8, a code at most 6, of which the last is a sign or an offset), so a compiler that contracts the following addition
// to a fused multiply-add does not change a bit of the result.

namespace optiq {
namespace {

constexpr int kSmall = 32;   // elements of a "legacy" block
constexpr int kSuper = 256;  // elements of a K-quant super-block

using Byte = uint8_t;

float HalfAt(const Byte* p) { return F16ToF32(static_cast<uint16_t>(p[0] | p[1] << 8)); }

// The 32 high bits of the 5-bit formats.
uint32_t WordAt(const Byte* p) { return p[0] | p[1] << 8 | p[2] << 16 | static_cast<uint32_t>(p[3]) << 24; }

// The legacy 4- and 5-bit formats hold element i in the low nibble of byte i and element i + 16 in its high nibble.
void Q4_0(const Byte* src, float* out) {
  const float d = HalfAt(src);
  const Byte* qs = src + 2;
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>((qs[i] & 0xF) - 8);
    out[i + 16] = d * static_cast<float>((qs[i] >> 4) - 8);
  }
}

void Q4_1(const Byte* src, float* out) {
  const float d = HalfAt(src), m = HalfAt(src + 2);
  const Byte* qs = src + 4;
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>(qs[i] & 0xF) + m;
    out[i + 16] = d * static_cast<float>(qs[i] >> 4) + m;
  }
}

void Q5_0(const Byte* src, float* out) {
  const float d = HalfAt(src);
  const uint32_t qh = WordAt(src + 2);
  const Byte* qs = src + 6;
  for (int i = 0; i < 16; ++i) {
    const int low = (qs[i] & 0xF) | ((qh >> i & 1) << 4);
    const int high = (qs[i] >> 4) | ((qh >> (i + 16) & 1) << 4);
    out[i] = d * static_cast<float>(low - 16);
    out[i + 16] = d * static_cast<float>(high - 16);
  }
}

void Q5_1(const Byte* src, float* out) {
  const float d = HalfAt(src), m = HalfAt(src + 2);
  const uint32_t qh = WordAt(src + 4);
  const Byte* qs = src + 8;
  for (int i = 0; i < 16; ++i) {
    const int low = (qs[i] & 0xF) | ((qh >> i & 1) << 4);
    const int high = (qs[i] >> 4) | ((qh >> (i + 16) & 1) << 4);
    out[i] = d * static_cast<float>(low) + m;
    out[i + 16] = d * static_cast<float>(high) + m;
  }
}

void Q8_0(const Byte* src, float* out) {
  const float d = HalfAt(src);
  for (int i = 0; i < kSmall; ++i) out[i] = static_cast<float>(static_cast<int8_t>(src[2 + i])) * d;
}

// 16 groups of 16; scales[16] (low nibble scale, high nibble minimum), codes[64], d, dmin. The codes of a half of 128
// elements lie in 32 bytes, element 32 * j + l in bits 2 * j of byte l.
void Q2_K(const Byte* src, float* out) {
  const Byte* scales = src;
  const float d = HalfAt(src + 80), dmin = HalfAt(src + 82);
  for (int group = 0; group < 16; ++group) {
    const Byte* qs = src + 16 + group / 8 * 32 + group % 2 * 16;
    const int shift = group % 8 / 2 * 2;
    const float dl = d * static_cast<float>(scales[group] & 0xF);
    const float ml = dmin * static_cast<float>(scales[group] >> 4);
    for (int l = 0; l < 16; ++l) out[group * 16 + l] = dl * static_cast<float>(qs[l] >> shift & 3) - ml;
  }
}

// 16 groups of 16; high bits hmask[32] (clear means minus 4), low two bits as in Q2_K, 6-bit scales packed in 12 bytes,
// d.
void Q3_K(const Byte* src, float* out) {
  const Byte* hmask = src;
  const Byte* packed = src + 96;
  const float d = HalfAt(src + 108);
  for (int group = 0; group < 16; ++group) {
    const Byte* qs = src + 32 + group / 8 * 32 + group % 2 * 16;
    const Byte* hm = hmask + group % 2 * 16;
    const int shift = group % 8 / 2 * 2;
    const int bit = group / 2;
    const int low = group < 8 ? packed[group] & 0xF : packed[group - 8] >> 4;
    const int high = packed[8 + group % 4] >> (group / 4 * 2) & 3;
    const float dl = d * static_cast<float>((low | high << 4) - 32);
    for (int l = 0; l < 16; ++l) {
      const int q = (qs[l] >> shift & 3) - ((hm[l] >> bit & 1) != 0 ? 0 : 4);
      out[group * 16 + l] = dl * static_cast<float>(q);
    }
  }
}

// The 6-bit scale and minimum of group j of 8, packed in 12 bytes.
void ScaleMin(const Byte* packed, int j, int* scale, int* min) {
  if (j < 4) {
    *scale = packed[j] & 0x3F;
    *min = packed[j + 4] & 0x3F;
  } else {
    *scale = (packed[j + 4] & 0xF) | (packed[j - 4] >> 2 & 0x30);
    *min = packed[j + 4] >> 4 | (packed[j] >> 2 & 0x30);
  }
}

// 8 groups of 32: d, dmin, scales[12], nibbles[128]; groups 2k and 2k + 1 are the low and high nibbles of the same 32
// bytes.
void Q4_K(const Byte* src, float* out) {
  const float d = HalfAt(src), dmin = HalfAt(src + 2);
  for (int group = 0; group < 8; ++group) {
    int scale, min;
    ScaleMin(src + 4, group, &scale, &min);
    const float dl = d * static_cast<float>(scale);
    const float ml = dmin * static_cast<float>(min);
    const Byte* qs = src + 16 + group / 2 * 32;
    const int shift = group % 2 * 4;
    for (int l = 0; l < 32; ++l) out[group * 32 + l] = dl * static_cast<float>(qs[l] >> shift & 0xF) - ml;
  }
}

// As Q4_K, with the fifth bits in qh[32]: bit `group` of byte l.
void Q5_K(const Byte* src, float* out) {
  const float d = HalfAt(src), dmin = HalfAt(src + 2);
  const Byte* qh = src + 16;
  for (int group = 0; group < 8; ++group) {
    int scale, min;
    ScaleMin(src + 4, group, &scale, &min);
    const float dl = d * static_cast<float>(scale);
    const float ml = dmin * static_cast<float>(min);
    const Byte* qs = src + 48 + group / 2 * 32;
    const int shift = group % 2 * 4;
    for (int l = 0; l < 32; ++l) {
      const int q = (qs[l] >> shift & 0xF) | (qh[l] >> group & 1) << 4;
      out[group * 32 + l] = dl * static_cast<float>(q) - ml;
    }
  }
}

// 16 groups of 16: low nibbles[128], high two bits[64], int8 scales[16], d. In a half of 128 elements, 32 * j + l has
// its low bits in byte 32 * (j % 2) + l (high nibble when j >= 2) and its high bits in bits 2 * j of byte l.
void Q6_K(const Byte* src, float* out) {
  const float d = HalfAt(src + 208);
  for (int group = 0; group < 16; ++group) {
    const int half = group / 8, j = group % 8 / 2, l0 = group % 2 * 16;
    const Byte* ql = src + half * 64 + j % 2 * 32 + l0;
    const Byte* qh = src + 128 + half * 32 + l0;
    const float dl = d * static_cast<float>(static_cast<int8_t>(src[192 + group]));
    for (int l = 0; l < 16; ++l) {
      const int q = (ql[l] >> (j / 2 * 4) & 0xF) | (qh[l] >> (2 * j) & 3) << 4;
      out[group * 16 + l] = dl * static_cast<float>(q - 32);
    }
  }
}

template <void (*Block)(const Byte*, float*)>
void Run(const std::byte* src, int64_t blocks, int block_bytes, int block_elements, float* out) {
  const Byte* p = reinterpret_cast<const Byte*>(src);
  for (int64_t b = 0; b < blocks; ++b) Block(p + b * block_bytes, out + b * block_elements);
}

}  // namespace

void DequantizeBlocks(DType dtype, const std::byte* src, int64_t elements, float* out) {
  const int unit = DTypeBlockElements(dtype), bytes = DTypeBlockBytes(dtype);
  OPTIQ_CHECK(IsBlock(dtype) && elements >= 0 && elements % unit == 0);
  const int64_t n = elements / unit;
  switch (dtype) {
    case DType::kQ4_0:
      return Run<Q4_0>(src, n, bytes, kSmall, out);
    case DType::kQ4_1:
      return Run<Q4_1>(src, n, bytes, kSmall, out);
    case DType::kQ5_0:
      return Run<Q5_0>(src, n, bytes, kSmall, out);
    case DType::kQ5_1:
      return Run<Q5_1>(src, n, bytes, kSmall, out);
    case DType::kQ8_0:
      return Run<Q8_0>(src, n, bytes, kSmall, out);
    case DType::kQ2_K:
      return Run<Q2_K>(src, n, bytes, kSuper, out);
    case DType::kQ3_K:
      return Run<Q3_K>(src, n, bytes, kSuper, out);
    case DType::kQ4_K:
      return Run<Q4_K>(src, n, bytes, kSuper, out);
    case DType::kQ5_K:
      return Run<Q5_K>(src, n, bytes, kSuper, out);
    case DType::kQ6_K:
      return Run<Q6_K>(src, n, bytes, kSuper, out);
    default:
      OPTIQ_CHECK(false);
  }
}

}  // namespace optiq
