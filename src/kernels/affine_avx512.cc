// The fast path on AVX-512 with VNNI and VBMI (Ice Lake, Zen 4 and later). Quantized rows: a plane of int8 (v, or its high part),
// then for 15 bits a plane of int8 with the low part; each plane is padded to 64.
#include "kernels/affine_kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "kernels/affine_strips.h"
#include "kernels/isa.h"
#include "kernels/with_value.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi,fma,f16c")
#endif
// GCC 12 takes the undefined vectors inside its own intrinsics for reads of uninitialized variables.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

namespace optiq {
namespace {

#include "kernels/affine_avx512.inc"

constexpr int64_t kNearBytes = 8 << 10;  // strips up to this size are fetched into the first-level cache

// ---- Activations

// The position of every input of 64 in the order of `planes`, for a byte permutation.
alignas(64) constexpr auto kOrders = [] {
  struct { uint8_t index[2][3][64]; } t{};  // [block 32, 64][planes 1, 2, 4]
  for (int s = 0; s < 2; ++s) {
    for (int p = 0; p < 3; ++p) {
      const int block = 32 << s, planes = 1 << p, width = block / planes;
      for (int i = 0; i < 64; ++i) {
        t.index[s][p][i / block * block + (i % block % planes) * width + i % block / planes] = static_cast<uint8_t>(i);
      }
    }
  }
  return t;
}();

OPTIQ_INLINE __m512i Join(const __m128i* q) {
  const __m256i lo = _mm256_inserti128_si256(_mm256_castsi128_si256(q[0]), q[1], 1);
  const __m256i hi = _mm256_inserti128_si256(_mm256_castsi128_si256(q[2]), q[3], 1);
  return _mm512_inserti64x4(_mm512_castsi256_si512(lo), hi, 1);
}

void Quantize(const float* x, int64_t n, ActivationFormat format, std::byte* codes, float* d, float* ds) {
  const bool wide = format.bits == ActivationBits::k15;
  const float top = wide ? kTop15 : kTop8;
  const int vectors = format.block / 16;  // of one block
  const __m512i order = _mm512_load_si512(
      kOrders.index[format.block == 64][std::countr_zero(static_cast<unsigned>(format.planes))]);
  const __m512i no_sign = _mm512_set1_epi32(0x7fffffff);
  const int64_t plane = Plane(n);
  for (int64_t k = 0; k < n; k += 64) {
    __m128i high[4], low[4];
    for (int i = 0; i < 4; ++i) high[i] = low[i] = _mm_setzero_si128();
    for (int b = 0; b < 64 / format.block && k + b * format.block < n; ++b) {
      const float* in = x + k + b * format.block;
      const int64_t index = (k + b * format.block) / format.block;
      __m512i largest = _mm512_setzero_si512();
      for (int i = 0; i < vectors; ++i) {
        largest = _mm512_max_epu32(largest, _mm512_and_si512(_mm512_loadu_si512(in + 16 * i), no_sign));
      }
      const uint32_t bits = _mm512_reduce_max_epu32(largest);
      const float max = std::bit_cast<float>(bits);
      if (bits >= 0x7f800000u || max < kTinyBlock) {
        d[index] = bits >= 0x7f800000u ? max : 0.0f;
        ds[index] = d[index] * 0.0f;
        continue;
      }
      const __m512 inverse = _mm512_set1_ps(top / max);
      __m512i sum = _mm512_setzero_si512();
      for (int i = 0; i < vectors; ++i) {
        const __m512i v = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(in + 16 * i), inverse));
        sum = _mm512_add_epi32(sum, v);
        const int q = b * vectors + i;
        if (wide) {
          const __m512i h = _mm512_srai_epi32(_mm512_add_epi32(v, _mm512_set1_epi32(64)), 7);
          high[q] = _mm512_cvtepi32_epi8(h);
          low[q] = _mm512_cvtepi32_epi8(_mm512_sub_epi32(v, _mm512_slli_epi32(h, 7)));
        } else {
          high[q] = _mm512_cvtepi32_epi8(v);
        }
      }
      d[index] = max * (1.0f / top);
      ds[index] = d[index] * static_cast<float>(_mm512_reduce_add_epi32(sum));
    }
    _mm512_storeu_si512(codes + k, _mm512_permutexvar_epi8(order, Join(high)));
    if (wide) _mm512_storeu_si512(codes + plane + k, _mm512_permutexvar_epi8(order, Join(low)));
  }
}

