// Scores of a few queries against a page of keys: 16 keys per vector, q broadcast.
#include <algorithm>

#include "kernels/kv_attention.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/kv_keys.cc"
#include "hwy/foreach_target.h"
// clang-format off
#include "kernels/kv_lanes-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace optiq {
namespace HWY_NAMESPACE {

// kVectors vectors of keys for kQueries queries, from vector `v` of the page.
template <int kBits, int kQueries, int kVectors>
HWY_INLINE void Scores(const KvTile& t, const float* HWY_RESTRICT q, int64_t v, float* HWY_RESTRICT scores,
                       int64_t score_stride) {
  const KvD d;
  const int64_t lanes = hn::Lanes(d), blocks = t.rows / kKvBlock, chunk_stride = blocks * kBits * kKvBlock;
  const uint32_t* words[kVectors];
  for (int i = 0; i < kVectors; ++i) {
    const int64_t row = (v + i) * lanes;
    words[i] = t.words + row / kKvBlock * kBits * kKvBlock + row % kKvBlock;
  }
  KvV total[kVectors][kQueries];
  for (int i = 0; i < kVectors; ++i) {
    for (int h = 0; h < kQueries; ++h) total[i][h] = hn::Zero(d);
  }
  const int64_t group_chunks = t.group_size / kKvChunk, groups = t.dim / t.group_size;
  for (int64_t g = 0; g < groups; ++g) {
    KvV acc[kVectors][kQueries];
    float q_sum[kQueries] = {};
    for (int i = 0; i < kVectors; ++i) {
      for (int h = 0; h < kQueries; ++h) acc[i][h] = hn::Zero(d);
    }
    for (int64_t c = g * group_chunks; c < (g + 1) * group_chunks; ++c) {
      const float* qc = q + c * kKvChunk;
      KvUnroll(std::make_integer_sequence<int, kKvChunk>(), [&](auto n) HWY_ATTR {
        KvV x[kVectors];
        for (int i = 0; i < kVectors; ++i) x[i] = KvCode<kBits, decltype(n)::value>(words[i]);
        for (int h = 0; h < kQueries; ++h) {
          const KvV qv = hn::Set(d, qc[h * t.dim + decltype(n)::value]);
          for (int i = 0; i < kVectors; ++i) acc[i][h] = hn::MulAdd(x[i], qv, acc[i][h]);
        }
      });
      for (int i = 0; i < kVectors; ++i) words[i] += chunk_stride;
      if (kBits <= 8) {
        for (int h = 0; h < kQueries; ++h) {
          KvV sum = hn::Zero(d);
          for (int64_t e = 0; e < kKvChunk; e += lanes) sum = hn::Add(sum, hn::LoadU(d, qc + h * t.dim + e));
          q_sum[h] += hn::GetLane(hn::SumOfLanes(d, sum));
        }
      }
    }
    for (int i = 0; i < kVectors; ++i) {
      if constexpr (kBits > 8) {
        for (int h = 0; h < kQueries; ++h) total[i][h] = acc[i][h];
      } else {
        const int64_t at = g * t.rows + (v + i) * lanes;
        const KvV scale = hn::Mul(KvLoadParameters(t.scale_dtype, t.scales, at), hn::Set(d, float{1 << kBits}));
        const KvV bias = hn::Sub(KvLoadParameters(t.scale_dtype, t.biases, at), scale);
        for (int h = 0; h < kQueries; ++h) {
          total[i][h] = hn::MulAdd(scale, acc[i][h], hn::MulAdd(bias, hn::Set(d, q_sum[h]), total[i][h]));
        }
      }
    }
  }
  for (int i = 0; i < kVectors; ++i) {
    for (int h = 0; h < kQueries; ++h) hn::StoreU(total[i][h], d, scores + h * score_stride + i * lanes);
  }
}

template <int kBits, int kQueries>
void AllScores(const KvTile& t, const float* q, int64_t begin, int64_t end, float* scores, int64_t score_stride) {
  // Enough independent sums to hide the latency of the additions.
  constexpr int kVectors = kQueries == 1 ? 4 : 2;
  const int64_t lanes = hn::Lanes(KvD());
  int64_t v = begin * kKvBlock / lanes;
  const int64_t last = end * kKvBlock / lanes;
  for (; v + kVectors <= last; v += kVectors, scores += kVectors * lanes) {
    Scores<kBits, kQueries, kVectors>(t, q, v, scores, score_stride);
  }
  for (; v < last; ++v, scores += lanes) Scores<kBits, kQueries, 1>(t, q, v, scores, score_stride);
}

void KeyScores(const KvTile& t, const float* q, int queries, int64_t begin, int64_t end, float* scores,
               int64_t score_stride) {
  KvWithBits(t.bits, [&](auto bits) {
    constexpr int kBits = decltype(bits)::value;
    WithValue<1, 2, 3, 4>(queries, [&](auto n) { AllScores<kBits, decltype(n)::value>(t, q, begin, end, scores, score_stride); });
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace optiq
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace optiq {
HWY_EXPORT(KeyScores);

void KvKeyScores(const KvTile& tile, const float* q, int queries, int64_t block_begin, int64_t block_end, float* scores,
                 int64_t score_stride) {
  HWY_DYNAMIC_DISPATCH(KeyScores)(tile, q, queries, block_begin, block_end, scores, score_stride);
}

}  // namespace optiq
#endif  // HWY_ONCE
