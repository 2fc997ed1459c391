// Attention over caches: against mlx-lm's goldens (tests/data/goldens/kv) and against plain attention for random schedules.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "io/mapped_file.h"
#include "io/safetensors.h"
#include "kv/kv_cache.h"
#include "ops/kv_attention.h"
#include "tensor/affine.h"

namespace optiq {
namespace {

class Goldens {
 public:
  Goldens() {
    auto map = MappedFile::Open(path_);
    EXPECT_TRUE(map.ok()) << map.status();
    map_ = std::move(*map);
    auto tensors = ParseSafetensors(map_->bytes(), path_, nullptr);
    EXPECT_TRUE(tensors.ok()) << tensors.status();
    tensors_ = std::move(*tensors);
  }
  const StoredTensor& operator[](const std::string& name) const {
    for (const StoredTensor& t : tensors_) {
      if (t.name == name) return t;
    }
    ADD_FAILURE() << name;
    return tensors_[0];
  }
  // [1, heads, T, D] as [T, heads * D].
  std::vector<float> ByPosition(const std::string& name) const {
    const StoredTensor& t = (*this)[name];
    const float* x = reinterpret_cast<const float*>(t.bytes.data());
    const int64_t heads = t.shape[1], n = t.shape[2], d = t.shape[3];
    std::vector<float> out(heads * n * d);
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t i = 0; i < n; ++i) std::copy(x + (h * n + i) * d, x + (h * n + i + 1) * d, &out[(i * heads + h) * d]);
    }
    return out;
  }

 private:
  const std::string path_ = std::string(OPTIQ_TEST_DATA) + "/goldens/kv/kv.safetensors";
  std::unique_ptr<MappedFile> map_;
  std::vector<StoredTensor> tensors_;
};

constexpr int64_t kQHeads = 4, kHeads = 2, kDim = 64, kTokens = 43;

// One layer run over a schedule of chunk lengths: [tokens, q heads * dim].
class Runner {
 public:
  Runner(const Goldens& goldens, KvLayerGeometry geometry, KvPlan plan)
      : q_(goldens.ByPosition("q")), k_(goldens.ByPosition("k")), v_(goldens.ByPosition("v")),
        shape_{.num_heads = kQHeads, .num_kv_heads = kHeads, .head_dim = kDim, .window = geometry.window, .scale = 0.125f},
        cache_({geometry}, std::move(plan)) {}

  std::vector<float> Feed(int64_t n) {
    const int64_t start = cache_.length();
    std::vector<float> out(n * kQHeads * kDim);
    EXPECT_TRUE(cache_.Reserve(n).ok());
    cache_.Append(0, n, &k_[start * kHeads * kDim], &v_[start * kHeads * kDim], &pool_);
    const KvAttentionCall call{.q = &q_[start * kQHeads * kDim], .out = out.data(), .rows = n, .start = start,
                               .spans = cache_.Spans(0)};
    KvAttention({&call, 1}, shape_, &pool_);
    cache_.Done(0);
    cache_.Advance(n);
    return out;
  }
  const KvCache& cache() const { return cache_; }

 private:
  ThreadPool pool_{2};
  std::vector<float> q_, k_, v_;
  AttentionShape shape_;
  KvCache cache_;
};

void ExpectNear(const std::vector<float>& got, const float* want, double tolerance, const std::string& what) {
  double worst = 0;
  for (size_t i = 0; i < got.size(); ++i) worst = std::max(worst, std::fabs(double{got[i]} - want[i]));
  EXPECT_LT(worst, tolerance) << what;
}

