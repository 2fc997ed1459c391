#include "kernels/kv_write.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/half.h"
#include "kernels/with_value.h"
#include "tensor/affine.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/kv_write.cc"
#include "hwy/foreach_target.h"
// clang-format off
#include "hwy/highway.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace optiq {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// mx.quantize's rule for 32 values at a time: the range first, then the codes. n is a multiple of 32.
HWY_INLINE AffineGroup Fit(const float* x, int64_t n, int bits) {
  const hn::CappedTag<float, 16> d;
  const int64_t lanes = hn::Lanes(d);
  auto lo = hn::LoadU(d, x), hi = lo;
  for (int64_t i = lanes; i < n; i += lanes) {
    const auto v = hn::LoadU(d, x + i);
    lo = hn::Min(lo, v);
    hi = hn::Max(hi, v);
  }
  const float low = hn::GetLane(hn::MinOfLanes(d, lo)), high = hn::GetLane(hn::MaxOfLanes(d, hi));
  const bool use_low = std::fabs(low) > std::fabs(high);
  float scale = std::max((high - low) / static_cast<float>((1 << bits) - 1), 1e-7f);
  if (!use_low) scale = -scale;
  const float edge = use_low ? low : high, q0 = std::nearbyint(edge / scale);
  if (q0 == 0) return {scale, 0.0f};
  return {edge / q0, edge};
}

HWY_INLINE void Codes(const float* x, int64_t n, AffineGroup group, int bits, uint32_t* codes) {
  const hn::CappedTag<float, 16> d;
  const hn::RebindToSigned<decltype(d)> di;
  const hn::RebindToUnsigned<decltype(d)> du;
  const int64_t lanes = hn::Lanes(d);
  const auto scale = hn::Set(d, group.scale), bias = hn::Set(d, group.bias);
  const auto top = hn::Set(d, static_cast<float>((1 << bits) - 1));
  for (int64_t i = 0; i < n; i += lanes) {
    const auto q = hn::Round(hn::Div(hn::Sub(hn::LoadU(d, x + i), bias), scale));
    const auto clamped = hn::Min(hn::Max(q, hn::Zero(d)), top);
    hn::StoreU(hn::BitCast(du, hn::ConvertTo(di, clamped)), du, codes + i);
  }
}

// Values to bf16, as codes or back in f32. Integer arithmetic, so that every target rounds alike; NaN stays NaN.
HWY_INLINE void RoundBF16(const float* x, int64_t n, uint32_t* codes) {
  for (int64_t i = 0; i < n; ++i) codes[i] = F32ToBF16(x[i]);
}

template <int kBits>
HWY_INLINE void PutKeys(const uint32_t* codes, int64_t chunks, int64_t chunk_stride, uint32_t* words) {
  constexpr uint32_t kMask = kBits == 32 ? 0xffffffffu : (1u << (kBits % 32)) - 1;
  for (int64_t c = 0; c < chunks; ++c, words += chunk_stride, codes += kKvChunk) {
    uint64_t stream = 0;
    int filled = 0, w = 0;
    for (int n = 0; n < kKvChunk; ++n) {
      stream |= static_cast<uint64_t>(codes[n] & kMask) << filled;
      filled += kBits;
      if (filled >= 32) {
        words[w++ * kKvBlock] = static_cast<uint32_t>(stream);
        stream >>= 32;
        filled -= 32;
      }
    }
  }
}

// Code n = 16 i + row of all 16 lanes at once: one or two vectors of words are changed.
template <int kBits>
HWY_INLINE void PutValues(const uint32_t* codes, int64_t chunks, int64_t chunk_stride, int row, uint32_t* words) {
  constexpr uint32_t kMask = kBits == 32 ? 0xffffffffu : (1u << (kBits % 32)) - 1;
  for (int64_t c = 0; c < chunks; ++c, words += chunk_stride) {
    for (int i = 0; i < 2; ++i, codes += kKvBlock) {
      const int bit = (i * static_cast<int>(kKvBlock) + row) * kBits, shift = bit % 32;
      uint32_t* w = words + bit / 32 * kKvBlock;
      for (int j = 0; j < kKvBlock; ++j) w[j] = (w[j] & ~(kMask << shift)) | (codes[j] & kMask) << shift;
      if (shift + kBits > 32) {
        w += kKvBlock;
        for (int j = 0; j < kKvBlock; ++j) {
          w[j] = (w[j] & ~(kMask >> (32 - shift))) | (codes[j] & kMask) >> (32 - shift);
        }
      }
    }
  }
}

template <int kBits>
void WriteBits(const KvPageLayout& l, KvSide side, std::byte* page, int64_t head, int64_t row, const float* x) {
  constexpr int64_t kStep = 128;  // elements at a time: the largest group
  HWY_ALIGN uint32_t codes[kStep];
  HWY_ALIGN float rounded[kStep];
  const int64_t blocks = l.rows / kKvBlock, chunk_stride = blocks * kBits * kKvBlock, lane = row % kKvBlock;
  uint32_t* words = reinterpret_cast<uint32_t*>(page + head * l.head_bytes()) + row / kKvBlock * kBits * kKvBlock;
  const int64_t step = kBits <= 8 ? l.format.group_size : kStep;
  for (int64_t e = 0, k = 0; e < l.dim(); e += step, ++k) {
    const int64_t n = std::min(step, l.head_dim - e), padded = std::min(step, l.dim() - e);
    if constexpr (kBits == 32) {
      std::memcpy(codes, x + e, n * sizeof(float));
    } else if constexpr (kBits == 16) {
      RoundBF16(x + e, n, codes);
    } else {
      const float* values = x + e;
      if (l.format.scale_dtype == DType::kBF16) {
        RoundBF16(values, n, codes);
        for (int64_t i = 0; i < n; ++i) codes[i] <<= 16;
        std::memcpy(rounded, codes, n * sizeof(float));
        values = rounded;
      }
      const AffineGroup group = Fit(values, n, kBits);
      Codes(values, n, group, kBits, codes);
      StoreFloat(l.format.scale_dtype, KvParameter(l, page, head, row, k, 0), 0, group.scale);
      StoreFloat(l.format.scale_dtype, KvParameter(l, page, head, row, k, 1), 0, group.bias);
    }
    std::fill(codes + n, codes + padded, 0u);
    uint32_t* at = words + e / kKvChunk * chunk_stride;
    if (side == KvSide::kKeys) {
      PutKeys<kBits>(codes, padded / kKvChunk, chunk_stride, at + lane);
    } else {
      PutValues<kBits>(codes, padded / kKvChunk, chunk_stride, static_cast<int>(lane), at);
    }
  }
}

void Write(const KvPageLayout& l, KvSide side, std::byte* page, int64_t head, int64_t row, const float* x) {
  WithValue<2, 3, 4, 5, 6, 8, 16, 32>(l.format.bits, [&](auto bits) { WriteBits<decltype(bits)::value>(l, side, page, head, row, x); });
}

}  // namespace HWY_NAMESPACE
}  // namespace optiq
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace optiq {
HWY_EXPORT(Write);

void WriteKvRow(const KvPageLayout& layout, KvSide side, std::byte* page, int64_t head, int64_t row, const float* x) {
  HWY_DYNAMIC_DISPATCH(Write)(layout, side, page, head, row, x);
}

}  // namespace optiq
#endif  // HWY_ONCE
