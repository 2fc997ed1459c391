#include "kernels/affine_decode.h"

#include <cstring>

#include "base/status.h"
#include "kernels/with_value.h"
#include "tensor/affine.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/affine_decode.cc"
#include "hwy/foreach_target.h"
// clang-format off
#include "hwy/highway.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace optiq {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// n codes (a multiple of 32) to bytes. Eight codes always start on a byte: 8 * bits bits.
template <int kBits>
HWY_INLINE void Unpack(const uint8_t* packed, int64_t n, uint8_t* codes) {
  if constexpr (kBits == 8) {
    std::memcpy(codes, packed, n);
#if HWY_TARGET != HWY_SCALAR
  } else if constexpr (kBits == 4) {
    const hn::CappedTag<uint8_t, 16> d;
    const int64_t lanes = hn::Lanes(d);
    const auto mask = hn::Set(d, uint8_t{15});
    for (int64_t i = 0; i < n / 2; i += lanes) {
      const auto x = hn::LoadU(d, packed + i);
      const auto lo = hn::And(x, mask);
      const auto hi = hn::BitCast(d, hn::ShiftRight<4>(hn::BitCast(hn::Repartition<uint16_t, decltype(d)>(), x)));
      const auto odd = hn::And(hi, mask);
      hn::StoreU(hn::InterleaveLower(d, lo, odd), d, codes + 2 * i);
      hn::StoreU(hn::InterleaveUpper(d, lo, odd), d, codes + 2 * i + lanes);
    }
#endif
  } else {
    constexpr uint64_t kMask = (1u << kBits) - 1;
    for (int64_t i = 0; i < n; i += 8) {
      uint64_t x = 0;
      std::memcpy(&x, packed, kBits);
      packed += kBits;
      for (int j = 0; j < 8; ++j) codes[i + j] = static_cast<uint8_t>((x >> (j * kBits)) & kMask);
    }
  }
}

// codes * scale + bias, product and sum rounded apart as in the scalar definition.
HWY_INLINE void Widen(const uint8_t* codes, int64_t n, float scale, float bias, float* out) {
#if HWY_TARGET == HWY_SCALAR
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<float>(codes[i]) * scale + bias;
#else
  const hn::CappedTag<float, 16> d;
  const hn::Rebind<int32_t, decltype(d)> di;
  const hn::Rebind<uint8_t, decltype(d)> d8;
  const int64_t lanes = hn::Lanes(d);
  const auto s = hn::Set(d, scale), b = hn::Set(d, bias);
  for (int64_t i = 0; i < n; i += lanes) {
    const auto c = hn::ConvertTo(d, hn::PromoteTo(di, hn::LoadU(d8, codes + i)));
    hn::StoreU(hn::Add(hn::Mul(c, s), b), d, out + i);
  }
#endif
}

template <int kBits>
void DecodeBits(const uint8_t* packed, const std::byte* scales, const std::byte* biases, DType dtype, int64_t group,
                int64_t cols, float* out) {
  HWY_ALIGN uint8_t codes[128];
  const int64_t bytes = group * kBits / 8;
  for (int64_t k = 0; k < cols / group; ++k) {
    Unpack<kBits>(packed + k * bytes, group, codes);
    Widen(codes, group, LoadFloat(dtype, scales, k), LoadFloat(dtype, biases, k), out + k * group);
  }
}

void Decode(const std::byte* packed, const std::byte* scales, const std::byte* biases, DType dtype, int bits,
            int64_t group, int64_t cols, float* out) {
  const uint8_t* p = reinterpret_cast<const uint8_t*>(packed);
  WithAffineBits(bits, [&](auto b) { DecodeBits<decltype(b)::value>(p, scales, biases, dtype, group, cols, out); });
}

}  // namespace HWY_NAMESPACE
}  // namespace optiq
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace optiq {
HWY_EXPORT(Decode);

void DecodeAffineRow(const std::byte* packed, const std::byte* scales, const std::byte* biases, DType scale_dtype,
                     AffineFormat format, int64_t cols, float* out) {
  HWY_DYNAMIC_DISPATCH(Decode)(packed, scales, biases, scale_dtype, format.bits, format.group_size, cols, out);
}

}  // namespace optiq
#endif  // HWY_ONCE
