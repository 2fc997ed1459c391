// Strips on AVX-512 with VNNI and VBMI.
#include "kernels/affine_strips.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#include <algorithm>
#include <cstring>

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
#pragma GCC diagnostic ignored "-Wuninitialized"

namespace optiq {
namespace {

#include "kernels/affine_avx512.inc"

constexpr int64_t kDirectRows = 6;    // up to this many rows of activations, codes are used as they are unpacked, not stored
constexpr int64_t kAhead = 2 << 10;  // bytes fetched before they are used

// Bytes of one step of a plane: 16 rows of 4 bytes.
constexpr int64_t kStep = 64;

template <int kBits, int kB>
constexpr int64_t kBlockBytes = int64_t{kStrip} * kB * kBits / 8;

// A field of width kField at bits kFrom.. of every byte, moved to bits kTo.. .
template <int kField, int kFrom, int kTo>
OPTIQ_INLINE __m512i Field(__m512i x) {
  constexpr int kMask = ((1 << kField) - 1) << kTo;
  if constexpr (kFrom > kTo) x = _mm512_srli_epi32(x, kFrom - kTo);
  if constexpr (kFrom < kTo) x = _mm512_slli_epi32(x, kTo - kFrom);
  return _mm512_and_si512(x, _mm512_set1_epi8(static_cast<char>(kMask)));
}

// Codes of step kStepIndex of a block at p: [16 rows][4 inputs].
template <int kBits, int kB, int kS>
OPTIQ_INLINE __m512i Codes(const uint8_t* p) {
  const auto load = [p](int64_t vector) __attribute__((always_inline)) { return _mm512_loadu_si512(p + vector * kStep); };
  if constexpr (kBits == 8) {
    return load(kS);
  } else if constexpr (kBits == 4) {
    return Field<4, kS % 2 * 4, 0>(load(kS / 2));
  } else if constexpr (kBits == 2) {
    return Field<2, kS % 4 * 2, 0>(load(kS / 4));
  } else if constexpr (kBits == 6) {
    return _mm512_or_si512(Field<4, kS % 2 * 4, 0>(load(kS / 2)), Field<2, kS % 4 * 2, 4>(load(kB / 8 + kS / 4)));
  } else if constexpr (kBits == 5) {
    return _mm512_or_si512(Field<4, kS % 2 * 4, 0>(load(kS / 2)), Field<1, kS % 8, 4>(load(kB / 8 + kS / 8)));
  } else {
    return _mm512_or_si512(Field<2, kS % 4 * 2, 0>(load(kS / 4)), Field<1, kS % 8, 2>(load(kB / 16 + kS / 8)));
  }
}

// fn(step as a constant, codes) for all steps of a block.
template <int kBits, int kB, int kS = 0, typename Fn>
OPTIQ_INLINE void ForSteps(const uint8_t* p, const Fn& fn) {
  if constexpr (kS < kB / 4) {
    fn(std::integral_constant<int, kS>(), Codes<kBits, kB, kS>(p));
    ForSteps<kBits, kB, kS + 1>(p, fn);
  }
}

struct Shape {
  explicit Shape(const AffineRows& w)
      : groups(w.groups()),
        header(2 * kStrip * (w.scale_dtype == DType::kF32 ? 4 : 2)),
        group_bytes(header + kStrip * w.format.group_size * w.format.bits / 8) {}
  int64_t strip_bytes() const { return groups * group_bytes; }
  int64_t groups, header, group_bytes;
};

// ---- Few rows of activations: R of them, in the order of Pack (one row: as quantized).

template <int kBits, int kB, bool kWide, int R>
void MultiplyDirect(const AffineRows& w, int64_t begin, int64_t end, const QuantizedRows& a, float* y, int64_t ldy) {
  constexpr int kChains = R == 1 ? 2 : 1;  // enough sums in flight to hide a dot product's latency
  const Shape shape(w);
  const int64_t per_group = w.format.group_size / kB;
  const int8_t* codes = reinterpret_cast<const int8_t*>(a.codes);
  const int64_t plane = Plane(w.cols) * R;
  for (int64_t r = begin; r < end; r += kStrip) {
    const uint8_t* p = reinterpret_cast<const uint8_t*>(w.strips) + r / kStrip * shape.strip_bytes();
    __m512 sums[R];
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) sums[i] = _mm512_setzero_ps();
    int64_t b = 0;
    for (int64_t g = 0; g < shape.groups; ++g) {
      const std::byte* header = reinterpret_cast<const std::byte*>(p);
      const __m512 s = LoadParameters(w.scale_dtype, header, 0xffff);
      const __m512 z = LoadParameters(w.scale_dtype, header + shape.header / 2, 0xffff);
      _mm_prefetch(reinterpret_cast<const char*>(p + kAhead), _MM_HINT_T0);
      p += shape.header;
      for (int64_t i = 0; i < per_group; ++i, ++b) {
#pragma GCC unroll 16
        for (int64_t at = 0; at < kBlockBytes<kBits, kB>; at += 64) {
          _mm_prefetch(reinterpret_cast<const char*>(p + kAhead + at), _MM_HINT_T0);
        }
        __m512i high[R][kChains], low[R][kChains];
#pragma GCC unroll 8
        for (int j = 0; j < R; ++j) {
#pragma GCC unroll 2
          for (int c = 0; c < kChains; ++c) high[j][c] = low[j][c] = _mm512_setzero_si512();
        }
        const int8_t* x = codes + b * kB * R;
        ForSteps<kBits, kB>(p, [&](auto step, __m512i q) __attribute__((always_inline)) {
          constexpr int kS = decltype(step)::value, kC = kS % kChains;
#pragma GCC unroll 8
          for (int j = 0; j < R; ++j) {
            int32_t dword;
            std::memcpy(&dword, x + (kS * R + j) * 4, 4);
            high[j][kC] = _mm512_dpbusd_epi32(high[j][kC], q, _mm512_set1_epi32(dword));
            if constexpr (kWide) {
              std::memcpy(&dword, x + plane + (kS * R + j) * 4, 4);
              low[j][kC] = _mm512_dpbusd_epi32(low[j][kC], q, _mm512_set1_epi32(dword));
            }
          }
        });
        p += kBlockBytes<kBits, kB>;
#pragma GCC unroll 8
        for (int j = 0; j < R; ++j) {
          __m512i sum = high[j][0];
          if constexpr (kChains == 2) sum = _mm512_add_epi32(sum, high[j][1]);
          if constexpr (kWide) {
            sum = _mm512_add_epi32(_mm512_slli_epi32(sum, 7), low[j][0]);
            if constexpr (kChains == 2) sum = _mm512_add_epi32(sum, low[j][1]);
          }
          sums[j] = Accumulate(sums[j], sum, s, z, a.d[b * R + j], a.ds[b * R + j]);
        }
      }
    }
    const int64_t n = std::min<int64_t>(kStrip, end - r);
#pragma GCC unroll 8
    for (int j = 0; j < R; ++j) {
      _mm512_mask_storeu_ps(y + j * ldy + (r - begin), static_cast<__mmask16>((1u << n) - 1), sums[j]);
    }
  }
}

// ---- Many

template <int kBits, int kB, bool kWide>
void MultiplyPanels(const AffineRows& w, int64_t begin, int64_t end, const QuantizedRows& a, float* y, int64_t ldy,
                    std::byte* scratch) {
  const Shape shape(w);
  const int64_t group_size = w.format.group_size, per_group = group_size / kB;
  const auto* strips = reinterpret_cast<const uint8_t*>(w.strips);
  const auto fill = [&](int64_t r, int64_t k0, int64_t k1, uint8_t* panel, float* s, float* z) {
    const int64_t g0 = k0 / group_size, count = (k1 - k0) / group_size, bytes = count * shape.group_bytes;
    // Next comes the piece behind this one, at the end the panel behind this one, as much of it as was unpacked now.
    Ahead ahead = {.bytes = k1 < w.cols || r + kPanel < end ? bytes : 0};
    for (int half = 0; half < 2; ++half) {
      const int64_t strip = std::min(r + half * kStrip, end - 1) / kStrip, last = (end - 1) / kStrip;
      const uint8_t* p = strips + strip * shape.strip_bytes() + g0 * shape.group_bytes;
      ahead.strips[half] = k1 < w.cols ? p + bytes : strips + std::min(strip + 2, last) * shape.strip_bytes();
      for (int64_t g = 0; g < count; ++g) {
        const std::byte* header = reinterpret_cast<const std::byte*>(p);
        _mm512_storeu_ps(s + g * kPanel + half * kStrip, LoadParameters(w.scale_dtype, header, 0xffff));
        _mm512_storeu_ps(z + g * kPanel + half * kStrip, LoadParameters(w.scale_dtype, header + shape.header / 2, 0xffff));
        p += shape.header;
        for (int64_t i = 0; i < per_group; ++i) {
          uint8_t* out = panel + (g * per_group + i) * (kB * kPanel) + half * 64;
          ForSteps<kBits, kB>(p, [&](auto step, __m512i q) __attribute__((always_inline)) {
            _mm512_store_si512(out + decltype(step)::value * (4 * kPanel), q);
          });
          p += kBlockBytes<kBits, kB>;
        }
      }
    }
    return ahead;
  };
  GemmPanels<kB, kWide>(w.cols, group_size, begin, end, a, y, ldy, scratch, fill);
}

template <int kBits, int kB, bool kWide>
void MultiplyBits(const AffineRows& w, int64_t begin, int64_t end, const QuantizedRows& a, float* y, int64_t ldy,
                  std::byte* scratch) {
  if (a.m > kDirectRows) return MultiplyPanels<kBits, kB, kWide>(w, begin, end, a, y, ldy, scratch);
  WithValue<1, 2, 3, 4, 5, 6>(static_cast<int>(a.m), [&](auto rows) {
    MultiplyDirect<kBits, kB, kWide, decltype(rows)::value>(w, begin, end, a, y, ldy);
  });
}

// ---- Packing

template <int kBits, int kB>
void PackBlock(const uint8_t* const* rows, int64_t offset, uint8_t* out) {
  constexpr int kSteps = kB / 4;
  __m512i v[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    v[i] = rows[i] == nullptr ? _mm512_setzero_si512() : UnpackInOrder<kBits, kB == 32>(rows[i] + offset);
  }
  Transpose16(v);
  // A plane of kField-bit fields, which are bits kFrom.. of the codes.
  const auto plane = [&](auto field, auto from) {
    constexpr int kField = decltype(field)::value, kFrom = decltype(from)::value, kFields = 8 / kField;
    const __m512i mask = _mm512_set1_epi8(static_cast<char>((1 << kField) - 1));
    for (int s = 0; s < kSteps / kFields; ++s) {
      __m512i x = _mm512_setzero_si512();
      for (int f = 0; f < kFields; ++f) {
        const __m512i part = _mm512_and_si512(_mm512_srli_epi32(v[s * kFields + f], kFrom), mask);
        x = _mm512_or_si512(x, _mm512_slli_epi32(part, f * kField));
      }
      _mm512_storeu_si512(out, x);
      out += kStep;
    }
  };
  using std::integral_constant;
  if constexpr (kBits == 8) plane(integral_constant<int, 8>(), integral_constant<int, 0>());
  if constexpr (kBits == 4 || kBits == 5 || kBits == 6) plane(integral_constant<int, 4>(), integral_constant<int, 0>());
  if constexpr (kBits == 2 || kBits == 3) plane(integral_constant<int, 2>(), integral_constant<int, 0>());
  if constexpr (kBits == 6) plane(integral_constant<int, 2>(), integral_constant<int, 4>());
  if constexpr (kBits == 5) plane(integral_constant<int, 1>(), integral_constant<int, 4>());
  if constexpr (kBits == 3) plane(integral_constant<int, 1>(), integral_constant<int, 2>());
}

template <int kBits, int kB>
void PackBits(const AffineRows& w, int64_t rows, int64_t begin, int64_t end, std::byte* out) {
  const Shape shape(w);
  const int64_t groups = w.groups(), size = shape.header / (2 * kStrip);
  for (int64_t strip = begin; strip < end; ++strip) {
    uint8_t* to = reinterpret_cast<uint8_t*>(out) + strip * shape.strip_bytes();
    const int64_t n = std::min(kStrip + int64_t{0}, rows - strip * kStrip);
    const uint8_t* from[kStrip] = {};
    for (int64_t i = 0; i < n; ++i) from[i] = reinterpret_cast<const uint8_t*>(w.codes) + (strip * kStrip + i) * w.code_stride();
    for (int64_t g = 0; g < groups; ++g) {
      std::memset(to, 0, shape.header);
      for (int64_t i = 0; i < n; ++i) {
        const int64_t at = ((strip * kStrip + i) * groups + g) * size;
        std::memcpy(to + i * size, w.scales + at, size);
        std::memcpy(to + (kStrip + i) * size, w.biases + at, size);
      }
      to += shape.header;
      for (int64_t k = g * w.format.group_size; k < (g + 1) * w.format.group_size; k += kB) {
        PackBlock<kBits, kB>(from, k * kBits / 8, to);
        to += kBlockBytes<kBits, kB>;
      }
    }
  }
}

}  // namespace

