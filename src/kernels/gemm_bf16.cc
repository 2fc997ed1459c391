// bf16 products with f32 sums by vdpbf16ps: this file alone is compiled for AVX-512 BF16 (Highway 1.0 has no operation for it) and
// is entered only after a check of the CPU. Elsewhere HasBF16Gemm() is false and callers take the f32 kernels.
#include <cstring>

#include "base/half.h"
#include "base/status.h"
#include "kernels/gemm.h"
#include "kernels/isa.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define OPTIQ_BF16_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))
#endif

namespace optiq {

#ifdef OPTIQ_BF16_TARGET
namespace {

#define OPTIQ_TRANSPOSE_INLINE OPTIQ_BF16_TARGET inline __attribute__((always_inline))
#include "kernels/transpose16.inc"

constexpr int64_t kColumns = 32;  // = GemmPanelColumns() on AVX-512
constexpr int kRows = 12;

template <int R>
OPTIQ_BF16_TARGET inline __attribute__((always_inline)) void Tile(const uint16_t* a, int64_t lda, const uint16_t* panel,
                                                                  int64_t pairs, float* c, int64_t ldc, int64_t n,
                                                                  bool accumulate) {
  __m512 acc0[R], acc1[R];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) acc0[r] = acc1[r] = _mm512_setzero_ps();
  for (int64_t i = 0; i < pairs; ++i) {
    const __m512bh b0 = (__m512bh)_mm512_loadu_si512(panel);
    const __m512bh b1 = (__m512bh)_mm512_loadu_si512(panel + kColumns);
    panel += 2 * kColumns;
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      int pair;
      std::memcpy(&pair, a + r * lda + 2 * i, 4);
      const __m512bh x = (__m512bh)_mm512_set1_epi32(pair);
      acc0[r] = _mm512_dpbf16_ps(acc0[r], x, b0);
      acc1[r] = _mm512_dpbf16_ps(acc1[r], x, b1);
    }
  }
  const uint32_t columns = n >= kColumns ? 0xffffffffu : (1u << n) - 1;
  const __mmask16 m0 = static_cast<__mmask16>(columns & 0xffff), m1 = static_cast<__mmask16>(columns >> 16);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    float* out = c + r * ldc;
    if (accumulate) {
      acc0[r] = _mm512_add_ps(acc0[r], _mm512_maskz_loadu_ps(m0, out));
      acc1[r] = _mm512_add_ps(acc1[r], _mm512_maskz_loadu_ps(m1, out + 16));
    }
    _mm512_mask_storeu_ps(out, m0, acc0[r]);
    _mm512_mask_storeu_ps(out + 16, m1, acc1[r]);
  }
}

OPTIQ_BF16_TARGET void Panel(const uint16_t* a, int64_t lda, int64_t m, const uint16_t* panel, int64_t pairs, float* c,
                             int64_t ldc, int64_t n, bool accumulate) {
  int64_t i = 0;
  for (; i + kRows <= m; i += kRows) Tile<kRows>(a + i * lda, lda, panel, pairs, c + i * ldc, ldc, n, accumulate);
  for (; i + 4 <= m; i += 4) Tile<4>(a + i * lda, lda, panel, pairs, c + i * ldc, ldc, n, accumulate);
  for (; i < m; ++i) Tile<1>(a + i * lda, lda, panel, pairs, c + i * ldc, ldc, n, accumulate);
}

// Pairs of 16 rows are dwords of a 16 x 16 transposition.
OPTIQ_BF16_TARGET void PackStored(const std::byte* rows, int64_t stride, int64_t n, int64_t k, const std::byte* next,
                                  uint16_t* panel) {
  for (int half = 0; half < 2; ++half) {
    for (int64_t k0 = 0; k0 < k; k0 += 32) {
      const int64_t left = k - k0 < 32 ? k - k0 : 32;
      const __mmask32 mask = left == 32 ? 0xffffffffu : (1u << left) - 1;
      __m512i r[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) {
        const int64_t row = half * 16 + i;
        r[i] = row < n ? _mm512_maskz_loadu_epi16(mask, rows + row * stride + k0 * 2) : _mm512_setzero_si512();
      }
      if (next != nullptr) {
        for (int i = 0; i < 16; ++i) _mm_prefetch(reinterpret_cast<const char*>(next + (half * 16 + i) * stride + k0 * 2), _MM_HINT_T1);
      }
      Transpose16(r);
      uint16_t* out = panel + k0 * kColumns + half * 32;
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) {
        if (2 * i < left) _mm512_storeu_si512(out + i * 2 * kColumns, r[i]);
      }
    }
  }
}

}  // namespace

void PackPanelStoredBF16(const std::byte* rows, int64_t stride, int64_t n, int64_t k, const std::byte* next, uint16_t* panel) {
  PackStored(rows, stride, n, k, next, panel);
}

bool HasBF16Gemm() { return CpuHas(CpuFeature::kAvx512BF16) && GemmPanelColumns() == kColumns; }

void GemmPanelBF16(const uint16_t* a, int64_t lda, int64_t m, const uint16_t* panel, int64_t k, float* c, int64_t ldc,
                   int64_t n, bool accumulate) {
  Panel(a, lda, m, panel, (k + 1) / 2, c, ldc, n, accumulate);
}
#else
bool HasBF16Gemm() { return false; }
void PackPanelStoredBF16(const std::byte*, int64_t, int64_t, int64_t, const std::byte*, uint16_t*) { OPTIQ_CHECK(false); }
void GemmPanelBF16(const uint16_t*, int64_t, int64_t, const uint16_t*, int64_t, float*, int64_t, int64_t, bool) {
  OPTIQ_CHECK(false);
}
#endif

void PackPanelBF16(const float* rows, int64_t ld, int64_t n, int64_t k, uint16_t* panel) {
  const int64_t nr = GemmPanelColumns(), pairs = (k + 1) / 2;
  if (n < nr || (k & 1)) std::memset(panel, 0, pairs * nr * 2 * sizeof(uint16_t));
  constexpr int64_t kStep = 16;
  uint16_t chunk[kStep];
  for (int64_t i0 = 0; i0 < k; i0 += kStep) {
    const int64_t count = k - i0 < kStep ? k - i0 : kStep;
    for (int64_t j = 0; j < n; ++j) {
      ConvertToBF16(rows + j * ld + i0, count, chunk);
      for (int64_t i = 0; i < count; ++i) panel[((i0 + i) / 2 * nr + j) * 2 + ((i0 + i) & 1)] = chunk[i];
    }
  }
}

}  // namespace optiq