OPTIQ_INLINE void TransposeParameters(DType dtype, const std::byte* base, int64_t stride, int64_t last, int64_t groups,
                                      float* out, int64_t step) {
  const __mmask16 m = groups >= 16 ? 0xffff : static_cast<__mmask16>((1u << groups) - 1);
  __m512i r[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    r[i] = _mm512_castps_si512(LoadParameters(dtype, base + std::min<int64_t>(i, last) * stride, m));
  }
  Transpose16(r);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    if (i < groups) _mm512_storeu_si512(out + i * step, r[i]);
  }
}

// ---- One row of activations

// Four vectors to one: lane 4q + i of the result is the sum of lanes 4q..4q+3 of s[i].
OPTIQ_INLINE __m512i SumQuarters(const __m512i* s) {
  const __m512i a = _mm512_add_epi32(_mm512_unpacklo_epi32(s[0], s[1]), _mm512_unpackhi_epi32(s[0], s[1]));
  const __m512i b = _mm512_add_epi32(_mm512_unpacklo_epi32(s[2], s[3]), _mm512_unpackhi_epi32(s[2], s[3]));
  return _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}

// From the quarters of 16 rows: the sums of each row's lower half, and of the upper.
OPTIQ_INLINE void SumHalves(const __m512i* v, __m512i* lower, __m512i* upper) {
  const __m512i t0 = _mm512_add_epi32(_mm512_shuffle_i32x4(v[0], v[1], 0x88), _mm512_shuffle_i32x4(v[0], v[1], 0xdd));
  const __m512i t1 = _mm512_add_epi32(_mm512_shuffle_i32x4(v[2], v[3], 0x88), _mm512_shuffle_i32x4(v[2], v[3], 0xdd));
  *lower = _mm512_shuffle_i32x4(t0, t1, 0x88);
  *upper = _mm512_shuffle_i32x4(t0, t1, 0xdd);
}

// Integer sums of 16 rows over 64 inputs: both blocks of 32, or (kB = 64) all in *p0.
template <int kBits, int kB, bool kWide, bool kHalf>
OPTIQ_INLINE void Dot16(const uint8_t* const* rows, int64_t offset, __m512i high, __m512i low, __m512i* p0, __m512i* p1) {
  __m512i v[4];
#pragma GCC unroll 4
  for (int q = 0; q < 4; ++q) {
    __m512i s[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const __m512i w = Unpack64<kBits, kB, kHalf>(rows[4 * q + i] + offset);
      s[i] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w, high);
      if constexpr (kWide) s[i] = _mm512_dpbusd_epi32(_mm512_slli_epi32(s[i], 7), w, low);
    }
    v[q] = SumQuarters(s);
  }
  SumHalves(v, p0, p1);
  if constexpr (kB == 64) *p0 = _mm512_add_epi32(*p0, *p1);
}

// The same for codes of 4 bits and two blocks of 64 at once: each load holds 128 codes, and one reduction serves both blocks.
// even and odd: the planes of both blocks, high parts and low parts.
template <bool kWide>
OPTIQ_INLINE void Dot16Pair(const uint8_t* const* rows, int64_t offset, const __m512i* even, const __m512i* odd, __m512i* p0,
                            __m512i* p1) {
  const __m512i mask = _mm512_set1_epi8(15);
  __m512i v[4];
#pragma GCC unroll 4
  for (int q = 0; q < 4; ++q) {
    __m512i s[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const __m512i x = _mm512_loadu_si512(rows[4 * q + i] + offset);
      const __m512i lo = _mm512_and_si512(x, mask), hi = _mm512_and_si512(_mm512_srli_epi16(x, 4), mask);
      s[i] = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(_mm512_setzero_si512(), lo, even[0]), hi, odd[0]);
      if constexpr (kWide) {
        s[i] = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(_mm512_slli_epi32(s[i], 7), lo, even[1]), hi, odd[1]);
      }
    }
    v[q] = SumQuarters(s);
  }
  SumHalves(v, p0, p1);
}

// The planes of two neighbouring blocks at p, even inputs and odd ones.
OPTIQ_INLINE void LoadPair(const int8_t* p, __m512i* even, __m512i* odd) {
  const __m512i a = _mm512_loadu_si512(p), b = _mm512_loadu_si512(p + 64);
  *even = _mm512_shuffle_i64x2(a, b, 0x44);
  *odd = _mm512_shuffle_i64x2(a, b, 0xee);
}

