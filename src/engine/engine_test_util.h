// Engines on the tiny golden models, and listeners that keep what they hear.
#ifndef OPTIQ_ENGINE_ENGINE_TEST_UTIL_H_
#define OPTIQ_ENGINE_ENGINE_TEST_UTIL_H_

#include <gtest/gtest.h>

#include <condition_variable>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "io/checkpoint.h"

namespace optiq {

class Listener : public EngineSink {
 public:
  void OnStart() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    EXPECT_FALSE(started);
    started = true;
    change_.notify_all();
  }
  void OnPrompt(std::vector<TokenLogprobs> all) override { prompt = std::move(all); }
  void OnTokens(std::string_view piece, std::span<const int32_t> ids, std::span<const TokenLogprobs> probs) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    EXPECT_TRUE(started && !finished);
    text += piece;
    tokens.insert(tokens.end(), ids.begin(), ids.end());
    logprobs.insert(logprobs.end(), probs.begin(), probs.end());
    change_.notify_all();
  }
  void OnFinish(const Status& result, FinishReason why, const std::string& by, const EngineUsage& used) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    EXPECT_FALSE(finished);
    status = result;
    reason = why;
    stop = by;
    usage = used;
    finished = true;
    change_.notify_all();
  }
  void Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    ASSERT_TRUE(change_.wait_for(lock, std::chrono::seconds(60), [&] { return finished; }));
  }
  void WaitForTokens(size_t n) {
    std::unique_lock<std::mutex> lock(mutex_);
    ASSERT_TRUE(change_.wait_for(lock, std::chrono::seconds(60), [&] { return finished || tokens.size() >= n; }));
  }
  size_t count() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return tokens.size();
  }

  bool started = false, finished = false;
  std::vector<TokenLogprobs> prompt, logprobs;
  std::vector<int32_t> tokens;
  std::string text, stop;
  Status status;
  FinishReason reason = FinishReason::kCancelled;
  EngineUsage usage;

 private:
  std::mutex mutex_;
  std::condition_variable change_;
};

// One model, and engines on it one after the other.
class EngineRig {
 public:
  explicit EngineRig(const std::string& model, Products products = Products::kFast, int threads = 2) : pool_(threads) {
    const std::string data = std::string(OPTIQ_TEST_DATA) + "/goldens/";
    auto checkpoint = Checkpoint::Open(model.starts_with('/') ? model : data + "models/" + model);
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    checkpoint_ = *std::move(checkpoint);
    auto decoder = Decoder::Load(*checkpoint_, &pool_);
    EXPECT_TRUE(decoder.ok()) << decoder.status();
    decoder_ = *std::move(decoder);
    products_ = products;
    auto tokenizer = Tokenizer::Load(*checkpoint_);
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *tokenizer;
  }

  static EngineOptions SmallOptions() {
    EngineOptions options;
    options.kv_bytes = 64 << 20;
    return options;
  }
  std::unique_ptr<Engine> Start(EngineOptions options = SmallOptions(), std::vector<int32_t> end_ids = {}) {
    auto engine = TryStart(std::move(options), std::move(end_ids));
    EXPECT_TRUE(engine.ok()) << engine.status();
    return *std::move(engine);
  }
  StatusOr<std::unique_ptr<Engine>> TryStart(EngineOptions options, std::vector<int32_t> end_ids = {}) {
    decoder_->set_products(products_);
    return Engine::Create(decoder_.get(), tokenizer_.get(), std::move(end_ids), std::move(options));
  }
  KvPlan Uniform(int bits, int group_size = 32) const {
    return UniformKvPlan(KvGeometryOf(decoder_->spec()), {.bits = bits, .group_size = group_size});
  }

  int64_t vocab() const { return decoder_->spec().vocab_size; }
  std::vector<int32_t> Ids(int64_t n, uint32_t seed) const {
    std::mt19937 random(seed);
    std::vector<int32_t> ids(n);
    for (int32_t& id : ids) id = static_cast<int32_t>(random() % vocab());
    return ids;
  }
  EngineRequest Request(int64_t prompt, int64_t max_tokens, uint32_t seed, double temperature = 0) const {
    EngineRequest r;
    r.prompt = Ids(prompt, seed);
    r.max_tokens = max_tokens;
    r.sampling.temperature = temperature;
    r.sampling.seed = seed;
    return r;
  }

  Decoder* decoder() { return decoder_.get(); }
  const Tokenizer* tokenizer() const { return tokenizer_.get(); }

 private:
  ThreadPool pool_;
  Products products_;
  std::unique_ptr<Checkpoint> checkpoint_;
  std::unique_ptr<Decoder> decoder_;
  std::shared_ptr<const Tokenizer> tokenizer_;
};

inline std::shared_ptr<Listener> Submit(Engine* engine, EngineRequest request, RequestId* id = nullptr) {
  auto listener = std::make_shared<Listener>();
  const auto submitted = engine->Submit(std::move(request), listener);
  EXPECT_TRUE(submitted.ok()) << submitted.status();
  if (id != nullptr && submitted.ok()) *id = *submitted;
  return listener;
}

inline std::shared_ptr<Listener> RunOne(Engine* engine, EngineRequest request) {
  auto listener = Submit(engine, std::move(request));
  listener->Wait();
  return listener;
}

}  // namespace optiq

#endif  // OPTIQ_ENGINE_ENGINE_TEST_UTIL_H_
