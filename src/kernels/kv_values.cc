// Weighted sums of a page of values: 16 elements per vector, the weight of a row broadcast.
#include <algorithm>

#include "base/status.h"
#include "kernels/kv_attention.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/kv_values.cc"
#include "hwy/foreach_target.h"
// clang-format off
#include "kernels/kv_lanes-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace optiq {
namespace HWY_NAMESPACE {

// out[kQueries][dim] of one group; w: weights times the group's scale, [kQueries][kKvPageRows]; offset: sum of weights times bias.
template <int kBits, int kQueries>
HWY_INLINE void AddGroup(const KvTile& t, const float* HWY_RESTRICT w, const float* offset, int64_t g, int64_t begin,
                         int64_t end, int64_t w_stride, float* HWY_RESTRICT out) {
  // With one query, rows take turns in two sums, to hide the latency of the additions.
  constexpr int kSums = kQueries == 1 ? 2 : 1;
  const KvD d;
  const int64_t lanes = hn::Lanes(d), blocks = t.rows / kKvBlock, group_chunks = t.group_size / kKvChunk;
  for (int64_t c = g * group_chunks; c < (g + 1) * group_chunks; ++c) {
    for (int64_t lane = 0; lane < kKvBlock; lane += lanes) {
      KvV acc[kQueries][2][kSums];
      for (int h = 0; h < kQueries; ++h) {
        for (int i = 0; i < 2; ++i) {
          for (int s = 0; s < kSums; ++s) acc[h][i][s] = hn::Zero(d);
        }
      }
      const uint32_t* words = t.words + (c * blocks + begin) * kBits * kKvBlock + lane;
      const float* weight = w;
      for (int64_t b = begin; b < end; ++b, words += kBits * kKvBlock, weight += kKvBlock) {
        KvUnroll(std::make_integer_sequence<int, kKvBlock>(), [&](auto row) HWY_ATTR {
          constexpr int kRow = decltype(row)::value;
          const KvV x0 = KvCode<kBits, kRow>(words), x1 = KvCode<kBits, kRow + kKvBlock>(words);
          for (int h = 0; h < kQueries; ++h) {
            const KvV p = hn::Set(d, weight[h * w_stride + kRow]);
            acc[h][0][kRow % kSums] = hn::MulAdd(x0, p, acc[h][0][kRow % kSums]);
            acc[h][1][kRow % kSums] = hn::MulAdd(x1, p, acc[h][1][kRow % kSums]);
          }
        });
      }
      for (int h = 0; h < kQueries; ++h) {
        for (int i = 0; i < 2; ++i) {
          KvV sum = acc[h][i][0];
          for (int s = 1; s < kSums; ++s) sum = hn::Add(sum, acc[h][i][s]);
          float* o = out + h * t.dim + c * kKvChunk + i * kKvBlock + lane;
          hn::StoreU(hn::Add(hn::LoadU(d, o), hn::Add(sum, hn::Set(d, offset[h]))), d, o);
        }
      }
    }
  }
}

template <int kBits, int kQueries>
void AllValues(const KvTile& t, const float* p, int64_t p_stride, int64_t begin, int64_t end, float* out) {
  const KvD d;
  const int64_t lanes = hn::Lanes(d), n = (end - begin) * kKvBlock;
  float offset[kQueries] = {};
  if constexpr (kBits > 8) {
    AddGroup<kBits, kQueries>(t, p, offset, 0, begin, end, p_stride, out);
  } else {
    HWY_ALIGN float w[kQueries * kKvPageRows];
    const KvV top = hn::Set(d, float{1 << kBits});
    for (int64_t g = 0; g < t.dim / t.group_size; ++g) {
      for (int h = 0; h < kQueries; ++h) {
        KvV sum = hn::Zero(d);
        for (int64_t i = 0; i < n; i += lanes) {
          const int64_t at = g * t.rows + begin * kKvBlock + i;
          const KvV weight = hn::LoadU(d, p + h * p_stride + i);
          const KvV scale = hn::Mul(KvLoadParameters(t.scale_dtype, t.scales, at), top);
          hn::Store(hn::Mul(weight, scale), d, w + h * kKvPageRows + i);
          sum = hn::MulAdd(weight, hn::Sub(KvLoadParameters(t.scale_dtype, t.biases, at), scale), sum);
        }
        offset[h] = hn::GetLane(hn::SumOfLanes(d, sum));
      }
      AddGroup<kBits, kQueries>(t, w, offset, g, begin, end, kKvPageRows, out);
    }
  }
}

void AddValues(const KvTile& t, const float* p, int64_t p_stride, int queries, int64_t begin, int64_t end, float* out) {
  KvWithBits(t.bits, [&](auto bits) {
    constexpr int kBits = decltype(bits)::value;
    WithValue<1, 2, 3, 4>(queries, [&](auto n) { AllValues<kBits, decltype(n)::value>(t, p, p_stride, begin, end, out); });
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace optiq
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace optiq {
HWY_EXPORT(AddValues);

void KvAddValues(const KvTile& tile, const float* p, int64_t p_stride, int queries, int64_t block_begin,
                 int64_t block_end, float* out) {
  OPTIQ_CHECK((block_end - block_begin) * kKvBlock <= kKvPageRows);
  HWY_DYNAMIC_DISPATCH(AddValues)(tile, p, p_stride, queries, block_begin, block_end, out);
}

}  // namespace optiq
#endif  // HWY_ONCE
