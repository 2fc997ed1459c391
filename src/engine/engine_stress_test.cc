// Random requests, cancels, stops and statistics from several threads at once; afterwards nothing is left.
#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <thread>

#include "engine/engine_test_util.h"

namespace optiq {
namespace {

using std::chrono::milliseconds;

TEST(EngineStressTest, NothingIsLeftBehind) {
  for (const char* model : {"llama-4bit", "gemma3_text-4bit"}) {
    EngineRig rig(model);
    EngineOptions options;
    options.kv_plan = rig.Uniform(8);
    options.context_length = 600;
    options.kv_bytes = KvAllocatedBytes(KvGeometryOf(rig.decoder()->spec()), options.kv_plan, 600) * 5 / 2;
    options.prefix_cache_bytes = options.kv_bytes / 2;
    options.max_concurrent = 5;
    options.max_queued = 12;
    options.prefill_chunk = 64;
    options.draft = true;
    const auto lora = std::string(OPTIQ_TEST_DATA) + "/goldens/lora/";
    if (model[0] == 'l') options.adapters = {{"a", lora + "a_mlx"}, {"b", lora + "b_peft"}};
    const auto engine = rig.Start(options, {3, 17});
    std::atomic<bool> stop{false};
    std::atomic<int64_t> accepted{0}, refused{0}, cancelled{0};
    std::thread watcher([&] {
      while (!stop) {
        const EngineStats stats = engine->stats();
        EXPECT_LE(stats.kv_bytes_active + stats.kv_bytes_cached, stats.kv_bytes_budget);
        EXPECT_LE(stats.running, options.max_concurrent);
        EXPECT_LT(stats.heartbeat_seconds, 30);
        std::this_thread::sleep_for(milliseconds(2));
      }
    });
    std::vector<std::thread> clients;
    for (uint32_t client = 0; client < 4; ++client) {
      clients.emplace_back([&, client] {
        std::mt19937 random(client);
        std::vector<std::pair<std::shared_ptr<Listener>, RequestId>> mine;
        for (int i = 0; i < 60; ++i) {
          EngineRequest r = rig.Request(1 + random() % (random() % 5 == 0 ? 700 : 150), 1 + random() % 40, random() % 12,
                                        random() % 2 == 0 ? 0 : 1.0);
          if (random() % 4 == 0) r.stop = {"a", "e", " t"};
          if (random() % 6 == 0) r.top_logprobs = static_cast<int>(random() % 4);
          if (random() % 12 == 0) r.prompt_logprobs = true;
          if (!options.adapters.empty() && random() % 3 == 0) r.adapter = random() % 2 == 0 ? "a" : "b";
          if (random() % 20 == 0) {
            const auto vectors = engine->Embed({r.prompt}, Engine::Pooling::kMean);
            EXPECT_TRUE(vectors.ok() || !vectors.status().message().empty());
            continue;
          }
          auto listener = std::make_shared<Listener>();
          const bool fits = r.prompt.size() <= 600;
          const auto id = engine->Submit(r, listener);
          if (!id.ok()) {
            EXPECT_EQ(id.status().code(), fits ? absl::StatusCode::kAborted : absl::StatusCode::kOutOfRange);
            ++refused;
            // As a client does: it waits for room.
            if (fits && !mine.empty()) mine[random() % mine.size()].first->Wait();
            continue;
          }
          ++accepted;
          mine.emplace_back(listener, *id);
          if (random() % 3 == 0) std::this_thread::sleep_for(milliseconds(random() % 5));
          if (random() % 4 == 0) {
            engine->Cancel(mine[random() % mine.size()].second);
            ++cancelled;
          }
        }
        for (auto& [listener, id] : mine) {
          listener->Wait();
          EXPECT_TRUE(listener->status.ok() || listener->status.code() == absl::StatusCode::kCancelled) << listener->status;
        }
      });
    }
    for (std::thread& t : clients) t.join();
    stop = true;
    watcher.join();
    engine->Drain(milliseconds(60000));
    const EngineStats stats = engine->stats();
    EXPECT_EQ(stats.kv_bytes_active, 0);
    EXPECT_EQ(stats.running + stats.waiting + stats.prefilling, 0);
    EXPECT_EQ(stats.failed, 0);
    EXPECT_EQ(stats.finished_stop + stats.finished_length + stats.cancelled, accepted);
    EXPECT_GE(stats.rejected, refused);
    EXPECT_GT(accepted, 20);
  }
}

// The same, told apart by adapter: whoever asks gets what he would get alone.
TEST(EngineStressTest, AdaptersInOneBatch) {
  EngineRig rig("llama-4bit");
  const auto lora = std::string(OPTIQ_TEST_DATA) + "/goldens/lora/";
  EngineOptions options = EngineRig::SmallOptions();
  options.adapters = {{"a", lora + "a_mlx"}, {"b", lora + "b_peft"}};
  options.prefix_cache_bytes = 16 << 20;
  options.prefill_chunk = 50;
  std::map<std::string, std::vector<int32_t>> want;
  EngineOptions plain = options;
  plain.prefix_cache_bytes = 0;
  {
    const auto engine = rig.Start(plain);
    EXPECT_EQ(engine->adapters(), (std::vector<std::string>{"a", "b"}));
    EXPECT_GT(engine->stats().adapter_bytes, 0);
    for (const char* name : {"", "a", "b"}) {
      EngineRequest r = rig.Request(200, 12, 1);
      r.adapter = name;
      want[name] = RunOne(engine.get(), r)->tokens;
    }
  }
  {
    EngineOptions none = plain;
    none.adapters = {};
    EXPECT_EQ(RunOne(rig.Start(none).get(), rig.Request(200, 12, 1))->tokens, want[""]);
  }
  EXPECT_NE(want["a"], want[""]);
  EXPECT_NE(want["a"], want["b"]);
  const auto engine = rig.Start(options);
  std::vector<std::pair<std::string, std::shared_ptr<Listener>>> all;
  for (int i = 0; i < 15; ++i) {
    EngineRequest r = rig.Request(200, 12, 1);
    r.adapter = std::vector<std::string>{"", "a", "b"}[static_cast<size_t>(i * 7 % 3)];
    all.emplace_back(r.adapter, Submit(engine.get(), r));
  }
  for (auto& [name, listener] : all) {
    listener->Wait();
    EXPECT_EQ(listener->tokens, want[name]) << name;
  }
  EXPECT_GT(engine->stats().prefix_hits, 0);
  options.adapters.emplace_back("a", lora + "b_mlx");
  EXPECT_EQ(rig.TryStart(options).status().code(), absl::StatusCode::kInvalidArgument);
  options.adapters = {{"c", lora}};
  const auto missing = rig.TryStart(options);
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_NE(Message(missing.status()).find("adapter 'c'"), std::string::npos);
}

}  // namespace
}  // namespace optiq
