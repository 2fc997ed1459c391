// The fast path on AVX2 with FMA and BMI2 (Haswell, Zen and later): vpmaddwd on 16-bit values, which cannot overflow or saturate:
// |q v| < 2^23 and a block has at most 64 of them. Quantized rows: int16, planes within every 32 inputs.
#include "kernels/affine_kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "kernels/isa.h"
#include "kernels/with_value.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,bmi2,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi2,f16c")
#endif
#define OPTIQ_INLINE inline __attribute__((always_inline))

namespace optiq {
namespace {

constexpr int kStrip = 8;    // rows in the lanes of a vector
constexpr int kPanel = 16;   // rows of a panel
constexpr int kMaxTile = 4;  // rows of activations of a register tile: 8 sums
constexpr int64_t kFewRows = 16;
constexpr int64_t kPieceColumns = 256;

int64_t RowBytes(int64_t cols, ActivationBits) { return (cols * 2 + 63) / 64 * 64; }

// Where each of 32 inputs stands with 1, 2 and 4 planes.
constexpr auto kPositions = [] {
  struct { uint8_t of[3][32]; } t{};
  for (int p = 0; p < 3; ++p) {
    for (int i = 0; i < 32; ++i) t.of[p][i] = static_cast<uint8_t>(i % (1 << p) * (32 >> p) + (i >> p));
  }
  return t;
}();

void Quantize(const float* x, int64_t n, ActivationFormat format, std::byte* codes, float* d, float* ds) {
  const float top = format.bits == ActivationBits::k8 ? kTop8 : kTop15;
  const int block = format.block;
  const uint8_t* position = kPositions.of[std::countr_zero(static_cast<unsigned>(format.planes))];
  const __m256i no_sign = _mm256_set1_epi32(0x7fffffff);
  for (int64_t b = 0; b * block < n; ++b) {
    const float* in = x + b * block;
    int16_t out[64];
    __m256i largest = _mm256_setzero_si256();
    for (int i = 0; i < block; i += 8) {
      const __m256i u = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + i));
      largest = _mm256_max_epu32(largest, _mm256_and_si256(u, no_sign));
    }
    alignas(32) uint32_t lanes[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), largest);
    const uint32_t bits = *std::max_element(lanes, lanes + 8);
    const float max = std::bit_cast<float>(bits);
    if (bits >= 0x7f800000u || max < kTinyBlock) {
      std::memset(out, 0, sizeof(out));
      d[b] = bits >= 0x7f800000u ? max : 0.0f;
      ds[b] = d[b] * 0.0f;
    } else {
      const __m256 inverse = _mm256_set1_ps(top / max);
      __m256i sum = _mm256_setzero_si256();
      for (int i = 0; i < block; i += 8) {
        const __m256i v = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(in + i), inverse));
        sum = _mm256_add_epi32(sum, v);
        alignas(32) int32_t value[8];
        _mm256_store_si256(reinterpret_cast<__m256i*>(value), v);
        for (int j = 0; j < 8; ++j) {
          out[(i & 32) + position[(i & 31) + j]] = static_cast<int16_t>(value[j]);
        }
      }
      alignas(32) int32_t total[8];
      _mm256_store_si256(reinterpret_cast<__m256i*>(total), sum);
      int32_t s = 0;
      for (int32_t t : total) s += t;
      d[b] = max * (1.0f / top);
      ds[b] = d[b] * static_cast<float>(s);
    }
    std::memcpy(codes + b * block * 2, out, block * 2);
  }
}