// Fetches kLines cache lines at *next, which moves on.
template <int kLines>
OPTIQ_INLINE void Fetch(const char** next, bool near) {
#pragma GCC unroll 16
  for (int i = 0; i < kLines; ++i) {
    if (near) {
      _mm_prefetch(*next + 64 * i, _MM_HINT_T0);
    } else {
      _mm_prefetch(*next + 64 * i, _MM_HINT_T1);
    }
  }
  *next += 64 * kLines;
}

template <int kBits, int kB, bool kWide>
void GemvBits(const AffineRows& w, int64_t begin, int64_t end, int64_t ahead, const QuantizedRows& a, float* y) {
  const int64_t stride = w.code_stride(), groups = w.groups(), blocks = a.blocks;
  const int64_t per_group = w.format.group_size / kB, size = w.scale_dtype == DType::kF32 ? 4 : 2;
  const int8_t* high = reinterpret_cast<const int8_t*>(a.codes);
  const int8_t* low = high + Plane(w.cols);
  const bool near = kStrip * stride <= kNearBytes;
  alignas(64) float s[16 * kStrip], z[16 * kStrip];
  for (int64_t r = begin; r < end; r += kStrip) {
    const int64_t last = std::min<int64_t>(kStrip, end - r) - 1;
    const uint8_t* rows[kStrip];
    for (int i = 0; i < kStrip; ++i) {
      rows[i] = reinterpret_cast<const uint8_t*>(w.codes) + (r + std::min<int64_t>(i, last)) * stride;
    }
    // The strip to come is fetched while this one is used, in the order of memory: 16 rows are too many streams for the
    // hardware's prefetchers (three times slower without). Long rows go to the second-level cache.
    const bool more = r + kStrip < ahead;
    const char* next = reinterpret_cast<const char*>(w.codes + (r + kStrip) * stride);
    if (more) {
      for (int64_t i = 0; i < kStrip * groups * size; i += 64) {
        _mm_prefetch(reinterpret_cast<const char*>(w.scales + (r + kStrip) * groups * size + i), _MM_HINT_T0);
        _mm_prefetch(reinterpret_cast<const char*>(w.biases + (r + kStrip) * groups * size + i), _MM_HINT_T0);
      }
    }
    __m512 sum = _mm512_setzero_ps();
    for (int64_t b = 0; b < blocks;) {
      const int64_t g = b / per_group, count = std::min<int64_t>(16, groups - g);
      const int64_t stop = std::min(blocks, b + count * per_group), first = b;
      TransposeParameters(w.scale_dtype, w.scales + (r * groups + g) * size, groups * size, last, count, s, kStrip);
      TransposeParameters(w.scale_dtype, w.biases + (r * groups + g) * size, groups * size, last, count, z, kStrip);
      while (b < stop) {
        if constexpr (kBits == 4 && kB == 64) {
          if (b + 1 < stop) {
            if (more) Fetch<2 * kBits * 2>(&next, near);
            __m512i even[2], odd[2], p0, p1;
            LoadPair(high + b * kB, &even[0], &odd[0]);
            if constexpr (kWide) LoadPair(low + b * kB, &even[1], &odd[1]);
            Dot16Pair<kWide>(rows, b * kB * kBits / 8, even, odd, &p0, &p1);
            const int64_t i = (b - first) / per_group * kStrip, j = (b + 1 - first) / per_group * kStrip;
            sum = Accumulate(sum, p0, _mm512_load_ps(s + i), _mm512_load_ps(z + i), a.d[b], a.ds[b]);
            sum = Accumulate(sum, p1, _mm512_load_ps(s + j), _mm512_load_ps(z + j), a.d[b + 1], a.ds[b + 1]);
            b += 2;
            continue;
          }
        }
        if (more) Fetch<2 * kBits>(&next, near);
        const __m512i h = _mm512_loadu_si512(high + b * kB);
        const __m512i l = kWide ? _mm512_loadu_si512(low + b * kB) : _mm512_setzero_si512();
        const int64_t offset = b * kB * kBits / 8;
        __m512i p0, p1;
        if (kB == 64 || b + 1 < blocks) {
          Dot16<kBits, kB, kWide, false>(rows, offset, h, l, &p0, &p1);
        } else {
          Dot16<kBits, kB, kWide, true>(rows, offset, h, l, &p0, &p1);
        }
        const int64_t i = (b - first) / per_group * kStrip;
        sum = Accumulate(sum, p0, _mm512_load_ps(s + i), _mm512_load_ps(z + i), a.d[b], a.ds[b]);
        if (kB == 32 && b + 1 < blocks) {
          sum = Accumulate(sum, p1, _mm512_load_ps(s + i + kStrip), _mm512_load_ps(z + i + kStrip), a.d[b + 1],
                           a.ds[b + 1]);
        }
        b += 64 / kB;
      }
    }
    _mm512_mask_storeu_ps(y + (r - begin), static_cast<__mmask16>((2u << last) - 1), sum);
  }
}