TEST(KvGoldens, QuantizedCaches) {
  const Goldens goldens;
  for (int bits : {2, 3, 4, 5, 6, 8}) {
    for (int group : {32, 64}) {
      const std::string key = "b" + std::to_string(bits) + ".g" + std::to_string(group);
      const KvFormat format{bits, group, DType::kF32};
      Runner runner(goldens, {.heads = kHeads, .head_dim = kDim}, {.layers = {{format, format}}});
      const std::vector<float> want = goldens.ByPosition(key + ".out");
      const int64_t row = kQHeads * kDim;
      ExpectNear(runner.Feed(37), want.data(), 1e-5, key);
      for (int64_t t = 37; t < kTokens; ++t) ExpectNear(runner.Feed(1), &want[t * row], 1e-5, key + " step");
      // The stored codes, scales and biases, bit by bit.
      const KvEntry& entry = *runner.cache().entry(0);
      for (KvSide side : {KvSide::kKeys, KvSide::kValues}) {
        const std::string name = key + (side == KvSide::kKeys ? ".k." : ".v.");
        const uint32_t* q = reinterpret_cast<const uint32_t*>(goldens[name + "q"].bytes.data());
        const float* scales = reinterpret_cast<const float*>(goldens[name + "scales"].bytes.data());
        const float* biases = reinterpret_cast<const float*>(goldens[name + "biases"].bytes.data());
        const int64_t words = kDim * bits / 32, groups = kDim / group;
        for (int64_t h = 0; h < kHeads; ++h) {
          for (int64_t t = 0; t < kTokens; ++t) {
            const auto [store, slot, part] = entry.Locate(t);
            const KvPageLayout& layout = store->layout(side);
            uint32_t codes[kDim], packed[kDim] = {};
            uint8_t bytes[kDim];
            GetKvCodes(layout, side, store->part(side, slot), h, store->row(slot), codes);
            std::copy(codes, codes + kDim, bytes);
            PackCodes(bytes, kDim, bits, packed);
            for (int64_t w = 0; w < words; ++w) ASSERT_EQ(packed[w], q[(h * kTokens + t) * words + w]) << name;
            for (int64_t g = 0; g < groups; ++g) {
              const auto at = [&](int which) {
                return LoadFloat(DType::kF32, KvParameter(layout, store->part(side, slot), h, store->row(slot), g, which), 0);
              };
              ASSERT_EQ(at(0), scales[(h * kTokens + t) * groups + g]);
              ASSERT_EQ(at(1), biases[(h * kTokens + t) * groups + g]);
            }
          }
        }
      }
    }
  }
}

TEST(KvGoldens, DenseAndRotating) {
  const Goldens goldens;
  const KvPlan plan{.layers = {{KvFormat{32}, KvFormat{32}}}};
  Runner full(goldens, {.heads = kHeads, .head_dim = kDim}, plan);
  const std::vector<float> want = goldens.ByPosition("float.out");
  ExpectNear(full.Feed(37), want.data(), 1e-5, "float");
  for (int64_t keep : {0, 4}) {
    const std::string name = "rot" + std::to_string(keep);
    Runner ring(goldens, {.heads = kHeads, .head_dim = kDim, .window = 16, .keep = keep}, plan);
    ExpectNear(ring.Feed(11), goldens.ByPosition(name + ".chunk0.out").data(), 1e-5, name + " chunk 0");
    ExpectNear(ring.Feed(18), goldens.ByPosition(name + ".chunk1.out").data(), 1e-5, name + " chunk 1");
    for (int64_t t = 29; t < kTokens; ++t) {
      ExpectNear(ring.Feed(1), goldens.ByPosition(name + ".step" + std::to_string(t) + ".out").data(), 1e-5, name + " step");
    }
    // The ring of mlx-lm: sinks, then from the write position on in the order of time.
    const std::vector<float> stored = goldens.ByPosition(name + ".final.k");
    const int64_t idx = keep == 0 ? 14 : 6, width = kHeads * kDim;
    std::vector<int64_t> order;
    for (int64_t i = 0; i < keep; ++i) order.push_back(i);
    for (int64_t i = idx; i < 16; ++i) order.push_back(i);
    for (int64_t i = keep; i < idx; ++i) order.push_back(i);
    std::vector<float> keys(width), values(width);
    size_t i = 0;
    for (const KvEntry::Range& range : ring.cache().entry(0)->Held()) {
      for (int64_t p = range.begin; p < range.end; ++p, ++i) {
        ring.cache().entry(0)->Read(p, keys.data(), values.data());
        for (int64_t e = 0; e < width; ++e) ASSERT_EQ(keys[e], stored[order[i] * width + e]);
      }
    }
    EXPECT_EQ(i, 16u);
  }
}

