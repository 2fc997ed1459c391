#include "engine/engine.h"

#include <gtest/gtest.h>

#include <thread>

#include "engine/engine_test_util.h"
#include "kv/kv_cache.h"

namespace optiq {
namespace {

using std::chrono::milliseconds;

TEST(EngineTest, GreedyIsTheGoldenContinuation) {
  EngineRig rig("llama", Products::kF32);
  auto prompts = ReadJsonFile(std::string(OPTIQ_TEST_DATA) + "/goldens/expected/llama/prompts.json");
  ASSERT_TRUE(prompts.ok());
  const auto engine = rig.Start();
  const Json& p = (*prompts)["prompts"][0];
  EngineRequest request;
  request.prompt = p["ids"].get<std::vector<int32_t>>();
  request.max_tokens = 8;
  const auto got = RunOne(engine.get(), request);
  ASSERT_TRUE(got->status.ok()) << got->status;
  const auto greedy = p["greedy"].get<std::vector<int32_t>>();
  EXPECT_EQ(got->tokens, std::vector<int32_t>(greedy.begin(), greedy.begin() + 8));
  EXPECT_EQ(got->reason, FinishReason::kLength);
  EXPECT_EQ(got->usage.prompt_tokens, static_cast<int64_t>(request.prompt.size()));
  EXPECT_EQ(got->usage.completion_tokens, 8);
}

TEST(EngineTest, RefusesWhatCannotRun) {
  EngineRig rig("llama-4bit");
  EngineOptions options = EngineRig::SmallOptions();
  options.context_length = 50;
  const auto engine = rig.Start(options);
  const auto code = [&](EngineRequest r) {
    return engine->Submit(std::move(r), std::make_shared<Listener>()).status().code();
  };
  EXPECT_EQ(code(rig.Request(0, 4, 1)), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(rig.Request(4, 0, 1)), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(rig.Request(51, 4, 1)), absl::StatusCode::kOutOfRange);
  EngineRequest r = rig.Request(4, 4, 1);
  r.prompt[2] = static_cast<int32_t>(rig.vocab());
  EXPECT_EQ(code(r), absl::StatusCode::kInvalidArgument);
  r = rig.Request(4, 4, 1);
  r.adapter = "none";
  EXPECT_EQ(code(r), absl::StatusCode::kInvalidArgument);
  r = rig.Request(4, 4, 1);
  r.stop = {""};
  EXPECT_EQ(code(r), absl::StatusCode::kInvalidArgument);
  r = rig.Request(4, 4, 1);
  r.top_logprobs = 21;
  EXPECT_EQ(code(r), absl::StatusCode::kInvalidArgument);
  r = rig.Request(4, 4, 1);
  r.sampling.temperature = -1;
  EXPECT_EQ(code(r), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(engine->stats().rejected, 8);
  // The context ends an answer that would go on.
  const auto got = RunOne(engine.get(), rig.Request(50, 10, 1));
  EXPECT_EQ(got->tokens.size(), 1u);
  EXPECT_EQ(got->reason, FinishReason::kLength);
  EXPECT_EQ(RunOne(engine.get(), rig.Request(45, 100, 1))->tokens.size(), 6u);
}

TEST(EngineTest, OptionsAreCheckedAndCompleted) {
  EngineRig rig("llama-4bit");
  EngineOptions options;
  options.kv_bytes = 1;
  EXPECT_EQ(rig.TryStart(options).status().code(), absl::StatusCode::kResourceExhausted);
  options = EngineRig::SmallOptions();
  options.context_length = 1 << 20;
  EXPECT_EQ(rig.TryStart(options).status().code(), absl::StatusCode::kInvalidArgument);
  options.context_length = 0;
  options.max_concurrent = 0;
  EXPECT_EQ(rig.TryStart(options).status().code(), absl::StatusCode::kInvalidArgument);
  options.max_concurrent = 2;
  options.kv_plan = rig.Uniform(7);
  EXPECT_EQ(rig.TryStart(options).status().code(), absl::StatusCode::kInvalidArgument);
  // The budget bounds the context.
  options.kv_plan = {};
  options.kv_bytes = KvAllocatedBytes(KvGeometryOf(rig.decoder()->spec()), rig.Uniform(16), 512);
  EXPECT_EQ(rig.Start(options)->options().context_length, 512);
  EXPECT_GT(rig.Start(EngineOptions())->options().kv_bytes, 0);
  // options() says what cannot be had.
  options = EngineRig::SmallOptions();
  options.draft = true;
  options.prefix_cache_bytes = 1 << 20;
  EXPECT_TRUE(rig.Start(options)->options().draft);
  options.kv_plan = rig.Uniform(4);
  options.kv_plan.quantized_start = 40;
  EXPECT_FALSE(rig.Start(options)->options().draft);
  EXPECT_EQ(rig.Start(options)->options().prefix_cache_bytes, 0);
  EngineRig windows("gemma3_text-4bit");
  options.kv_plan = {};
  EXPECT_FALSE(windows.Start(options)->options().draft);
}

struct Setup {
  const char* model;
  Products products;
  int bits;
  int64_t recent = 0, start = 0;
};

class EngineScheduleTest : public testing::TestWithParam<Setup> {};

// The same tokens alone, among others, and for one and two threads.
TEST_P(EngineScheduleTest, SameTokensAloneAndAmongOthers) {
  constexpr int kRequests = 10;
  std::vector<std::vector<int32_t>> want;
  for (int threads : {1, 2}) {
    EngineRig rig(GetParam().model, GetParam().products, threads);
    std::vector<EngineRequest> requests;
    for (uint32_t i = 0; i < kRequests; ++i) {
      requests.push_back(rig.Request(1 + (i * 97) % 290, 3 + (i * 5) % 20, i, i % 3 == 0 ? 0 : 0.9));
      requests.back().sampling.top_p = i % 2 == 0 ? 0.9 : 0;
    }
    EngineOptions options = EngineRig::SmallOptions();
    options.kv_plan = rig.Uniform(GetParam().bits);
    options.kv_plan.quantized_start = GetParam().start;
    for (KvLayerPlan& l : options.kv_plan.layers) l.dense_recent = GetParam().recent;
    if (want.empty()) {
      const auto engine = rig.Start(options);
      for (const EngineRequest& r : requests) {
        const auto got = RunOne(engine.get(), r);
        ASSERT_TRUE(got->status.ok()) << got->status;
        want.push_back(got->tokens);
      }
    }
    for (uint32_t seed = 0; seed < 3; ++seed) {
      std::mt19937 random(seed);
      options.max_concurrent = 2 + random() % 8;
      options.prefill_chunk = 1 + random() % 90;
      options.stall_ms = 1 + random() % 3;
      options.draft = seed == 2;
      const auto engine = rig.Start(options);
      std::vector<size_t> order(kRequests);
      for (size_t i = 0; i < order.size(); ++i) order[i] = i;
      std::shuffle(order.begin(), order.end(), random);
      std::vector<std::shared_ptr<Listener>> listeners(kRequests);
      for (size_t i : order) {
        listeners[i] = Submit(engine.get(), requests[i]);
        if (random() % 3 == 0) std::this_thread::sleep_for(milliseconds(random() % 4));
      }
      for (size_t i = 0; i < order.size(); ++i) {
        listeners[i]->Wait();
        ASSERT_TRUE(listeners[i]->status.ok()) << listeners[i]->status;
        EXPECT_EQ(listeners[i]->tokens, want[i]) << "request " << i << ", seed " << seed << ", threads " << threads;
      }
      const EngineStats stats = engine->stats();
      EXPECT_EQ(stats.kv_bytes_active, 0);
      EXPECT_EQ(stats.running, 0);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, EngineScheduleTest,
                         testing::Values(Setup{"llama-4bit", Products::kFast, 16},
                                         Setup{"llama-4bit", Products::kFast, 4}, Setup{"llama-4bit", Products::kFast, 4, 30},
                                         Setup{"llama-4bit", Products::kFast, 4, 0, 75},
                                         Setup{"gemma3_text-4bit", Products::kFast, 4, 30, 40}, Setup{"llama", Products::kF32, 32},
                                         Setup{"gemma3_text-4bit", Products::kFast, 8},
                                         Setup{"gemma4_e2b-mixed48", Products::kFast, 16},
                                         Setup{"lfm2-mixed48", Products::kFast, 16},
                                         Setup{"qwen3_moe", Products::kF32, 32}),
                         [](const auto& info) {
                           std::string name = info.param.model;
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name + "_" + std::to_string(info.param.bits) + "_" + std::to_string(info.param.recent) + "_" +
                                  std::to_string(info.param.start);
                         });

TEST(EngineTest, MemoryIsReservedAndRequestsWait) {
  EngineRig rig("llama-4bit");
  const KvGeometry geometry = KvGeometryOf(rig.decoder()->spec());
  EngineOptions options;
  options.kv_plan = rig.Uniform(16);
  options.context_length = 512;
  options.kv_bytes = 2 * KvAllocatedBytes(geometry, options.kv_plan, 512) - 1;  // two long ones never fit
  const auto engine = rig.Start(options);
  std::vector<std::shared_ptr<Listener>> listeners;
  for (uint32_t i = 0; i < 6; ++i) listeners.push_back(Submit(engine.get(), rig.Request(400, 60, i)));
  int64_t most = 0;
  while (!listeners.back()->finished) {
    const EngineStats stats = engine->stats();
    most = std::max(most, stats.running);
    EXPECT_LE(stats.kv_bytes_active, stats.kv_bytes_budget);
    std::this_thread::sleep_for(milliseconds(1));
  }
  EXPECT_EQ(most, 1);
  for (size_t i = 0; i < listeners.size(); ++i) {
    listeners[i]->Wait();
    EXPECT_TRUE(listeners[i]->status.ok());
    EXPECT_EQ(listeners[i]->tokens.size(), 60u);
  }
  EXPECT_EQ(engine->stats().finished_length, 6);
}

TEST(EngineTest, TheQueueHasABound) {
  EngineRig rig("llama-4bit");
  EngineOptions options = EngineRig::SmallOptions();
  options.max_concurrent = 1;
  options.max_queued = 2;
  const auto engine = rig.Start(options);
  std::vector<RequestId> ids(3);
  std::vector<std::shared_ptr<Listener>> listeners;
  for (uint32_t i = 0; i < 3; ++i) listeners.push_back(Submit(engine.get(), rig.Request(10, 3000, i), &ids[i]));
  EXPECT_EQ(engine->Submit(rig.Request(10, 1, 9), std::make_shared<Listener>()).status().code(),
            absl::StatusCode::kAborted);
  for (RequestId id : ids) engine->Cancel(id);
  for (const auto& l : listeners) {
    l->Wait();
    EXPECT_EQ(l->status.code(), absl::StatusCode::kCancelled);
    EXPECT_EQ(l->reason, FinishReason::kCancelled);
  }
  engine->Cancel(ids[0]);
  engine->Cancel(12345);
  EXPECT_EQ(RunOne(engine.get(), rig.Request(10, 2, 1))->tokens.size(), 2u);
  EXPECT_EQ(engine->stats().cancelled, 3);
}

TEST(EngineTest, CancelTakesOneStep) {
  EngineRig rig("llama-4bit");
  const auto engine = rig.Start();
  RequestId id = 0;
  const auto listener = Submit(engine.get(), rig.Request(10, 3000, 1), &id);
  listener->WaitForTokens(5);
  const int64_t before = engine->stats().steps;
  engine->Cancel(id);
  const size_t at_cancel = listener->count();
  listener->Wait();
  EXPECT_LE(listener->tokens.size(), at_cancel + 1);
  EXPECT_LE(engine->stats().steps - before, 200);  // stats may be older than the cancel
  EXPECT_EQ(listener->usage.completion_tokens, static_cast<int64_t>(listener->tokens.size()));
}

// A long prompt may not hold up an answer: between two of its tokens lies one chunk.
TEST(EngineTest, PromptsDoNotStallAnswers) {
  EngineRig rig("llama-4bit");
  EngineOptions options = EngineRig::SmallOptions();
  options.prefill_chunk = 32;
  const auto engine = rig.Start(options);
  const auto answer = Submit(engine.get(), rig.Request(10, 2000, 1));
  answer->WaitForTokens(3);
  const size_t before = answer->count();
  const auto prompt = RunOne(engine.get(), rig.Request(1600, 1, 2));
  EXPECT_GE(answer->count(), before + 1600 / 32 - 2);
}

// Nor may it hold up a short one behind it.
TEST(EngineTest, AShortPromptOvertakesALongOne) {
  EngineRig rig("llama-4bit");
  EngineOptions options = EngineRig::SmallOptions();
  options.prefill_chunk = 64;
  const auto engine = rig.Start(options);
  const auto slow = Submit(engine.get(), rig.Request(4000, 1, 1));
  const auto quick = RunOne(engine.get(), rig.Request(40, 1, 2));
  EXPECT_EQ(slow->count(), 0u);
  slow->Wait();
}

TEST(EngineTest, DrainLetsRunningOnesFinish) {
  EngineRig rig("llama-4bit");
  auto engine = rig.Start();
  const auto quick = Submit(engine.get(), rig.Request(10, 5, 1));
  engine->Drain(milliseconds(60000));
  EXPECT_TRUE(quick->finished);
  EXPECT_TRUE(quick->status.ok());
  EXPECT_EQ(engine->Submit(rig.Request(10, 1, 9), std::make_shared<Listener>()).status().code(),
            absl::StatusCode::kUnavailable);
  engine = rig.Start();
  const auto slow = Submit(engine.get(), rig.Request(10, 4000, 1));
  engine->Drain(milliseconds(1));
  EXPECT_TRUE(slow->finished);
  EXPECT_EQ(slow->status.code(), absl::StatusCode::kCancelled);
  engine.reset();
  engine = rig.Start();
  const auto left = Submit(engine.get(), rig.Request(10, 4000, 1));
  engine.reset();
  EXPECT_EQ(left->status.code(), absl::StatusCode::kCancelled);
}

TEST(EngineTest, AListenerThatThrowsIsAlone) {
  struct Thrower : Listener {
    void OnTokens(std::string_view, std::span<const int32_t>, std::span<const TokenLogprobs>) override { throw 1; }
  };
  EngineRig rig("llama-4bit");
  const auto engine = rig.Start();
  const auto bad = std::make_shared<Thrower>();
  ASSERT_TRUE(engine->Submit(rig.Request(10, 50, 1), bad).ok());
  EXPECT_EQ(RunOne(engine.get(), rig.Request(10, 20, 2))->tokens.size(), 20u);
  bad->Wait();
  EXPECT_LT(engine->stats().heartbeat_seconds, 30);
}

TEST(KvAllocatedBytesTest, IsWhatACacheHas) {
  for (const char* model : {"llama", "gemma3_text", "gemma4_e2b", "lfm2"}) {
    EngineRig rig(model);
    const KvGeometry geometry = KvGeometryOf(rig.decoder()->spec());
    KvPlan mixed = rig.Uniform(4);
    for (KvLayerPlan& l : mixed.layers) l.dense_first = 4, l.dense_recent = 20;
    for (const KvPlan& plan : {rig.Uniform(16), rig.Uniform(8), mixed}) {
      for (int64_t n : {1, 3, 16, 17, 255, 256, 257, 600}) {
        KvCache cache(geometry, plan);
        ASSERT_TRUE(cache.Reserve(n).ok());
        EXPECT_EQ(cache.bytes(), KvAllocatedBytes(geometry, plan, n)) << model << " " << n;
      }
    }
  }
}

}  // namespace
}  // namespace optiq