// ---- Many rows of activations

// Codes [k0, k1) of 16 rows, k0 a multiple of 256, to panel[(k - k0) / 4][kPanel][4], this strip's half of each step. As many bytes at `next` are fetched for later, unless it is null.
template <int kBits, int kB>
void UnpackStrip(const uint8_t* base, int64_t stride, int64_t last, int64_t k0, int64_t k1, uint8_t* panel,
                 const uint8_t* next) {
  constexpr bool kDirect = kBits == 2 || kBits == 4 || kBits == 8;  // dwords are transposed packed, then split into planes
  constexpr int64_t kCodes = kDirect ? 512 / kBits : 64;
  constexpr int kPlanes = kDirect ? 8 / kBits : 1;
  constexpr int kDwords = kB / (4 * kPlanes);  // packed dwords of a block
  for (int64_t k = k0; k < k1; k += kCodes) {
    const int64_t left = std::min(kCodes, k1 - k);
    if (next != nullptr) {
      constexpr int kBytes = 16 * kCodes * kBits / 8;
#pragma GCC unroll 16
      for (int i = 0; i < kBytes; i += 64) _mm_prefetch(reinterpret_cast<const char*>(next + i), _MM_HINT_T1);
      next += kBytes;
    }
    __m512i r[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      const uint8_t* p = base + std::min<int64_t>(i, last) * stride + k * kBits / 8;
      if constexpr (kDirect) {
        const uint64_t bytes = left * kBits / 8;
        r[i] = left == kCodes ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi8((uint64_t{1} << bytes) - 1, p);
      } else {
        r[i] = left == kCodes ? Unpack64<kBits, kB, false>(p) : Unpack64<kBits, kB, true>(p);
      }
    }
    Transpose16(r);
    const int64_t dwords = left / (4 * kPlanes);
    uint8_t* out = panel + (k - k0) / 4 * (4 * kPanel);
#pragma GCC unroll 16
    for (int j = 0; j < 16; ++j) {
      if (j >= dwords) break;
#pragma GCC unroll 4
      for (int p = 0; p < kPlanes; ++p) {
        __m512i x = r[j];
        if constexpr (kPlanes > 1) {
          x = _mm512_and_si512(_mm512_srli_epi32(x, p * kBits), _mm512_set1_epi8((1 << kBits) - 1));
        }
        const int step = j / kDwords * (kB / 4) + p * kDwords + j % kDwords;
        _mm512_store_si512(out + step * (4 * kPanel), x);
      }
    }
  }
}

// Rows of a tile side by side, in the order in which the products read them: codes [plane][step][R][4], d and ds [block][R].
void Pack(const QuantizedRows& a, int64_t tile, const QuantizedRows& out) {
  const Tiles tiles(a.m);
  const int64_t i0 = tiles.begin(tile), r = tiles.begin(tile + 1) - i0, dwords = a.row_bytes / 4;
  const std::byte* from = a.codes + i0 * a.row_bytes;
  std::byte* to = out.codes + i0 * a.row_bytes;
  // Rows to columns of r dwords, 16 columns at a time.
  const __mmask16 mask = static_cast<__mmask16>((1u << r) - 1);
  for (int64_t k = 0; k < dwords; k += 16) {
    __m512i v[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) v[i] = i < r ? _mm512_loadu_si512(from + i * a.row_bytes + k * 4) : _mm512_setzero_si512();
    Transpose16(v);
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) _mm512_mask_storeu_epi32(to + (k + i) * r * 4, mask, v[i]);
  }
  for (int64_t b = 0; b < a.blocks; ++b) {
    for (int64_t i = 0; i < r; ++i) {
      out.d[i0 * a.blocks + b * r + i] = a.d[(i0 + i) * a.blocks + b];
      out.ds[i0 * a.blocks + b * r + i] = a.ds[(i0 + i) * a.blocks + b];
    }
  }
}

int64_t PackTiles(int64_t m) { return Tiles(m).count; }

