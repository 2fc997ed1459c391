// Storage: what a layer's entry holds after any schedule of chunks and single steps, and what queries see of it.
#include "kv/kv_entry.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "kv/kv_cache.h"

namespace optiq {
namespace {

constexpr int64_t kHeads = 2, kDim = 64, kWidth = kHeads * kDim;

// Key rows are functions of the position.
std::vector<float> Rows(int64_t begin, int64_t n, float sign) {
  std::vector<float> out(n * kWidth);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t e = 0; e < kWidth; ++e) out[i * kWidth + e] = sign * std::sin(0.37f * (begin + i) + 0.91f * e);
  }
  return out;
}

void Feed(KvEntry* entry, int64_t n) {
  const std::vector<float> keys = Rows(entry->length(), n, 1), values = Rows(entry->length(), n, -2);
  entry->Append(n, keys.data(), values.data(), nullptr);
  entry->Commit();
}

// Everything held, by position, widened.
std::vector<float> Contents(const KvEntry& entry) {
  std::vector<float> out;
  for (const KvEntry::Range& r : entry.Held()) {
    for (int64_t p = r.begin; p < r.end; ++p) {
      std::vector<float> row(2 * kWidth);
      entry.Read(p, row.data(), row.data() + kWidth);
      out.push_back(static_cast<float>(p));
      out.insert(out.end(), row.begin(), row.end());
    }
  }
  return out;
}

std::vector<KvLayerPlan> Plans() {
  std::vector<KvLayerPlan> plans;
  for (int bits : {32, 16, 8, 5, 4, 3, 2}) plans.push_back({.keys = {bits, 32}, .values = {bits, 64}});
  plans.push_back({.keys = {8, 64}, .values = {3, 32}});
  plans.push_back({.keys = {16}, .values = {4, 32}, .dense_first = 5});
  plans.push_back({.keys = {4, 32}, .values = {4, 32}, .dense_first = 3, .dense_recent = 7});
  plans.push_back({.keys = {4, 32}, .values = {2, 32}, .dense_recent = 40});
  return plans;
}

TEST(KvEntry, ContentsDoNotDependOnTheSchedule) {
  std::mt19937 random(1);
  for (const KvLayerPlan& plan : Plans()) {
    for (auto [window, keep] : std::vector<std::pair<int64_t, int64_t>>{{0, 0}, {16, 0}, {16, 4}, {24, 1}, {50, 0}, {300, 7}}) {
      const KvLayerGeometry geometry{.heads = kHeads, .head_dim = kDim, .window = window, .keep = keep};
      const int64_t total = window == 300 ? 700 : 90;
      KvEntry whole(geometry, plan);
      for (int64_t i = 0; i < total; ++i) Feed(&whole, 1);
      const std::vector<float> want = Contents(whole);
      EXPECT_EQ(want.size(), (window > 0 ? std::min(window, total) : total) * (2 * kWidth + 1));
      for (int round = 0; round < 12; ++round) {
        KvEntry entry(geometry, plan);
        while (entry.length() < total) {
          const int64_t most = round % 3 == 0 ? 5 : round % 3 == 1 ? 40 : total;
          Feed(&entry, std::min<int64_t>(total - entry.length(), random() % 2 == 0 ? 1 : 1 + random() % most));
        }
        ASSERT_EQ(Contents(entry), want) << "window " << window << " keep " << keep << " bits " << plan.keys.bits;
        ASSERT_EQ(entry.bytes(), whole.bytes());
      }
    }
  }
}

TEST(KvEntry, HoldsTheNewestAndTheSinks) {
  KvEntry entry({.heads = kHeads, .head_dim = kDim, .window = 16, .keep = 4}, {});
  Feed(&entry, 3);
  Feed(&entry, 40);
  ASSERT_EQ(entry.Held().size(), 2u);
  EXPECT_EQ(entry.Held()[0].end, 4);
  EXPECT_EQ(entry.Held()[1].begin, 43 - 12);
  EXPECT_EQ(entry.Held()[1].end, 43);
}

