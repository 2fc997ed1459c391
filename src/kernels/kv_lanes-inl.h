// Codes of a cache page as vectors, for the kernels that read pages. Included once per instruction set.
#if defined(OPTIQ_KERNELS_KV_LANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef OPTIQ_KERNELS_KV_LANES_INL_H_
#undef OPTIQ_KERNELS_KV_LANES_INL_H_
#else
#define OPTIQ_KERNELS_KV_LANES_INL_H_
#endif

#include <cstdint>
#include <cstring>
#include <utility>

#include "hwy/highway.h"
#include "kernels/with_value.h"
#include "tensor/kv_page.h"

HWY_BEFORE_NAMESPACE();
namespace optiq {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using KvD = hn::CappedTag<float, 16>;
using KvV = hn::Vec<KvD>;

// Code kN of every lane: f32 and bf16 values as they are, quantized codes as 1 + code / 2^kBits, which is exact and needs no
// conversion: the code becomes the top of the mantissa. `words` is the first word vector of the chunk.
template <int kBits, int kN>
HWY_INLINE KvV KvCode(const uint32_t* HWY_RESTRICT words) {
  const KvD d;
  const hn::RebindToUnsigned<KvD> du;
  constexpr int kBit = kN * kBits, kShift = kBit % 32;
  const auto word = hn::LoadU(du, words + kBit / 32 * kKvBlock);
  if constexpr (kBits == 32) {
    return hn::BitCast(d, word);
  } else if constexpr (kBits == 16) {
    if constexpr (kShift == 0) return hn::BitCast(d, hn::ShiftLeft<16>(word));
    return hn::BitCast(d, hn::And(word, hn::Set(du, 0xffff0000u)));
  } else {
    constexpr int kTop = 23 - kBits;  // where the code goes
    const auto mask = hn::Set(du, ((1u << kBits) - 1) << kTop), one = hn::Set(du, 0x3f800000u);
    auto x = word;
    if constexpr (kShift + kBits > 32) {
      const auto next = hn::LoadU(du, words + (kBit / 32 + 1) * kKvBlock);
      x = hn::ShiftLeft<kTop>(hn::Or(hn::ShiftRight<kShift>(word), hn::ShiftLeft<32 - kShift>(next)));
    } else if constexpr (kShift < kTop) {
      x = hn::ShiftLeft<kTop - kShift>(word);
    } else if constexpr (kShift > kTop) {
      x = hn::ShiftRight<kShift - kTop>(word);
    }
    return hn::BitCast(d, hn::OrAnd(one, x, mask));
  }
}

// A vector of scales or biases.
HWY_INLINE KvV KvLoadParameters(DType dtype, const std::byte* base, int64_t index) {
  const KvD d;
  if (dtype == DType::kF32) return hn::LoadU(d, reinterpret_cast<const float*>(base) + index);
  const hn::RebindToUnsigned<KvD> du;
  const hn::Rebind<uint16_t, KvD> d16;
  return hn::BitCast(
      d, hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadU(d16, reinterpret_cast<const uint16_t*>(base) + index))));
}

// Calls fn with std::integral_constant<int, i> for i < N.
template <int... kI, typename Fn>
HWY_INLINE void KvUnroll(std::integer_sequence<int, kI...>, Fn&& fn) {
  (fn(std::integral_constant<int, kI>()), ...);
}

// Calls fn with std::integral_constant<int, bits>.
template <typename Fn>
HWY_INLINE void KvWithBits(int bits, Fn&& fn) {
  WithValue<2, 3, 4, 5, 6, 8, 16, 32>(bits, fn);
}

}  // namespace HWY_NAMESPACE
}  // namespace optiq
HWY_AFTER_NAMESPACE();

#endif  // OPTIQ_KERNELS_KV_LANES_INL_H_