// 32 codes at p as two vectors of 16-bit values in the order of the activations.
template <int kBits>
OPTIQ_INLINE void Unpack32(const uint8_t* p, __m256i* a, __m256i* b) {
  if constexpr (kBits == 8) {
    *a = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    *b = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 16)));
  } else if constexpr (kBits == 4) {
    const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)), mask = _mm_set1_epi8(15);
    *a = _mm256_cvtepu8_epi16(_mm_and_si128(x, mask));
    *b = _mm256_cvtepu8_epi16(_mm_and_si128(_mm_srli_epi16(x, 4), mask));
  } else if constexpr (kBits == 2) {
    const __m128i x = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)), mask = _mm_set1_epi8(3);
    const __m128i lo = _mm_unpacklo_epi64(x, _mm_srli_epi16(x, 2));
    *a = _mm256_cvtepu8_epi16(_mm_and_si128(lo, mask));
    *b = _mm256_cvtepu8_epi16(_mm_and_si128(_mm_srli_epi16(lo, 4), mask));
  } else {
    constexpr uint64_t kSpread = 0x0101010101010101ull * ((1 << kBits) - 1);
    uint64_t w[4];
    for (int i = 0; i < 4; ++i) {
      uint64_t packed = 0;
      std::memcpy(&packed, p + i * kBits, kBits);
      w[i] = _pdep_u64(packed, kSpread);
    }
    *a = _mm256_cvtepu8_epi16(_mm_set_epi64x(static_cast<int64_t>(w[1]), static_cast<int64_t>(w[0])));
    *b = _mm256_cvtepu8_epi16(_mm_set_epi64x(static_cast<int64_t>(w[3]), static_cast<int64_t>(w[2])));
  }
}

OPTIQ_INLINE __m256 Accumulate(__m256 y, __m256i p, __m256 s, __m256 z, float d, float ds) {
  y = _mm256_fmadd_ps(_mm256_mul_ps(s, _mm256_set1_ps(d)), _mm256_cvtepi32_ps(p), y);
  return _mm256_fmadd_ps(z, _mm256_set1_ps(ds), y);
}

// Lane r: the parameter of group g of row min(r, last).
OPTIQ_INLINE __m256 Parameters(const AffineRows& w, const std::byte* base, int64_t row, int64_t last, int64_t g) {
  const int64_t groups = w.groups();
  alignas(32) uint32_t out[kStrip];
  if (w.scale_dtype == DType::kF32) {
    for (int64_t i = 0; i < kStrip; ++i) std::memcpy(&out[i], base + ((row + std::min(i, last)) * groups + g) * 4, 4);
    return _mm256_load_ps(reinterpret_cast<const float*>(out));
  }
  for (int64_t i = 0; i < kStrip; ++i) {
    uint16_t h;
    std::memcpy(&h, base + ((row + std::min(i, last)) * groups + g) * 2, 2);
    out[i] = h;
  }
  const __m256i h = _mm256_load_si256(reinterpret_cast<const __m256i*>(out));
  if (w.scale_dtype == DType::kBF16) return _mm256_castsi256_ps(_mm256_slli_epi32(h, 16));
  const __m128i packed = _mm_packus_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
  return _mm256_cvtph_ps(packed);
}

template <int kBits>
void GemvBits(const AffineRows& w, int64_t begin, int64_t end, int64_t, const QuantizedRows& a, float* y) {
  const int64_t stride = w.code_stride();
  const int kB = w.format.group_size == 32 ? 32 : 64;
  const int64_t per_group = w.format.group_size / kB;
  const __m256i* x = reinterpret_cast<const __m256i*>(a.codes);
  for (int64_t r = begin; r < end; r += kStrip) {
    const int64_t last = std::min<int64_t>(kStrip, end - r) - 1;
    __m256 sum = _mm256_setzero_ps(), s = sum, z = sum;
    for (int64_t b = 0; b < a.blocks; ++b) {
      if (b % per_group == 0) {
        s = Parameters(w, w.scales, r, last, b / per_group);
        z = Parameters(w, w.biases, r, last, b / per_group);
      }
      __m256i p[kStrip];
#pragma GCC unroll 8
      for (int i = 0; i < kStrip; ++i) {
        const uint8_t* row = reinterpret_cast<const uint8_t*>(w.codes) + (r + std::min<int64_t>(i, last)) * stride;
        p[i] = _mm256_setzero_si256();
        for (int h = 0; h < kB / 32; ++h) {
          const int64_t k = b * kB + h * 32;
          __m256i u, v;
          Unpack32<kBits>(row + k * kBits / 8, &u, &v);
          p[i] = _mm256_add_epi32(p[i], _mm256_madd_epi16(u, _mm256_loadu_si256(x + k / 16)));
          p[i] = _mm256_add_epi32(p[i], _mm256_madd_epi16(v, _mm256_loadu_si256(x + k / 16 + 1)));
        }
      }
      const __m256i q0 = _mm256_hadd_epi32(_mm256_hadd_epi32(p[0], p[1]), _mm256_hadd_epi32(p[2], p[3]));
      const __m256i q1 = _mm256_hadd_epi32(_mm256_hadd_epi32(p[4], p[5]), _mm256_hadd_epi32(p[6], p[7]));
      const __m256i dot = _mm256_add_epi32(_mm256_permute2x128_si256(q0, q1, 0x20), _mm256_permute2x128_si256(q0, q1, 0x31));
      sum = Accumulate(sum, dot, s, z, a.d[b], a.ds[b]);
    }
    alignas(32) float out[kStrip];
    _mm256_store_ps(out, sum);
    std::memcpy(y + (r - begin), out, (last + 1) * sizeof(float));
  }
}

