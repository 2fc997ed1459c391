#include "kernels/gemm.h"

#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/gemm.cc"
#include "hwy/foreach_target.h"
// clang-format off
#include "hwy/highway.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace optiq {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

// The register tile: kRows x (kVectors * lanes). 32 registers hold 12 x 2 accumulators with room to spare, 16 hold 6 x 2.
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL || HWY_TARGET == HWY_NEON
constexpr int kRows = 12;
#elif HWY_TARGET == HWY_SCALAR
constexpr int kRows = 4;
#else
constexpr int kRows = 6;
#endif
constexpr int kVectors = 2;

int64_t PanelColumns() { return kVectors * hn::Lanes(D()); }

// One register tile of `R` rows.
template <int R>
HWY_INLINE void Tile(const float* HWY_RESTRICT a, int64_t lda, const float* HWY_RESTRICT panel, int64_t k,
                     float* HWY_RESTRICT c, int64_t ldc, int64_t n, bool accumulate) {
  const D d;
  const int64_t lanes = hn::Lanes(d);
  V acc0[R], acc1[R];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) acc0[r] = acc1[r] = hn::Zero(d);
  for (int64_t i = 0; i < k; ++i) {
    const V b0 = hn::Load(d, panel);
    const V b1 = hn::Load(d, panel + lanes);
    panel += 2 * lanes;
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const V x = hn::Set(d, a[r * lda + i]);
      acc0[r] = hn::MulAdd(x, b0, acc0[r]);
      acc1[r] = hn::MulAdd(x, b1, acc1[r]);
    }
  }
  if (n == 2 * lanes) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      float* out = c + r * ldc;
      if (accumulate) {
        acc0[r] = hn::Add(acc0[r], hn::LoadU(d, out));
        acc1[r] = hn::Add(acc1[r], hn::LoadU(d, out + lanes));
      }
      hn::StoreU(acc0[r], d, out);
      hn::StoreU(acc1[r], d, out + lanes);
    }
    return;
  }
  HWY_ALIGN float row[2 * HWY_MAX_BYTES / sizeof(float)];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    hn::Store(acc0[r], d, row);
    hn::Store(acc1[r], d, row + lanes);
    float* out = c + r * ldc;
    for (int64_t j = 0; j < n; ++j) out[j] = accumulate ? out[j] + row[j] : row[j];
  }
}

void PanelF32(const float* a, int64_t lda, int64_t m, const float* panel, int64_t k, float* c, int64_t ldc, int64_t n,
              bool accumulate) {
  int64_t i = 0;
  for (; i + kRows <= m; i += kRows) Tile<kRows>(a + i * lda, lda, panel, k, c + i * ldc, ldc, n, accumulate);
  for (; i + 4 <= m; i += 4) Tile<4>(a + i * lda, lda, panel, k, c + i * ldc, ldc, n, accumulate);
  for (; i < m; ++i) Tile<1>(a + i * lda, lda, panel, k, c + i * ldc, ldc, n, accumulate);
}

void PackF32(const float* rows, int64_t ld, int64_t n, int64_t k, float* panel) {
  const int64_t nr = PanelColumns();
  if (n < nr) std::memset(panel, 0, k * nr * sizeof(float));
  // Eight values of k at a time: whole cache lines of the panel are written while the source lines are hot.
  constexpr int64_t kStep = 8;
  for (int64_t i0 = 0; i0 < k; i0 += kStep) {
    const int64_t i1 = i0 + kStep < k ? i0 + kStep : k;
    for (int64_t j = 0; j < n; ++j) {
      const float* src = rows + j * ld;
      for (int64_t i = i0; i < i1; ++i) panel[i * nr + j] = src[i];
    }
  }
}

// Integer arithmetic in place of a bf16 instruction, so that every target rounds alike.
void ToBF16(const float* in, int64_t n, uint16_t* out) {
  const hn::ScalableTag<uint32_t> du;
  const hn::Rebind<uint16_t, decltype(du)> d16;
  const int64_t lanes = hn::Lanes(du);
  const auto half = hn::Set(du, 0x7fffu);
  const auto one = hn::Set(du, 1u);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto u = hn::LoadU(du, reinterpret_cast<const uint32_t*>(in) + i);
    const auto odd = hn::And(hn::ShiftRight<16>(u), one);
    const auto rounded = hn::ShiftRight<16>(hn::Add(hn::Add(u, half), odd));
    hn::StoreU(hn::TruncateTo(d16, rounded), d16, out + i);
  }
  for (; i < n; ++i) {
    uint32_t u;
    std::memcpy(&u, in + i, 4);
    out[i] = static_cast<uint16_t>((u + 0x7fff + ((u >> 16) & 1)) >> 16);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace optiq
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace optiq {

HWY_EXPORT(PanelColumns);
HWY_EXPORT(PanelF32);
HWY_EXPORT(PackF32);
HWY_EXPORT(ToBF16);

int64_t GemmPanelColumns() {
  static const int64_t columns = HWY_DYNAMIC_DISPATCH(PanelColumns)();
  return columns;
}

void PackPanelF32(const float* rows, int64_t ld, int64_t n, int64_t k, float* panel) {
  HWY_DYNAMIC_DISPATCH(PackF32)(rows, ld, n, k, panel);
}

void GemmPanelF32(const float* a, int64_t lda, int64_t m, const float* panel, int64_t k, float* c, int64_t ldc, int64_t n,
                  bool accumulate) {
  HWY_DYNAMIC_DISPATCH(PanelF32)(a, lda, m, panel, k, c, ldc, n, accumulate);
}

void ConvertToBF16(const float* in, int64_t n, uint16_t* out) { HWY_DYNAMIC_DISPATCH(ToBF16)(in, n, out); }

}  // namespace optiq
#endif  // HWY_ONCE
