#include "tensor/affine.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/half.h"
#include "base/status.h"

namespace optiq {

bool IsValidAffineFormat(AffineFormat f) {
  const bool bits_ok = (f.bits >= 2 && f.bits <= 6) || f.bits == 8;
  return bits_ok && (f.group_size == 32 || f.group_size == 64 || f.group_size == 128);
}

AffineGroup FitGroupRtn(const float* w, int64_t g, int bits) {
  const float n = static_cast<float>((1 << bits) - 1);
  float lo = w[0], hi = w[0];
  for (int64_t i = 1; i < g; ++i) {
    lo = std::min(lo, w[i]);
    hi = std::max(hi, w[i]);
  }
  const bool use_lo = std::fabs(lo) > std::fabs(hi);
  float scale = std::max((hi - lo) / n, 1e-7f);
  if (!use_lo) scale = -scale;
  const float edge = use_lo ? lo : hi;
  const float q0 = std::nearbyint(edge / scale);
  if (q0 == 0) return {scale, 0.0f};
  return {edge / q0, edge};
}

void CodesOf(const float* w, int64_t g, AffineGroup group, int bits, uint8_t* codes) {
  const float n = static_cast<float>((1 << bits) - 1);
  for (int64_t i = 0; i < g; ++i) {
    const float q = std::nearbyint((w[i] - group.bias) / group.scale);
    codes[i] = static_cast<uint8_t>(std::min(std::max(q, 0.0f), n));
  }
}

void PackCodes(const uint8_t* codes, int64_t n, int bits, uint32_t* packed) {
  if (bits == 4) {
    for (int64_t i = 0; i < n; ++i) packed[i >> 3] |= static_cast<uint32_t>(codes[i]) << ((i & 7) * 4);
    return;
  }
  for (int64_t i = 0; i < n; ++i) {
    const int64_t bit = i * bits;
    const int shift = static_cast<int>(bit & 31);
    packed[bit >> 5] |= static_cast<uint32_t>(codes[i]) << shift;
    if (shift + bits > 32) packed[(bit >> 5) + 1] |= static_cast<uint32_t>(codes[i]) >> (32 - shift);
  }
}

void UnpackCodes(const uint32_t* packed, int64_t n, int bits, uint8_t* codes) {
  const uint32_t mask = (1u << bits) - 1;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t bit = i * bits;
    const int shift = static_cast<int>(bit & 31);
    uint32_t v = packed[bit >> 5] >> shift;
    if (shift + bits > 32) v |= packed[(bit >> 5) + 1] << (32 - shift);
    codes[i] = static_cast<uint8_t>(v & mask);
  }
}

AffineMatrix MakeAffineMatrix(int64_t rows, int64_t cols, AffineFormat format, DType scale_dtype) {
  OPTIQ_CHECK(IsValidAffineFormat(format) && cols % format.group_size == 0);
  AffineMatrix m;
  m.rows = rows;
  m.cols = cols;
  m.format = format;
  m.scale_dtype = scale_dtype;
  m.packed.assign(rows * m.words_per_row(), 0);
  m.scales.resize(rows * m.groups_per_row() * DTypeBlockBytes(scale_dtype));
  m.biases.resize(m.scales.size());
  return m;
}

void StoreFloat(DType dtype, std::byte* data, int64_t i, float value) {
  if (dtype == DType::kF32) {
    std::memcpy(data + 4 * i, &value, 4);
    return;
  }
  const uint16_t h = dtype == DType::kBF16 ? F32ToBF16(value) : F32ToF16(value);
  std::memcpy(data + 2 * i, &h, 2);
}

float LoadFloat(DType dtype, const std::byte* data, int64_t i) {
  if (dtype == DType::kF32) {
    float value;
    std::memcpy(&value, data + 4 * i, 4);
    return value;
  }
  uint16_t h;
  std::memcpy(&h, data + 2 * i, 2);
  return dtype == DType::kBF16 ? BF16ToF32(h) : F16ToF32(h);
}

void EncodeRowRtn(const float* w, int64_t row, AffineMatrix* m) {
  const int64_t g = m->format.group_size, groups = m->groups_per_row();
  uint32_t* packed = m->packed.data() + row * m->words_per_row();
  uint8_t codes[128];
  for (int64_t k = 0; k < groups; ++k) {
    const AffineGroup group = FitGroupRtn(w + k * g, g, m->format.bits);
    CodesOf(w + k * g, g, group, m->format.bits, codes);
    // A group is a whole number of words (g >= 32).
    PackCodes(codes, g, m->format.bits, packed + k * g * m->format.bits / 32);
    StoreFloat(m->scale_dtype, m->scales.data(), row * groups + k, group.scale);
    StoreFloat(m->scale_dtype, m->biases.data(), row * groups + k, group.bias);
  }
}

namespace {

template <typename Combine>
void DecodeWith(const AffineMatrix& m, int64_t row, float* out, Combine combine) {
  const int64_t g = m.format.group_size, groups = m.groups_per_row();
  const uint32_t* packed = m.packed.data() + row * m.words_per_row();
  uint8_t codes[128];
  for (int64_t k = 0; k < groups; ++k) {
    UnpackCodes(packed + k * g * m.format.bits / 32, g, m.format.bits, codes);
    const float scale = LoadFloat(m.scale_dtype, m.scales.data(), row * groups + k);
    const float bias = LoadFloat(m.scale_dtype, m.biases.data(), row * groups + k);
    for (int64_t i = 0; i < g; ++i) out[k * g + i] = combine(static_cast<float>(codes[i]), scale, bias);
  }
}

}  // namespace

void DecodeRow(const AffineMatrix& m, int64_t row, float* out) {
  DecodeWith(m, row, out, [](float c, float s, float b) { return c * s + b; });
}

void DecodeRowMlx(const AffineMatrix& m, int64_t row, float* out) {
  switch (m.scale_dtype) {
    case DType::kBF16:
      DecodeWith(m, row, out,
                 [](float c, float s, float b) { return BF16ToF32(F32ToBF16(BF16ToF32(F32ToBF16(c * s)) + b)); });
      return;
    case DType::kF16:
      DecodeWith(m, row, out,
                 [](float c, float s, float b) { return F16ToF32(F32ToF16(F16ToF32(F32ToF16(c * s)) + b)); });
      return;
    default: DecodeRow(m, row, out);
  }
}

}  // namespace optiq