int64_t StripBytes(const AffineRows& w) { return Shape(w).strip_bytes(); }

void PackStrips(const AffineRows& w, int64_t rows, int64_t begin, int64_t end, std::byte* out) {
  WithAffineBits(w.format.bits, [&](auto bits) {
    if (w.format.group_size == 32) {
      PackBits<decltype(bits)::value, 32>(w, rows, begin, end, out);
    } else {
      PackBits<decltype(bits)::value, 64>(w, rows, begin, end, out);
    }
  });
}

void MultiplyStrips(const AffineRows& w, int64_t begin, int64_t end, const QuantizedRows& a, float* y, int64_t ldy,
                    std::byte* scratch) {
  const bool wide = a.bits == ActivationBits::k15;
  WithAffineBits(w.format.bits, [&](auto bits) {
    constexpr int kBits = decltype(bits)::value;
    if (w.format.group_size == 32) {
      wide ? MultiplyBits<kBits, 32, true>(w, begin, end, a, y, ldy, scratch)
           : MultiplyBits<kBits, 32, false>(w, begin, end, a, y, ldy, scratch);
    } else {
      wide ? MultiplyBits<kBits, 64, true>(w, begin, end, a, y, ldy, scratch)
           : MultiplyBits<kBits, 64, false>(w, begin, end, a, y, ldy, scratch);
    }
  });
}

}  // namespace optiq

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
