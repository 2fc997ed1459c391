#include "kv/kv_prefix.h"

#include <gtest/gtest.h>

#include <random>

namespace optiq {
namespace {

constexpr int64_t kHeads = 2, kDim = 32, kWidth = kHeads * kDim;

// Full, ring, state, and a layer that reads the first.
KvGeometry Geometry() {
  return {{.heads = kHeads, .head_dim = kDim}, {.heads = kHeads, .head_dim = kDim, .window = 24}, {.state = 10}, {.donor = 0}};
}

void Feed(KvCache* cache, int64_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  ASSERT_TRUE(cache->Reserve(n).ok());
  for (int layer : {0, 1}) {
    std::vector<float> k(n * kWidth), v(n * kWidth);
    for (float& x : k) x = normal(random);
    for (float& x : v) x = normal(random);
    cache->Append(layer, n, k.data(), v.data());
    cache->Done(layer);
    if (layer == 0) cache->Done(layer);  // its reader
  }
  for (int i = 0; i < 10; ++i) cache->State(2)[i] += normal(random);
  cache->Advance(n);
}

void ExpectEqual(const KvCache& a, const KvCache& b) {
  ASSERT_EQ(a.length(), b.length());
  EXPECT_EQ(a.state(2), b.state(2));
  for (int layer : {0, 1}) {
    std::vector<float> ka(kWidth), va(kWidth), kb(kWidth), vb(kWidth);
    const auto held = a.entry(layer)->Held(), other = b.entry(layer)->Held();
    ASSERT_EQ(held.size(), other.size());
    for (const auto& range : held) {
      for (int64_t p = range.begin; p < range.end; ++p) {
        const auto at = a.entry(layer)->Locate(p), to = b.entry(layer)->Locate(p);
        ASSERT_EQ(at.slot, to.slot);
        ASSERT_EQ(at.part, to.part);
        a.entry(layer)->Read(p, ka.data(), va.data());
        b.entry(layer)->Read(p, kb.data(), vb.data());
        ASSERT_EQ(ka, kb) << "layer " << layer << ", position " << p;
        ASSERT_EQ(va, vb);
      }
    }
  }
}

TEST(KvPrefixTest, APutTogetherCacheIsTheOriginal) {
  const KvGeometry geometry = Geometry();
  for (int bits : {32, 16, 8, 5, 4}) {
    for (int64_t first : {0, 5}) {
      for (int64_t recent : {0, 7, 64}) {
        KvPlan plan = UniformKvPlan(geometry, {.bits = bits, .group_size = 32});
        for (KvLayerPlan& l : plan.layers) l.dense_first = first, l.dense_recent = recent;
        ASSERT_TRUE(HasPrefixes(plan) && HasTail(geometry, plan));
        for (int64_t length : {3, 32, 96, 300}) {
          KvCache cache(geometry, plan);
          for (int64_t done = 0; done < length;) {
            const int64_t n = std::min<int64_t>(length - done, done % 50 + 1);
            Feed(&cache, n, static_cast<uint32_t>(done));
            done += n;
          }
          const int64_t settled = KvSettled(geometry, plan, length), whole = settled / 32 * 32;
          EXPECT_EQ(settled, bits > 8 ? length : std::max<int64_t>(0, length - recent));
          std::vector<KvRows> rows;
          for (int64_t b = 0; b < whole; b += 32) rows.push_back(CopyKvRows(cache, b, b + 32));
          const KvTail tail = CopyKvTail(cache, whole);
          KvCache copy(geometry, plan);
          BeginKvRestore(&copy, length);
          for (const KvRows& r : rows) RestoreKvRows(&copy, r);
          RestoreKvTail(&copy, tail);
          ExpectEqual(cache, copy);
          EXPECT_EQ(cache.bytes(), copy.bytes());
          // And they go on alike.
          for (KvCache* c : {&cache, &copy}) Feed(c, 1, 7);
          for (KvCache* c : {&cache, &copy}) Feed(c, 40, 8);
          ExpectEqual(cache, copy);
        }
      }
    }
  }
}

TEST(KvPrefixTest, SomePlansHaveNoPrefixes) {
  KvPlan plan = UniformKvPlan(Geometry(), {.bits = 4, .group_size = 32});
  plan.quantized_start = 100;
  EXPECT_FALSE(HasPrefixes(plan));
  const KvGeometry full = {{.heads = 1, .head_dim = 32}};
  EXPECT_FALSE(HasTail(full, UniformKvPlan(full, {.bits = 4, .group_size = 32})));
}

}  // namespace
}  // namespace optiq
