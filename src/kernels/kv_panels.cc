// Pages widened to f32 panels for the matrix product kernel: prefill.
#include <algorithm>
#include <cstring>

#include "base/checked.h"
#include "kernels/gemm.h"
#include "kernels/kv_attention.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/kv_panels.cc"
#include "hwy/foreach_target.h"
// clang-format off
#include "kernels/kv_lanes-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace optiq {
namespace HWY_NAMESPACE {

// 16 values at columns `column`.. of panels [column / nr][rows][nr], row `row`.
HWY_INLINE void Put16(const float* x, int64_t column, int64_t row, int64_t rows, int64_t nr, float* panels) {
  const int64_t piece = std::min<int64_t>(nr, kKvBlock);
  for (int64_t i = 0; i < kKvBlock; i += piece) {
    std::memcpy(panels + ((column + i) / nr * rows + row) * nr + (column + i) % nr, x + i, piece * sizeof(float));
  }
}

// Scales and biases of a block's rows, for codes as KvCode gives them: 1 + code / 2^bits.
template <int kBits>
HWY_INLINE void LoadParameters(const KvTile& t, int64_t at, float* scale, float* bias) {
  const KvD d;
  for (int64_t i = 0; i < kKvBlock; i += hn::Lanes(d)) {
    const KvV s = hn::Mul(KvLoadParameters(t.scale_dtype, t.scales, at + i), hn::Set(d, float{1 << kBits}));
    hn::Store(s, d, scale + i);
    hn::Store(hn::Sub(KvLoadParameters(t.scale_dtype, t.biases, at + i), s), d, bias + i);
  }
}

template <int kBits>
void KeyPanelsOf(const KvTile& t, int64_t begin, int64_t end, int64_t nr, float* panels) {
  const KvD d;
  const int64_t lanes = hn::Lanes(d), blocks = t.rows / kKvBlock;
  const int64_t columns = (end - begin) * kKvBlock, panel_columns = RoundUp(columns, nr);
  if (panel_columns > columns) std::memset(panels + columns / nr * t.dim * nr, 0, t.dim * nr * sizeof(float));
  HWY_ALIGN float x[kKvBlock];
  for (int64_t c = 0; c < t.dim / kKvChunk; ++c) {
    const int64_t g = c * kKvChunk / t.group_size;
    for (int64_t b = begin; b < end; ++b) {
      const uint32_t* words = t.words + (c * blocks + b) * kBits * kKvBlock;
      HWY_ALIGN float scale[kKvBlock], bias[kKvBlock];
      if constexpr (kBits <= 8) LoadParameters<kBits>(t, g * t.rows + b * kKvBlock, scale, bias);
      KvUnroll(std::make_integer_sequence<int, kKvChunk>(), [&](auto n) HWY_ATTR {
        for (int64_t i = 0; i < kKvBlock; i += lanes) {
          KvV v = KvCode<kBits, decltype(n)::value>(words + i);
          if constexpr (kBits <= 8) v = hn::MulAdd(v, hn::Load(d, scale + i), hn::Load(d, bias + i));
          hn::Store(v, d, x + i);
        }
        Put16(x, (b - begin) * kKvBlock, c * kKvChunk + decltype(n)::value, t.dim, nr, panels);
      });
    }
  }
}

template <int kBits>
void ValuePanelsOf(const KvTile& t, int64_t begin, int64_t end, int64_t nr, float* panels) {
  const KvD d;
  const int64_t lanes = hn::Lanes(d), blocks = t.rows / kKvBlock, rows = (end - begin) * kKvBlock;
  if (t.dim % nr != 0) std::memset(panels + t.dim / nr * rows * nr, 0, rows * nr * sizeof(float));
  HWY_ALIGN float x[kKvBlock];
  for (int64_t c = 0; c < t.dim / kKvChunk; ++c) {
    const int64_t g = c * kKvChunk / t.group_size;
    for (int64_t b = begin; b < end; ++b) {
      const uint32_t* words = t.words + (c * blocks + b) * kBits * kKvBlock;
      HWY_ALIGN float scale[kKvBlock], bias[kKvBlock];
      if constexpr (kBits <= 8) LoadParameters<kBits>(t, g * t.rows + b * kKvBlock, scale, bias);
      KvUnroll(std::make_integer_sequence<int, kKvChunk>(), [&](auto n) HWY_ATTR {
        constexpr int kN = decltype(n)::value, kRow = kN % kKvBlock;
        for (int64_t i = 0; i < kKvBlock; i += lanes) {
          KvV v = KvCode<kBits, kN>(words + i);
          if constexpr (kBits <= 8) v = hn::MulAdd(v, hn::Set(d, scale[kRow]), hn::Set(d, bias[kRow]));
          hn::Store(v, d, x + i);
        }
        Put16(x, c * kKvChunk + kN / kKvBlock * kKvBlock, (b - begin) * kKvBlock + kRow, rows, nr, panels);
      });
    }
  }
}

void KeyPanels(const KvTile& t, int64_t begin, int64_t end, int64_t nr, float* panels) {
  KvWithBits(t.bits, [&](auto bits) { KeyPanelsOf<decltype(bits)::value>(t, begin, end, nr, panels); });
}
void ValuePanels(const KvTile& t, int64_t begin, int64_t end, int64_t nr, float* panels) {
  KvWithBits(t.bits, [&](auto bits) { ValuePanelsOf<decltype(bits)::value>(t, begin, end, nr, panels); });
}

}  // namespace HWY_NAMESPACE
}  // namespace optiq
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace optiq {
HWY_EXPORT(KeyPanels);
HWY_EXPORT(ValuePanels);

void KvKeyPanels(const KvTile& tile, int64_t block_begin, int64_t block_end, float* panels) {
  HWY_DYNAMIC_DISPATCH(KeyPanels)(tile, block_begin, block_end, GemmPanelColumns(), panels);
}
void KvValuePanels(const KvTile& tile, int64_t block_begin, int64_t block_end, float* panels) {
  HWY_DYNAMIC_DISPATCH(ValuePanels)(tile, block_begin, block_end, GemmPanelColumns(), panels);
}

}  // namespace optiq
#endif  // HWY_ONCE