template <int kBits, int kB, bool kWide>
void GemmBits(const AffineRows& w, int64_t begin, int64_t end, const QuantizedRows& a, float* y, int64_t ldy,
              std::byte* scratch) {
  const int64_t stride = w.code_stride(), groups = w.groups(), size = w.scale_dtype == DType::kF32 ? 4 : 2;
  const int64_t group_size = w.format.group_size;
  const auto fill = [&](int64_t r, int64_t k0, int64_t k1, uint8_t* panel, float* s, float* z) {
    for (int half = 0; half < 2; ++half) {
      const int64_t row = std::min(r + half * kStrip, end - 1), last = std::min<int64_t>(kStrip, end - row) - 1;
      const uint8_t* codes = reinterpret_cast<const uint8_t*>(w.codes);
      const uint8_t* next = codes + (r + kPanel + half * kStrip) * stride + kStrip * k0 * kBits / 8;
      UnpackStrip<kBits, kB>(codes + row * stride, stride, last, k0, k1, panel + half * 64, r + kPanel < end ? next : nullptr);
      for (int64_t g = k0 / group_size; g < k1 / group_size; g += 16) {
        const int64_t count = std::min<int64_t>(16, k1 / group_size - g), at = (g - k0 / group_size) * kPanel;
        const int64_t offset = (row * groups + g) * size;
        TransposeParameters(w.scale_dtype, w.scales + offset, groups * size, last, count, s + at + half * 16, kPanel);
        TransposeParameters(w.scale_dtype, w.biases + offset, groups * size, last, count, z + at + half * 16, kPanel);
      }
    }
    return Ahead();  // UnpackStrip does it
  };
  GemmPanels<kB, kWide>(w.cols, group_size, begin, end, a, y, ldy, scratch, fill);
}

// ---- Dispatch on the format

template <int kBits>
void GemvWidth(const AffineRows& w, int64_t begin, int64_t end, int64_t ahead, const QuantizedRows& a, float* y) {
  const bool wide = a.bits == ActivationBits::k15;
  if (w.format.group_size == 32) {
    return wide ? GemvBits<kBits, 32, true>(w, begin, end, ahead, a, y) : GemvBits<kBits, 32, false>(w, begin, end, ahead, a, y);
  }
  return wide ? GemvBits<kBits, 64, true>(w, begin, end, ahead, a, y) : GemvBits<kBits, 64, false>(w, begin, end, ahead, a, y);
}

template <int kBits>
void GemmWidth(const AffineRows& w, int64_t begin, int64_t end, const QuantizedRows& a, float* y, int64_t ldy,
               std::byte* scratch) {
  const bool wide = a.bits == ActivationBits::k15;
  if (w.format.group_size == 32) {
    return wide ? GemmBits<kBits, 32, true>(w, begin, end, a, y, ldy, scratch)
                : GemmBits<kBits, 32, false>(w, begin, end, a, y, ldy, scratch);
  }
  return wide ? GemmBits<kBits, 64, true>(w, begin, end, a, y, ldy, scratch)
              : GemmBits<kBits, 64, false>(w, begin, end, a, y, ldy, scratch);
}

void Gemv(const AffineRows& w, int64_t begin, int64_t end, int64_t ahead, const QuantizedRows& a, float* y) {
  if (w.strips != nullptr) return MultiplyStrips(w, begin, end, a, y, 0, nullptr);
  WithAffineBits(w.format.bits, [&](auto bits) { GemvWidth<decltype(bits)::value>(w, begin, end, ahead, a, y); });
}

void Gemm(const AffineRows& w, int64_t begin, int64_t end, const QuantizedRows& a, float* y, int64_t ldy,
          std::byte* scratch) {
  if (w.strips != nullptr) return MultiplyStrips(w, begin, end, a, y, ldy, scratch);
  WithAffineBits(w.format.bits, [&](auto bits) { GemmWidth<decltype(bits)::value>(w, begin, end, a, y, ldy, scratch); });
}

}  // namespace
}  // namespace optiq

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace optiq {

const AffineKernels* AffineKernelsAvx512() {
  static constexpr AffineKernels kKernels = {"avx512vnni", RowBytes,  Quantize, Gemv,   Gemm,
                                              ScratchBytes, PackTiles, Pack,     kPanel, StripBytes, PackStrips};
  return CpuHas(CpuFeature::kAvx512Vnni) ? &kKernels : nullptr;
}

}  // namespace optiq

#else
namespace optiq {
const AffineKernels* AffineKernelsAvx512() { return nullptr; }
}  // namespace optiq
#endif