// Scores in double over the rows that the entry holds for each query, as the formats decode them.
TEST(KvAttention, EqualsPlainAttentionForAnySchedule) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  ThreadPool pool(2);
  for (auto [q_heads, kv_heads, dim] : std::vector<std::array<int64_t, 3>>{{1, 1, 32}, {6, 2, 64}, {7, 1, 96}, {20, 4, 24}, {4, 4, 128}}) {
    for (int bits : {32, 16, 6, 4, 3}) {
      for (int64_t window : {0, 37, 300}) {
        if (bits < 16 && dim % 32 != 0) continue;
        const int64_t total = 620, width = kv_heads * dim, q_width = q_heads * dim;
        std::vector<float> q(total * q_width), k(total * width), v(total * width), sinks(q_heads);
        for (auto* x : {&q, &k, &v, &sinks}) {
          for (float& e : *x) e = normal(random);
        }
        const KvLayerGeometry geometry{.heads = kv_heads, .head_dim = dim, .window = window};
        const KvFormat format{bits, 32};
        KvCache cache({geometry}, {.layers = {{format, format}}});
        // What the cache decodes to, from a full one of the same format.
        KvEntry rows({.heads = kv_heads, .head_dim = dim}, {format, format});
        rows.Append(total, k.data(), v.data(), nullptr);
        rows.Commit();
        for (int64_t p = 0; p < total; ++p) rows.Read(p, &k[p * width], &v[p * width]);
        const AttentionShape shape{.num_heads = q_heads, .num_kv_heads = kv_heads, .head_dim = dim, .window = window,
                                   .scale = 0.2f, .softcap = bits == 6 ? 3.0f : 0.0f,
                                   .sinks = bits == 4 ? sinks.data() : nullptr};
        while (cache.length() < total) {
          const int64_t start = cache.length(), n = std::min<int64_t>(total - start, random() % 3 == 0 ? 1 : 1 + random() % 200);
          std::vector<float> out(n * q_width);
          // Unrounded rows go in again: decoding what was encoded is a fixed point for dense formats only.
          cache.Append(0, n, &k[start * width], &v[start * width], &pool);
          const KvAttentionCall call{.q = &q[start * q_width], .out = out.data(), .rows = n, .start = start, .spans = cache.Spans(0)};
          KvAttention({&call, 1}, shape, &pool);
          cache.Done(0);
          cache.Advance(n);
          if (bits < 16) {  // compare with what is in the cache now
            for (const KvEntry::Range& r : cache.entry(0)->Held()) {
              for (int64_t p = std::max(r.begin, start); p < r.end; ++p) cache.entry(0)->Read(p, &k[p * width], &v[p * width]);
            }
          }
          for (int64_t i = 0; i < n; i += 1 + static_cast<int64_t>(random() % 7)) {
            const int64_t position = start + i;
            const int64_t first = window > 0 ? std::max<int64_t>(0, position - window + 1) : 0;
            if (bits < 16 && window > 0 && cache.length() - first > window) continue;  // rows that are gone by now
            for (int64_t h = 0; h < q_heads; ++h) {
              const int64_t g = h / (q_heads / kv_heads);
              std::vector<double> p;
              double top = shape.sinks != nullptr ? sinks[h] : -1e30;
              for (int64_t j = first; j <= position; ++j) {
                double s = 0;
                for (int64_t e = 0; e < dim; ++e) s += double{q[position * q_width + h * dim + e]} * k[j * width + g * dim + e];
                s *= shape.scale;
                if (shape.softcap > 0) s = shape.softcap * std::tanh(s / shape.softcap);
                p.push_back(s);
                top = std::max(top, s);
              }
              double sum = shape.sinks != nullptr ? std::exp(sinks[h] - top) : 0;
              for (double& s : p) sum += s = std::exp(s - top);
              for (int64_t e = 0; e < dim; ++e) {
                double want = 0;
                for (int64_t j = first; j <= position; ++j) want += p[j - first] / sum * v[j * width + g * dim + e];
                ASSERT_NEAR(out[i * q_width + h * dim + e], want, 2e-5)
                    << "bits " << bits << " window " << window << " heads " << q_heads << " position " << position << " of chunk " << n;
              }
            }
          }
        }
      }
    }
  }
}