OPTIQ_INLINE void Transpose8(__m256i* r) {
  __m256i t[8];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    t[2 * i] = _mm256_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm256_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
  __m256i u[8];
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    u[4 * i] = _mm256_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    u[4 * i + 1] = _mm256_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    u[4 * i + 2] = _mm256_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    u[4 * i + 3] = _mm256_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    r[c] = _mm256_permute2x128_si256(u[c], u[4 + c], 0x20);
    r[4 + c] = _mm256_permute2x128_si256(u[c], u[4 + c], 0x31);
  }
}

// Codes [k0, k1) of 8 rows to panel[(k - k0) / 2][kPanel][2] int16, this strip's half of each step.
template <int kBits>
void UnpackStrip(const uint8_t* base, int64_t stride, int64_t last, int64_t k0, int64_t k1, int16_t* panel) {
  for (int64_t k = k0; k < k1; k += 32) {
    __m256i a[8], b[8];
    for (int i = 0; i < 8; ++i) Unpack32<kBits>(base + std::min<int64_t>(i, last) * stride + k * kBits / 8, &a[i], &b[i]);
    Transpose8(a);
    Transpose8(b);
    int16_t* out = panel + (k - k0) * kPanel;
    for (int i = 0; i < 8; ++i) {
      _mm256_store_si256(reinterpret_cast<__m256i*>(out + i * 2 * kPanel), a[i]);
      _mm256_store_si256(reinterpret_cast<__m256i*>(out + (8 + i) * 2 * kPanel), b[i]);
    }
  }
}

template <int R>
void Tile(const int16_t* panel, const float* s, const float* z, const std::byte* codes, int64_t row_bytes, const float* d,
          const float* ds, int64_t row_blocks, int64_t blocks, int64_t per_group, int block, float* y) {
  for (int64_t b = 0; b < blocks; ++b) {
    __m256i acc0[R], acc1[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) acc0[r] = acc1[r] = _mm256_setzero_si256();
    const std::byte* x = codes + b * block * 2;
    for (int i = 0; i < block / 2; ++i) {
      const __m256i w0 = _mm256_load_si256(reinterpret_cast<const __m256i*>(panel));
      const __m256i w1 = _mm256_load_si256(reinterpret_cast<const __m256i*>(panel + 16));
      panel += 2 * kPanel;
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        int32_t two;
        std::memcpy(&two, x + r * row_bytes + 4 * i, 4);
        const __m256i v = _mm256_set1_epi32(two);
        acc0[r] = _mm256_add_epi32(acc0[r], _mm256_madd_epi16(w0, v));
        acc1[r] = _mm256_add_epi32(acc1[r], _mm256_madd_epi16(w1, v));
      }
    }
    const int64_t g = b / per_group * kPanel;
    const __m256 s0 = _mm256_load_ps(s + g), s1 = _mm256_load_ps(s + g + 8);
    const __m256 z0 = _mm256_load_ps(z + g), z1 = _mm256_load_ps(z + g + 8);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      float* out = y + r * kPanel;
      const float dr = d[r * row_blocks + b], dsr = ds[r * row_blocks + b];
      _mm256_store_ps(out, Accumulate(_mm256_load_ps(out), acc0[r], s0, z0, dr, dsr));
      _mm256_store_ps(out + 8, Accumulate(_mm256_load_ps(out + 8), acc1[r], s1, z1, dr, dsr));
    }
  }
}

int64_t PieceColumns(int64_t cols, int64_t m) { return m <= kFewRows ? std::min(cols, kPieceColumns) : cols; }

