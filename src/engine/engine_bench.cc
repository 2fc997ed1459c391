// The engine on a real model: OPTIQ_BENCH_MODEL=DIR engine_bench.
#include <benchmark/benchmark.h>

#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <random>

#include "engine/engine.h"
#include "io/checkpoint.h"

namespace optiq {
namespace {

class Counter : public EngineSink {
 public:
  void OnTokens(std::string_view, std::span<const int32_t>, std::span<const TokenLogprobs>) override {
    const auto now = std::chrono::steady_clock::now();
    const std::lock_guard<std::mutex> lock(mutex_);
    if (tokens_ > 0) longest_gap = std::max(longest_gap, std::chrono::duration<double>(now - last_).count());
    last_ = now;
    ++tokens_;
    change_.notify_all();
  }
  void OnFinish(const Status& status, FinishReason, const std::string&, const EngineUsage& used) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!status.ok()) std::fprintf(stderr, "%s\n", Message(status).c_str());
    usage = used;
    finished_ = true;
    change_.notify_all();
  }
  void Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    change_.wait(lock, [&] { return finished_; });
  }
  void WaitForToken() {
    std::unique_lock<std::mutex> lock(mutex_);
    change_.wait(lock, [&] { return tokens_ > 0; });
  }
  EngineUsage usage;
  double longest_gap = 0;

 private:
  std::mutex mutex_;
  std::condition_variable change_;
  std::chrono::steady_clock::time_point last_;
  int64_t tokens_ = 0;
  bool finished_ = false;
};

// Exits when there is no model: nothing here has a meaning without one.
class Model {
 public:
  static Model& Get() {
    static Model model;
    return model;
  }
  std::unique_ptr<Engine> Start(EngineOptions options) {
    decoder_->set_products(Products::kFast);
    options.kv_bytes = int64_t{2} << 30;
    return Unwrap(Engine::Create(decoder_.get(), tokenizer_.get(), {}, std::move(options)));
  }
  std::vector<int32_t> Ids(int64_t n, uint32_t seed) const {
    std::mt19937 random(seed);
    std::vector<int32_t> ids(n);
    for (int32_t& id : ids) id = static_cast<int32_t>(random() % decoder_->spec().vocab_size);
    return ids;
  }

 private:
  template <typename T>
  static T Unwrap(StatusOr<T> value) {
    if (value.ok()) return *std::move(value);
    std::fprintf(stderr, "%s\n", Message(value.status()).c_str());
    std::exit(1);
  }
  Model() {
    const char* path = std::getenv("OPTIQ_BENCH_MODEL");
    checkpoint_ = Unwrap(Checkpoint::Open(path != nullptr ? path : "OPTIQ_BENCH_MODEL"));
    decoder_ = Unwrap(Decoder::Load(*checkpoint_, &pool_));
    tokenizer_ = Unwrap(Tokenizer::Load(*checkpoint_));
  }
  ThreadPool pool_;
  std::unique_ptr<Checkpoint> checkpoint_;
  std::unique_ptr<Decoder> decoder_;
  std::shared_ptr<const Tokenizer> tokenizer_;
};

std::shared_ptr<Counter> Ask(Engine* engine, std::vector<int32_t> prompt, int64_t max_tokens) {
  EngineRequest request;
  request.prompt = std::move(prompt);
  request.max_tokens = max_tokens;
  auto counter = std::make_shared<Counter>();
  if (!engine->Submit(std::move(request), counter).ok()) std::exit(1);
  return counter;
}

// N clients at once, prompts of 128 tokens, answers of 128.
void BM_Clients(benchmark::State& state) {
  const auto engine = Model::Get().Start({});
  int64_t tokens = 0;
  double first = 0;
  uint32_t seed = 0;
  for (auto _ : state) {
    std::vector<std::shared_ptr<Counter>> clients;
    for (int i = 0; i < state.range(0); ++i) clients.push_back(Ask(engine.get(), Model::Get().Ids(128, ++seed), 128));
    for (const auto& c : clients) {
      c->Wait();
      tokens += c->usage.completion_tokens;
      first += c->usage.first_token_seconds;
    }
  }
  state.counters["tokens/s"] = benchmark::Counter(static_cast<double>(tokens), benchmark::Counter::kIsRate);
  state.counters["first_token_ms"] = 1000 * first / static_cast<double>(state.iterations() * state.range(0));
}
BENCHMARK(BM_Clients)->Arg(1)->Arg(4)->Arg(16)->Unit(benchmark::kMillisecond)->UseRealTime();

// A prompt of 1,000 tokens that others begin with, and 20 of its own: the first request and those after it.
void BM_SharedPrompt(benchmark::State& state) {
  EngineOptions options;
  options.prefix_cache_bytes = int64_t{1} << 30;
  double cold = 0, warm = 0, cached = 0;
  uint32_t seed = 100;
  for (auto _ : state) {
    const auto engine = Model::Get().Start(options);
    const std::vector<int32_t> shared = Model::Get().Ids(1000, 1);
    for (int i = 0; i < 4; ++i) {
      std::vector<int32_t> prompt = shared;
      for (int32_t id : Model::Get().Ids(20, ++seed)) prompt.push_back(id);
      const auto client = Ask(engine.get(), prompt, 1);
      client->Wait();
      (i == 0 ? cold : warm) += 1000 * client->usage.first_token_seconds / (i == 0 ? 1 : 3);
      if (i == 1) cached = static_cast<double>(client->usage.cached_tokens);
    }
  }
  state.counters["cold_ms"] = cold / static_cast<double>(state.iterations());
  state.counters["warm_ms"] = warm / static_cast<double>(state.iterations());
  state.counters["cached"] = cached;
}
BENCHMARK(BM_SharedPrompt)->Unit(benchmark::kMillisecond)->UseRealTime()->Iterations(3);

// The longest time between two tokens of two answers while a prompt of 4,000 tokens is read.
void BM_Stall(benchmark::State& state) {
  EngineOptions options;
  options.stall_ms = state.range(0);
  double gap = 0, first = 0;
  for (auto _ : state) {
    const auto engine = Model::Get().Start(options);
    Ask(engine.get(), Model::Get().Ids(500, 9), 1)->Wait();  // a rate to go by
    const auto one = Ask(engine.get(), Model::Get().Ids(20, 1), 1000), two = Ask(engine.get(), Model::Get().Ids(20, 2), 1000);
    one->WaitForToken();
    const auto prompt = Ask(engine.get(), Model::Get().Ids(4000, 3), 1);
    prompt->Wait();
    first = prompt->usage.first_token_seconds;
    gap = std::max({gap, one->longest_gap, two->longest_gap});
    engine->Drain(std::chrono::milliseconds(0));
  }
  state.counters["gap_ms"] = 1000 * gap;
  state.counters["first_token_s"] = first;
}
BENCHMARK(BM_Stall)->Arg(50)->Arg(250)->Unit(benchmark::kMillisecond)->UseRealTime()->Iterations(1);

}  // namespace
}  // namespace optiq