// Tokens that stay bf16 lie in stores of their own. The first ones, and the recent ones of this pass and before, are read as bf16.
TEST(KvAttention, ReadsDenseTokensWhereTheyLie) {
  std::mt19937 random(6);
  std::normal_distribution<float> normal;
  ThreadPool pool(2);
  constexpr int64_t kAll = 200, kWidth = kHeads * kDim, kQWidth = kQHeads * kDim;
  std::vector<float> q(kAll * kQWidth), k(kAll * kWidth), v(kAll * kWidth);
  for (auto* x : {&q, &k, &v}) {
    for (float& e : *x) e = normal(random);
  }
  for (auto [first, recent] : std::vector<std::pair<int64_t, int64_t>>{{5, 0}, {0, 7}, {3, 40}, {300, 0}, {0, 300}}) {
    for (int64_t window : {0, 50}) {
      const KvLayerGeometry geometry{.heads = kHeads, .head_dim = kDim, .window = window};
      const KvLayerPlan plan{.keys = {4, 32}, .values = {3, 32}, .dense_first = first, .dense_recent = recent};
      KvEntry quantized({.heads = kHeads, .head_dim = kDim}, {plan.keys, plan.values}), dense({.heads = kHeads, .head_dim = kDim}, {});
      for (KvEntry* e : {&quantized, &dense}) {
        e->Append(kAll, k.data(), v.data(), nullptr);
        e->Commit();
      }
      KvCache cache({geometry}, {.layers = {plan}});
      const AttentionShape shape{.num_heads = kQHeads, .num_kv_heads = kHeads, .head_dim = kDim, .window = window, .scale = 0.125f};
      while (cache.length() < kAll) {
        const int64_t start = cache.length(), n = std::min<int64_t>(kAll - start, random() % 2 == 0 ? 1 : 1 + random() % 60);
        std::vector<float> out(n * kQWidth);
        cache.Append(0, n, &k[start * kWidth], &v[start * kWidth], &pool);
        const KvAttentionCall call{.q = &q[start * kQWidth], .out = out.data(), .rows = n, .start = start, .spans = cache.Spans(0)};
        KvAttention({&call, 1}, shape, &pool);
        cache.Done(0);
        cache.Advance(n);
        const int64_t reach = window > 0 ? std::min(recent, window) : recent;
        for (int64_t i = 0; i < n; ++i) {
          const int64_t position = start + i, oldest = window > 0 ? std::max<int64_t>(0, position - window + 1) : 0;
          std::vector<double> p;
          std::vector<float> values, key(kWidth), value(kWidth);
          for (int64_t h = 0; h < kQHeads; ++h) {
            double top = -1e30, sum = 0;
            p.clear();
            values.clear();
            for (int64_t j = oldest; j <= position; ++j) {
              const bool is_dense = j < first || (recent > 0 && j >= start - reach);
              (is_dense ? dense : quantized).Read(j, key.data(), value.data());
              double s = 0;
              for (int64_t e = 0; e < kDim; ++e) s += double{q[position * kQWidth + h * kDim + e]} * key[h / 2 * kDim + e];
              p.push_back(0.125 * s);
              top = std::max(top, p.back());
              values.insert(values.end(), &value[h / 2 * kDim], &value[h / 2 * kDim] + kDim);
            }
            for (double& s : p) sum += s = std::exp(s - top);
            for (int64_t e = 0; e < kDim; ++e) {
              double want = 0;
              for (size_t j = 0; j < p.size(); ++j) want += p[j] / sum * values[j * kDim + e];
              ASSERT_NEAR(out[i * kQWidth + h * kDim + e], want, 2e-5) << first << " " << recent << " " << window << " " << position;
            }
          }
        }
      }
    }
  }
}

TEST(KvAttention, DoesNotDependOnThreads) {
  const Goldens goldens;
  std::vector<float> k = goldens.ByPosition("k"), v = goldens.ByPosition("v"), q = goldens.ByPosition("q");
  const AttentionShape shape{.num_heads = kQHeads, .num_kv_heads = kHeads, .head_dim = kDim, .scale = 0.125f};
  std::vector<std::vector<float>> results;
  for (int threads : {1, 2, 3}) {
    ThreadPool pool(threads);
    KvCache cache({{.heads = kHeads, .head_dim = kDim}}, {.layers = {{KvFormat{4, 32}, KvFormat{4, 32}}}});
    std::vector<float> all;
    for (int round = 0; round < 60; ++round) {
      for (int64_t n : {kTokens - 1, int64_t{1}}) {
        std::vector<float> out(n * kQHeads * kDim);
        cache.Append(0, n, k.data(), v.data(), &pool);
        const KvAttentionCall call{.q = q.data(), .out = out.data(), .rows = n, .start = cache.length(), .spans = cache.Spans(0)};
        KvAttention({&call, 1}, shape, &pool);
        cache.Done(0);
        cache.Advance(n);
        all.insert(all.end(), out.begin(), out.end());
      }
    }
    results.push_back(std::move(all));
  }
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
}

}  // namespace
}  // namespace optiq
