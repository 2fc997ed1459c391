#include "engine/prefix_cache.h"

#include <gtest/gtest.h>

#include "engine/engine_test_util.h"

namespace optiq {
namespace {

struct Setup {
  const char* model;
  int bits;
  int64_t recent;
  Products products = Products::kFast;
};

class PrefixTest : public testing::TestWithParam<Setup> {
 protected:
  EngineOptions Options(const EngineRig& rig, int64_t cache_bytes) {
    EngineOptions options = EngineRig::SmallOptions();
    options.kv_plan = rig.Uniform(GetParam().bits);
    for (KvLayerPlan& l : options.kv_plan.layers) {
      l.dense_recent = GetParam().recent;
      l.dense_first = GetParam().recent > 0 ? 4 : 0;
    }
    options.prefix_cache_bytes = cache_bytes;
    options.prefill_chunk = 200;
    return options;
  }
};

// Prompts that begin alike in all the ways that matter: the same tokens and logits with a cold cache, a warm one, and none.
TEST_P(PrefixTest, SameAnswersColdAndWarm) {
  EngineRig rig(GetParam().model, GetParam().products);
  const std::vector<int32_t> base = rig.Ids(700, 1);
  std::vector<EngineRequest> requests;
  for (int64_t n : {300, 300, 299, 301, 320, 321, 128, 129, 33, 32, 600, 700}) {
    EngineRequest r = rig.Request(1, 6, static_cast<uint32_t>(requests.size()), 0.8);
    r.prompt.assign(base.begin(), base.begin() + n);
    r.top_logprobs = 0;
    requests.push_back(r);
  }
  for (int64_t leaves_at : {0, 31, 32, 100, 256, 310}) {
    EngineRequest r = requests[5];
    for (int64_t i = leaves_at; i < 321; ++i) r.prompt[i] = (base[i] + 1) % static_cast<int32_t>(rig.vocab());
    requests.push_back(r);
  }
  EngineRequest chat = requests[0];  // the next turn of the first
  std::vector<std::shared_ptr<Listener>> cold;
  {
    const auto engine = rig.Start(Options(rig, 0));
    for (const auto& r : requests) cold.push_back(RunOne(engine.get(), r));
    chat.prompt.insert(chat.prompt.end(), cold[0]->tokens.begin(), cold[0]->tokens.end());
    const std::vector<int32_t> more = rig.Ids(50, 2);
    chat.prompt.insert(chat.prompt.end(), more.begin(), more.end());
    requests.push_back(chat);
    cold.push_back(RunOne(engine.get(), chat));
    EXPECT_EQ(engine->stats().prefix_queries, 0);
  }
  const auto same = [&](const Listener& got, size_t i) {
    ASSERT_TRUE(got.status.ok()) << got.status;
    EXPECT_EQ(got.tokens, cold[i]->tokens) << i;
    for (size_t t = 0; t < got.tokens.size(); ++t) EXPECT_EQ(got.logprobs[t].logprob, cold[i]->logprobs[t].logprob) << i;
  };
  const auto engine = rig.Start(Options(rig, 32 << 20));
  for (size_t i = 0; i < requests.size(); ++i) same(*RunOne(engine.get(), requests[i]), i);
  EXPECT_GT(engine->stats().prefix_hits, 4);
  EXPECT_GT(engine->stats().kv_bytes_cached, 0);
  EXPECT_LE(engine->stats().kv_bytes_cached, 32 << 20);
  // Once more, all at once, with all of it known.
  std::vector<std::shared_ptr<Listener>> warm;
  for (const auto& r : requests) warm.push_back(Submit(engine.get(), r));
  int64_t cached = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    warm[i]->Wait();
    same(*warm[i], i);
    EXPECT_LT(warm[i]->usage.cached_tokens, static_cast<int64_t>(requests[i].prompt.size()));
    cached += warm[i]->usage.cached_tokens;
  }
  // The longest use nearly all.
  EXPECT_GE(warm[11]->usage.cached_tokens, 512);
  EXPECT_GE(warm[0]->usage.cached_tokens, 256);
  EXPECT_GE(cached, 2000);
  // A cache that holds next to nothing changes the time only.
  const auto tiny = rig.Start(Options(rig, 100000));
  for (size_t i = 0; i < requests.size(); ++i) same(*RunOne(tiny.get(), requests[i]), i);
  EXPECT_LE(tiny->stats().kv_bytes_cached, 100000);
}

INSTANTIATE_TEST_SUITE_P(Models, PrefixTest,
                         testing::Values(Setup{"llama-4bit", 16, 0}, Setup{"llama-4bit", 4, 0}, Setup{"llama-4bit", 4, 20},
                                         Setup{"llama-4bit", 8, 64}, Setup{"llama", 32, 0, Products::kF32},
                                         Setup{"gemma3_text-4bit", 16, 0}, Setup{"gemma3_text-4bit", 4, 10},
                                         Setup{"gemma4_e2b-mixed48", 8, 0}, Setup{"lfm2-mixed48", 16, 0},
                                         Setup{"mistral-mixed48", 8, 0}),
                         [](const auto& info) {
                           std::string name = info.param.model;
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name + "_" + std::to_string(info.param.bits) + "_" + std::to_string(info.param.recent);
                         });

TEST(PrefixCacheTest, RequestsForTheSamePromptWaitForTheFirst) {
  EngineRig rig("llama-4bit");
  EngineOptions options = EngineRig::SmallOptions();
  options.prefix_cache_bytes = 16 << 20;
  options.prefill_chunk = 100;
  const auto engine = rig.Start(options);
  std::vector<std::shared_ptr<Listener>> listeners;
  for (uint32_t i = 0; i < 8; ++i) {
    EngineRequest r = rig.Request(1000, 3, 7, 1.0);
    r.sampling.seed = i;
    listeners.push_back(Submit(engine.get(), r));
  }
  for (const auto& l : listeners) l->Wait();
  for (size_t i = 1; i < listeners.size(); ++i) EXPECT_EQ(listeners[i]->usage.cached_tokens, 992);
  EXPECT_EQ(engine->stats().prefix_hits, 7);
  EXPECT_EQ(engine->stats().cached_tokens, 7 * 992);
}

TEST(PrefixCacheTest, GivesWayToRequests) {
  EngineRig rig("llama-4bit");
  EngineOptions options;
  options.kv_plan = rig.Uniform(16);
  options.context_length = 1024;
  options.kv_bytes = KvAllocatedBytes(KvGeometryOf(rig.decoder()->spec()), options.kv_plan, 1024) * 3 / 2;
  options.prefix_cache_bytes = options.kv_bytes;
  const auto engine = rig.Start(options);
  for (uint32_t i = 0; i < 6; ++i) {
    const auto got = RunOne(engine.get(), rig.Request(1000, 3, i));
    EXPECT_TRUE(got->status.ok());
    const EngineStats stats = engine->stats();
    EXPECT_LE(stats.kv_bytes_active + stats.kv_bytes_cached, stats.kv_bytes_budget);
  }
  EXPECT_GT(RunOne(engine.get(), rig.Request(1000, 3, 5))->usage.cached_tokens, 0);
}

// Keys that belong to other plans, adapters or hashes never meet; here: roots.
TEST(PrefixCacheTest, RootsAreApart) {
  EngineRig rig("llama");
  const KvGeometry geometry = KvGeometryOf(rig.decoder()->spec());
  const KvPlan plan = rig.Uniform(16);
  PrefixCache cache(geometry, plan, 1 << 24);
  KvCache kv(geometry, plan);
  const std::vector<int32_t> ids = rig.Ids(100, 1);
  std::vector<float> logits;
  ASSERT_TRUE(rig.decoder()->Forward(std::span(ids).first(96), &kv, false, &logits).ok());
  cache.Store(1, ids, kv, 0);
  EXPECT_EQ(cache.Find(1, ids).length, 96);
  EXPECT_EQ(cache.Find(1, std::span(ids).first(96)).length, 64);
  EXPECT_EQ(cache.Find(0, ids).length, 0);
  EXPECT_EQ(cache.Find(2, ids).length, 0);
  const int64_t all = cache.bytes();
  cache.EvictTo(all - 1);
  EXPECT_EQ(cache.Find(1, ids).length, 64);  // the end goes first
  cache.EvictTo(0);
  EXPECT_EQ(cache.bytes(), 0);
}

}  // namespace
}  // namespace optiq