TEST(KvEntry, TrimGoesBackWhileNothingIsOverwritten) {
  for (const KvLayerPlan& plan : {KvLayerPlan{}, KvLayerPlan{.keys = {4, 32}, .values = {6, 64}}}) {
    for (int64_t window : {0, 32}) {
      const KvLayerGeometry geometry{.heads = kHeads, .head_dim = kDim, .window = window};
      KvEntry entry(geometry, plan), straight(geometry, plan);
      Feed(&entry, 30);
      EXPECT_TRUE(entry.Trim(11));
      Feed(&entry, 9);
      Feed(&straight, 20);
      EXPECT_EQ(Contents(entry), Contents(straight));
      Feed(&entry, 30);
      EXPECT_EQ(entry.Trim(45), window == 0);
      EXPECT_TRUE(entry.Trim(entry.length() - 1));  // a ring still has what the next query sees
      EXPECT_TRUE(entry.Trim(0));
      EXPECT_EQ(entry.length(), 0);
      EXPECT_EQ(entry.bytes(), 0);
    }
  }
}

TEST(KvEntry, EncodeEqualsQuantizingFromTheStart) {
  for (const KvLayerPlan& plan : Plans()) {
    if (plan.keys.bits == 32) continue;
    for (int64_t window : {0, 24}) {
      const KvLayerGeometry geometry{.heads = kHeads, .head_dim = kDim, .window = window, .keep = window / 12};
      KvEntry dense(geometry, {}), direct(geometry, plan), late(geometry, plan);
      for (int n : {17, 1, 30, 1, 1}) {
        Feed(&dense, n);
        Feed(&direct, n);
      }
      late.Encode(dense);
      EXPECT_EQ(Contents(late), Contents(direct)) << plan.keys.bits;
      Feed(&late, 5);
      Feed(&direct, 5);
      EXPECT_EQ(Contents(late), Contents(direct)) << plan.keys.bits;
    }
  }
}

TEST(KvCache, SharedLayersKeepTheStageUntilTheLastReader) {
  KvGeometry geometry(3, {.heads = kHeads, .head_dim = kDim, .window = 16});
  geometry[2].donor = 0;
  KvCache cache(geometry, UniformKvPlan(geometry, {.bits = 8, .group_size = 32}));
  const std::vector<float> keys = Rows(0, 40, 1), values = Rows(0, 40, 2);
  const auto visible = [&](int layer) {
    int64_t n = 0;
    for (const KvSpan& s : cache.Spans(layer)) n += s.count;
    return n;
  };
  ASSERT_TRUE(cache.Reserve(40).ok());
  cache.Append(0, 40, keys.data(), values.data());
  EXPECT_EQ(visible(0), 40);
  cache.Done(0);
  cache.Append(1, 40, keys.data(), values.data());
  cache.Done(1);
  EXPECT_EQ(visible(0), 40);  // layer 2's queries see the whole chunk
  cache.Done(0);
  cache.Advance(40);
  EXPECT_EQ(cache.length(), 40);
  EXPECT_EQ(cache.bytes(), 2 * cache.entry(0)->bytes());
  cache.Append(0, 20, keys.data(), values.data());
  EXPECT_EQ(visible(0), 15 + 20);
}

TEST(KvCache, ConvertsAtTheStartAndResetsWhenItCannotTrim) {
  KvGeometry geometry(2, {.heads = kHeads, .head_dim = kDim});
  geometry[1].window = 16;
  KvPlan plan = UniformKvPlan(geometry, {.bits = 4, .group_size = 32});
  plan.quantized_start = 30;
  KvCache cache(geometry, plan);
  for (int64_t n : {20, 9, 1, 5}) {
    const std::vector<float> keys = Rows(cache.length(), n, 1), values = Rows(cache.length(), n, 2);
    for (int layer : {0, 1}) {
      cache.Append(layer, n, keys.data(), values.data());
      cache.Done(layer);
    }
    cache.Advance(n);
    EXPECT_EQ(cache.entry(0)->plan().keys.bits, cache.length() >= 30 ? 4 : 16);
  }
  EXPECT_EQ(cache.Trim(35), 35);
  EXPECT_EQ(cache.Trim(34), 34);
  EXPECT_EQ(cache.Trim(20), 0);  // the ring has moved on
  EXPECT_EQ(cache.length(), 0);
  EXPECT_EQ(cache.bytes(), 0);
}

}  // namespace
}  // namespace optiq
