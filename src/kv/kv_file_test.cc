// Saved caches: every storage comes back bit by bit and goes on alike; damaged, altered and foreign files are refused.
#include "kv/kv_file.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "io/safetensors.h"
#include "io/test_util.h"

namespace optiq {
namespace {

using test::ExpectError;
using test::ScratchDir;
using test::Slurp;
using test::Spit;

constexpr int64_t kHeads = 2, kDim = 64, kWidth = kHeads * kDim, kVocab = 1000;

void Feed(KvCache* cache, int64_t n) {
  std::vector<float> keys(n * kWidth), values(n * kWidth);
  for (int64_t i = 0; i < n * kWidth; ++i) {
    keys[i] = std::sin(0.7f * (cache->length() * kWidth + i));
    values[i] = std::cos(0.3f * (cache->length() * kWidth + i));
  }
  for (size_t l = 0; l < cache->geometry().size(); ++l) {
    if (cache->entry(static_cast<int>(l)) == nullptr) continue;
    cache->Append(static_cast<int>(l), n, keys.data(), values.data());
    for (const KvLayerGeometry& g : cache->geometry()) {
      if (g.donor == static_cast<int>(l)) cache->Done(static_cast<int>(l));
    }
    cache->Done(static_cast<int>(l));
  }
  cache->Advance(n);
}

KvGeometry Geometry() {
  const KvLayerGeometry full{.heads = kHeads, .head_dim = kDim}, ring{.heads = kHeads, .head_dim = kDim, .window = 24};
  return {full, ring, full, ring, {.donor = 1}, {.state = 10}, ring};
}

KvPlan Plan() {
  KvPlan plan;
  plan.layers = {{.keys = {4, 32}, .values = {3, 64}},
                 {.keys = {8, 64}, .values = {5, 32}},
                 {.keys = {32}, .values = {16}},
                 {.keys = {2, 32}, .values = {6, 32}, .dense_first = 3, .dense_recent = 5},
                 {},
                 {},
                 {.keys = {4, 64, DType::kF32}, .values = {4, 64, DType::kF32}}};
  return plan;
}

std::vector<int32_t> Ids(const KvCache& cache) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < cache.length(); ++i) ids.push_back(static_cast<int32_t>(i * 7 % kVocab));
  return ids;
}

void ExpectSame(const KvCache& a, const KvCache& b) {
  EXPECT_EQ(a.length(), b.length());
  for (int l = 0; l < static_cast<int>(a.geometry().size()); ++l) {
    EXPECT_EQ(a.state(l), b.state(l));
    if (a.entry(l) == nullptr) continue;
    const auto held = a.entry(l)->Held(), other = b.entry(l)->Held();
    ASSERT_EQ(held.size(), other.size());
    std::vector<float> x(2 * kWidth), y(2 * kWidth);
    for (size_t r = 0; r < held.size(); ++r) {
      ASSERT_EQ(held[r].begin, other[r].begin);
      ASSERT_EQ(held[r].end, other[r].end);
      for (int64_t p = held[r].begin; p < held[r].end; ++p) {
        a.entry(l)->Read(p, x.data(), x.data() + kWidth);
        b.entry(l)->Read(p, y.data(), y.data() + kWidth);
        ASSERT_EQ(x, y) << "layer " << l << " position " << p;
      }
    }
  }
}

TEST(KvFile, ComesBackAndGoesOn) {
  ScratchDir dir;
  for (int64_t tokens : {1, 17, 24, 25, 61}) {
    KvCache cache(Geometry(), Plan());
    for (int64_t left = tokens; left > 0; left -= std::min<int64_t>(left, 23)) Feed(&cache, std::min<int64_t>(left, 23));
    for (int64_t i = 0; i < 10; ++i) cache.State(5)[i] = 0.5f * i;
    ASSERT_TRUE(SaveKvCache(dir / "c", cache, Ids(cache), "me").ok());
    auto loaded = LoadKvCache(dir / "c", Geometry(), kVocab, "me");
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    EXPECT_EQ(loaded->ids, Ids(cache));
    ExpectSame(cache, *loaded->cache);
    for (int64_t n : {1, 9, 1}) {
      Feed(&cache, n);
      Feed(loaded->cache.get(), n);
    }
    ExpectSame(cache, *loaded->cache);
  }
}

TEST(KvFile, AfterATrim) {
  ScratchDir dir;
  KvGeometry geometry = Geometry();
  geometry[5].state = 0;  // a state cannot go back
  geometry[5].donor = 0;
  KvCache cache(geometry, Plan());
  Feed(&cache, 22);
  ASSERT_EQ(cache.Trim(15), 15);
  ASSERT_TRUE(SaveKvCache(dir / "c", cache, Ids(cache), "me").ok());
  auto loaded = LoadKvCache(dir / "c", geometry, kVocab, "me");
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  for (int64_t n : {3, 1, 20}) {
    Feed(&cache, n);
    Feed(loaded->cache.get(), n);
  }
  ExpectSame(cache, *loaded->cache);
}

TEST(KvFile, RefusesWhatIsNotItsOwn) {
  ScratchDir dir;
  KvCache cache(Geometry(), Plan());
  Feed(&cache, 40);
  ASSERT_TRUE(SaveKvCache(dir / "c", cache, Ids(cache), "me").ok());
  const std::string good = Slurp(dir / "c");
  const auto load = [&](const KvGeometry& g, int64_t vocab, const std::string& who) {
    return LoadKvCache(dir / "c", g, vocab, who).status();
  };
  ExpectError(load(Geometry(), kVocab, "you"), absl::StatusCode::kInvalidArgument, "another model");
  ExpectError(load(Geometry(), 100, "me"), absl::StatusCode::kDataLoss, "outside the vocabulary");
  KvGeometry other = Geometry();
  other[0].heads = 4;
  ExpectError(load(other, kVocab, "me"), absl::StatusCode::kDataLoss, "layers.0.keys");
  other = Geometry();
  other[3].window = 16;
  EXPECT_FALSE(load(other, kVocab, "me").ok());
  other = Geometry();
  other.resize(4);
  EXPECT_FALSE(load(other, kVocab, "me").ok());
  ExpectError(LoadKvCache(dir / "none", Geometry(), kVocab, "me").status(), absl::StatusCode::kNotFound, "none");

  // Any cut and any changed byte.
  std::mt19937 random(3);
  for (int round = 0; round < 200; ++round) {
    Spit(dir / "c", good.substr(0, random() % good.size()));
    EXPECT_FALSE(load(Geometry(), kVocab, "me").ok());
    std::string bad = good;
    const size_t at = round < 100 ? random() % 3000 : random() % bad.size();
    bad[at] = static_cast<char>(bad[at] ^ (1 << (random() % 8)));
    Spit(dir / "c", bad);
    const Status status = load(Geometry(), kVocab, "me");
    // A few bytes of the header mean nothing (spaces, the format's name of another key): then the cache is what it was.
    if (status.ok()) {
      auto loaded = LoadKvCache(dir / "c", Geometry(), kVocab, "me");
      ExpectSame(cache, *loaded->cache);
    } else {
      EXPECT_EQ(Message(status).find('\n'), std::string::npos);
    }
  }
  Spit(dir / "c", test::RawSafetensors(R"({"__metadata__":{"format":"mlx"}})", ""));
  ExpectError(load(Geometry(), kVocab, "me"), absl::StatusCode::kDataLoss, "not a saved cache");
}

}  // namespace
}  // namespace optiq