int64_t ScratchBytes(int64_t cols, int64_t m) {
  const int64_t piece = PieceColumns(cols, m);
  return piece * kPanel * 2 + 2 * (piece / 32) * kPanel * 4 + std::max<int64_t>(m <= kFewRows ? m : 0, kMaxTile) * kPanel * 4;
}

template <int kBits>
void GemmBits(const AffineRows& w, int64_t begin, int64_t end, const QuantizedRows& a, float* y, int64_t ldy,
              std::byte* scratch) {
  const int64_t stride = w.code_stride(), piece = PieceColumns(w.cols, a.m), group_size = w.format.group_size;
  const int block = group_size == 32 ? 32 : 64;
  int16_t* panel = reinterpret_cast<int16_t*>(scratch);
  float* s = reinterpret_cast<float*>(scratch + piece * kPanel * 2);
  float* z = s + piece / 32 * kPanel;
  float* sums = z + piece / 32 * kPanel;
  const bool whole = piece == w.cols;
  const int64_t tiles = (a.m + kMaxTile - 1) / kMaxTile;
  for (int64_t r = begin; r < end; r += kPanel) {
    const int64_t n = std::min<int64_t>(kPanel, end - r);
    if (!whole) std::memset(sums, 0, a.m * kPanel * sizeof(float));
    for (int64_t k0 = 0; k0 < w.cols; k0 += piece) {
      const int64_t k1 = std::min(w.cols, k0 + piece);
      for (int half = 0; half < 2; ++half) {
        const int64_t row = std::min(r + half * kStrip, end - 1), last = std::min<int64_t>(kStrip, end - row) - 1;
        UnpackStrip<kBits>(reinterpret_cast<const uint8_t*>(w.codes) + row * stride, stride, last, k0, k1, panel + half * 16);
        for (int64_t g = k0 / group_size; g < k1 / group_size; ++g) {
          const int64_t at = (g - k0 / group_size) * kPanel + half * kStrip;
          _mm256_store_ps(s + at, Parameters(w, w.scales, row, last, g));
          _mm256_store_ps(z + at, Parameters(w, w.biases, row, last, g));
        }
      }
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t i0 = tile * a.m / tiles, rows = (tile + 1) * a.m / tiles - i0;
        float* out = whole ? sums : sums + i0 * kPanel;
        if (whole) std::memset(out, 0, rows * kPanel * sizeof(float));
        const auto run = rows == 1 ? Tile<1> : rows == 2 ? Tile<2> : rows == 3 ? Tile<3> : Tile<4>;
        run(panel, s, z, a.codes + i0 * a.row_bytes + k0 * 2, a.row_bytes, a.d + i0 * a.blocks + k0 / block,
            a.ds + i0 * a.blocks + k0 / block, a.blocks, (k1 - k0) / block, group_size / block, block, out);
        if (k1 < w.cols) continue;
        for (int64_t i = 0; i < rows; ++i) {
          std::memcpy(y + (i0 + i) * ldy + (r - begin), out + i * kPanel, n * sizeof(float));
        }
      }
    }
  }
}

void Gemv(const AffineRows& w, int64_t begin, int64_t end, int64_t ahead, const QuantizedRows& a, float* y) {
  WithAffineBits(w.format.bits, [&](auto bits) { GemvBits<decltype(bits)::value>(w, begin, end, ahead, a, y); });
}

void Gemm(const AffineRows& w, int64_t begin, int64_t end, const QuantizedRows& a, float* y, int64_t ldy,
          std::byte* scratch) {
  WithAffineBits(w.format.bits, [&](auto bits) { GemmBits<decltype(bits)::value>(w, begin, end, a, y, ldy, scratch); });
}

}  // namespace
}  // namespace optiq

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace optiq {

const AffineKernels* AffineKernelsAvx2() {
  static constexpr AffineKernels kKernels = {"avx2", RowBytes, Quantize, Gemv, Gemm, ScratchBytes, nullptr, nullptr, kPanel};
  return CpuHas(CpuFeature::kAvx2) ? &kKernels : nullptr;
}

}  // namespace optiq

#else
namespace optiq {
const AffineKernels* AffineKernelsAvx2() { return nullptr; }
}  // namespace optiq
#endif
