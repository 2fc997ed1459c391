// What a request may ask for besides tokens: text and stop strings, log-probabilities, constraints, embeddings.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/json.h"
#include "engine/engine_test_util.h"
#include "engine/logprobs.h"

namespace optiq {
namespace {

// Logits of every token of `ids` as the engine computes them, and the states they come from.
std::vector<float> AllLogits(EngineRig* rig, const std::vector<int32_t>& ids, std::vector<float>* hidden) {
  hidden->resize(ids.size() * rig->decoder()->spec().hidden_size);
  auto cache = rig->decoder()->MakeCache(rig->Uniform(16));
  std::vector<float> logits;
  Decoder::Input input = {.ids = ids, .cache = cache->get(), .all_logits = true, .kind = RowKind::kPrompt, .hidden = hidden->data()};
  EXPECT_TRUE(rig->decoder()->ForwardBatch({&input, 1}, &logits).ok());
  return logits;
}

TEST(EngineOutputTest, TextIsTheTokensText) {
  EngineRig rig("llama-4bit");
  const auto engine = rig.Start();
  const auto got = RunOne(engine.get(), rig.Request(12, 60, 3, 1.0));
  EXPECT_EQ(got->text, *rig.tokenizer()->Decode(got->tokens, true));
}

TEST(EngineOutputTest, StopStringsEndTheText) {
  EngineRig rig("llama-4bit");
  const auto engine = rig.Start();
  EngineRequest request = rig.Request(12, 60, 3, 1.0);
  const auto whole = RunOne(engine.get(), request);
  for (size_t at : {5u, 20u, 40u}) {
    for (size_t length : {1u, 3u, 9u}) {
      std::string stop = whole->text.substr(at, length);
      if (stop.empty()) continue;
      request.stop = {"\x01never", stop};
      const auto got = RunOne(engine.get(), request);
      EXPECT_EQ(got->reason, FinishReason::kStop);
      EXPECT_EQ(got->stop, stop);
      EXPECT_EQ(got->text, whole->text.substr(0, whole->text.find(stop)));
      EXPECT_LE(got->tokens.size(), whole->tokens.size());
    }
  }
  EXPECT_EQ(engine->stats().finished_stop, 9);
}

TEST(EngineOutputTest, EndTokensEndTheAnswer) {
  EngineRig rig("llama-4bit");
  const EngineRequest request = rig.Request(12, 30, 3, 1.0);
  const auto whole = RunOne(rig.Start().get(), request);
  const int32_t end = whole->tokens[10];
  const size_t first = std::find(whole->tokens.begin(), whole->tokens.end(), end) - whole->tokens.begin();
  const auto engine = rig.Start(EngineRig::SmallOptions(), {end});
  const auto got = RunOne(engine.get(), request);
  EXPECT_EQ(got->reason, FinishReason::kStop);
  EXPECT_EQ(got->tokens, std::vector<int32_t>(whole->tokens.begin(), whole->tokens.begin() + first));
  EngineRequest on = request;
  on.ignore_eos = true;
  EXPECT_EQ(RunOne(engine.get(), on)->tokens, whole->tokens);
}

TEST(EngineOutputTest, Logprobs) {
  EngineRig rig("llama-4bit");
  const auto engine = rig.Start();
  EngineRequest request = rig.Request(12, 8, 3);
  request.top_logprobs = 3;
  const auto got = RunOne(engine.get(), request);
  ASSERT_EQ(got->logprobs.size(), got->tokens.size());
  std::vector<int32_t> ids = request.prompt;
  ids.insert(ids.end(), got->tokens.begin(), got->tokens.end());
  std::vector<float> hidden;
  const std::vector<float> logits = AllLogits(&rig, ids, &hidden);
  for (size_t i = 0; i < got->tokens.size(); ++i) {
    const TokenLogprobs& l = got->logprobs[i];
    EXPECT_EQ(l.id, got->tokens[i]);
    ASSERT_EQ(l.top.size(), 3u);
    EXPECT_EQ(l.top[0].first, l.id);
    EXPECT_EQ(l.top[0].second, l.logprob);
    EXPECT_GE(l.top[0].second, l.top[1].second);
    EXPECT_GE(l.top[1].second, l.top[2].second);
    double sum = 0;
    const std::span<const float> row = std::span(logits).subspan((request.prompt.size() - 1 + i) * rig.vocab(), rig.vocab());
    for (float x : row) sum += std::exp(double{x});
    // The first one is of a row of the prompt. Rows of answers add in another order, and the cache's bf16 makes more of it.
    EXPECT_NEAR(l.logprob, row[l.id] - std::log(sum), i == 0 ? 1e-5 : 5e-3);
  }
  request.top_logprobs = 0;
  EXPECT_EQ(RunOne(engine.get(), request)->logprobs[2].top.size(), 0u);
  // Penalties and masks do not show in them.
  request.sampling.logit_bias = {{5, 1000.0f}};
  const auto biased = RunOne(engine.get(), request);
  EXPECT_EQ(biased->tokens[0], 5);
  EXPECT_LT(biased->logprobs[0].logprob, -0.5);
}

TEST(EngineOutputTest, LogprobsOfEqualsAndExtremes) {
  const std::vector<float> row = {1, 3, 3, -1e6f, 3, 2};
  const TokenLogprobs l = LogprobsOf(row, 3, 4);
  EXPECT_EQ(l.logprob, -9999);
  ASSERT_EQ(l.top.size(), 4u);
  EXPECT_EQ(l.top[0].first, 1);
  EXPECT_EQ(l.top[1].first, 2);
  EXPECT_EQ(l.top[2].first, 4);
  EXPECT_EQ(l.top[3].first, 5);
  EXPECT_EQ(LogprobsOf(row, 0, 20).top.size(), row.size());
}

TEST(EngineOutputTest, PromptLogprobs) {
  for (const char* model : {"llama-4bit", "gemma3_text-4bit", "lfm2-mixed48"}) {
    EngineRig rig(model);
    EngineOptions options = EngineRig::SmallOptions();
    options.prefill_chunk = 37;
    options.prefix_cache_bytes = 16 << 20;
    const auto engine = rig.Start(options);
    EngineRequest request = rig.Request(100, 5, 3);
    const auto plain = RunOne(engine.get(), request);
    request.prompt_logprobs = true;
    request.top_logprobs = 2;
    const auto neighbour = Submit(engine.get(), rig.Request(60, 30, 8));
    const auto got = RunOne(engine.get(), request);
    EXPECT_EQ(got->tokens, plain->tokens);
    neighbour->Wait();
    std::vector<float> hidden;
    const std::vector<float> logits = AllLogits(&rig, request.prompt, &hidden);  // the engine is idle: the decoder is free
    ASSERT_EQ(got->prompt.size(), request.prompt.size());
    EXPECT_TRUE(std::isnan(got->prompt[0].logprob));
    for (size_t i = 0; i < request.prompt.size(); ++i) {
      EXPECT_EQ(got->prompt[i].id, request.prompt[i]);
      if (i == 0) continue;
      const TokenLogprobs want = LogprobsOf(std::span(logits).subspan((i - 1) * rig.vocab(), rig.vocab()), request.prompt[i], 2);
      EXPECT_EQ(got->prompt[i].logprob, want.logprob) << model << " " << i;
      EXPECT_EQ(got->prompt[i].top, want.top);
    }
    request.max_tokens = 0;
    const auto only = RunOne(engine.get(), request);
    EXPECT_TRUE(only->status.ok()) << only->status;
    EXPECT_EQ(only->reason, FinishReason::kLength);
    EXPECT_TRUE(only->tokens.empty());
    EXPECT_EQ(only->prompt.size(), request.prompt.size());
    request.prompt = {3};
    EXPECT_EQ(RunOne(engine.get(), request)->prompt.size(), 1u);
  }
}

// Only multiples of three, and five of them.
class Thirds : public TokenConstraint {
 public:
  Status Mask(std::span<float> logits) override {
    if (thread_ == std::thread::id()) thread_ = std::this_thread::get_id();
    EXPECT_EQ(thread_, std::this_thread::get_id());
    for (size_t i = 0; i < logits.size(); ++i) {
      if (i % 3 != 0 || nothing) logits[i] = -INFINITY;
    }
    return fail ? InvalidArgument("this grammar fails") : OkStatus();
  }
  Status Accept(int32_t id) override {
    EXPECT_EQ(thread_, std::this_thread::get_id());
    EXPECT_EQ(id % 3, 0);
    ++accepted;
    return OkStatus();
  }
  bool done() const override { return accepted == 5; }
  int accepted = 0;
  bool nothing = false, fail = false;

 private:
  std::thread::id thread_;
};

TEST(EngineOutputTest, Constraints) {
  EngineRig rig("llama-4bit");
  EngineOptions options = EngineRig::SmallOptions();
  options.draft = true;
  const auto engine = rig.Start(options);
  const auto neighbour = Submit(engine.get(), rig.Request(10, 40, 8, 1.0));
  EngineRequest request = rig.Request(12, 50, 3, 1.0);
  auto constraint = std::make_shared<Thirds>();
  request.constraint = constraint;
  request.top_logprobs = 1;
  const auto got = RunOne(engine.get(), request);
  EXPECT_EQ(got->tokens.size(), 5u);
  EXPECT_EQ(got->logprobs.size(), 5u);
  EXPECT_EQ(got->reason, FinishReason::kStop);
  EXPECT_EQ(got->text, *rig.tokenizer()->Decode(got->tokens, true));
  request.constraint = constraint = std::make_shared<Thirds>();
  constraint->nothing = true;
  EXPECT_EQ(RunOne(engine.get(), request)->status.code(), absl::StatusCode::kInvalidArgument);
  request.constraint = constraint = std::make_shared<Thirds>();
  constraint->fail = true;
  EXPECT_EQ(RunOne(engine.get(), request)->status.code(), absl::StatusCode::kInvalidArgument);
  neighbour->Wait();
  EXPECT_EQ(neighbour->tokens.size(), 40u);
  EXPECT_EQ(engine->stats().failed, 2);
}

TEST(EngineOutputTest, Embeddings) {
  for (const char* model : {"llama-4bit", "gemma3_text-4bit"}) {
    EngineRig rig(model);
    EngineOptions options = EngineRig::SmallOptions();
    options.prefill_chunk = 23;
    options.max_concurrent = 2;
    const auto engine = rig.Start(options);
    const auto neighbour = Submit(engine.get(), rig.Request(10, 40, 8, 1.0));
    const std::vector<std::vector<int32_t>> prompts = {rig.Ids(50, 1), rig.Ids(1, 2), rig.Ids(77, 3)};
    const auto mean = engine->Embed(prompts, Engine::Pooling::kMean), last = engine->Embed(prompts, Engine::Pooling::kLast);
    ASSERT_TRUE(mean.ok() && last.ok());
    neighbour->Wait();
    const size_t width = static_cast<size_t>(rig.decoder()->spec().hidden_size);
    for (size_t p = 0; p < prompts.size(); ++p) {
      std::vector<float> hidden;
      AllLogits(&rig, prompts[p], &hidden);
      ASSERT_EQ((*mean)[p].size(), width);
      EXPECT_EQ((*last)[p], std::vector<float>(hidden.end() - width, hidden.end()));
      for (size_t i = 0; i < width; ++i) {
        double sum = 0;
        for (size_t r = 0; r < prompts[p].size(); ++r) sum += hidden[r * width + i];
        EXPECT_EQ((*mean)[p][i], static_cast<float>(sum / prompts[p].size()));
      }
    }
    EXPECT_EQ(engine->Embed({rig.Ids(5, 1), {}}, Engine::Pooling::kMean).status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_TRUE(engine->Embed({}, Engine::Pooling::kMean)->empty());
    EXPECT_EQ(engine->stats().kv_bytes_active, 0);
    engine->Drain(std::chrono::milliseconds(1000));
    EXPECT_EQ(engine->Embed(prompts, Engine::Pooling::kMean).status().code(), absl::StatusCode::kUnavailable);
  }
}

// A model one of whose tokens has no numbers: who uses it fails, the others of the batch get what they get without him.
TEST(EngineOutputTest, BrokenNumbersFailTheirOwnRequestOnly) {
  namespace fs = std::filesystem;
  constexpr int32_t kBroken = 77;
  const fs::path directory = fs::path(testing::TempDir()) / "broken_token";
  fs::remove_all(directory);
  fs::copy(std::string(OPTIQ_TEST_DATA) + "/goldens/models/llama", directory);
  std::fstream file(directory / "model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
  uint64_t header = 0;
  file.read(reinterpret_cast<char*>(&header), sizeof(header));
  std::string text(header, 0);
  file.read(text.data(), static_cast<std::streamsize>(header));
  const Json embedding = Json::parse(text)["model.embed_tokens.weight"];
  ASSERT_EQ(embedding["dtype"], "F16");
  const int64_t width = embedding["shape"][1];
  file.seekp(static_cast<std::streamoff>(8 + header + embedding["data_offsets"][0].get<uint64_t>() + kBroken * width * 2));
  const std::vector<uint16_t> nan(width, 0x7E00);
  file.write(reinterpret_cast<const char*>(nan.data()), width * 2);
  file.close();
  ASSERT_TRUE(file.good());

  EngineRig rig(directory.string());
  const auto request = [&](uint32_t seed, bool broken) {
    EngineRequest r = rig.Request(40, 10, seed);
    for (int32_t& id : r.prompt) id = id == kBroken ? kBroken + 1 : id;
    if (broken) r.prompt[20] = kBroken;
    r.sampling.logit_bias = {{kBroken, -100}};
    r.top_logprobs = 1;
    return r;
  };
  const auto engine = rig.Start();
  std::vector<std::vector<int32_t>> alone;
  for (uint32_t i = 0; i < 3; ++i) alone.push_back(RunOne(engine.get(), request(i, false))->tokens);
  for (const bool prompt_logprobs : {true, false}) {
    std::vector<std::shared_ptr<Listener>> good, bad;
    for (uint32_t i = 0; i < 3; ++i) {
      good.push_back(Submit(engine.get(), request(i, false)));
      EngineRequest r = request(10 + i, true);
      r.prompt_logprobs = prompt_logprobs;
      if (prompt_logprobs && i == 2) r.max_tokens = 0;
      bad.push_back(Submit(engine.get(), r));
    }
    for (size_t i = 0; i < 3; ++i) {
      bad[i]->Wait();
      EXPECT_EQ(bad[i]->status.code(), absl::StatusCode::kDataLoss) << bad[i]->status;
      EXPECT_EQ(bad[i]->count(), 0u);
      good[i]->Wait();
      EXPECT_TRUE(good[i]->status.ok()) << good[i]->status;
      EXPECT_EQ(good[i]->tokens, alone[i]);
    }
  }
  EXPECT_EQ(engine->stats().failed, 6);
  EXPECT_EQ(engine->stats().kv_bytes_active, 0);
}

TEST(EngineOutputTest, DraftsDoNotChangeTheAnswer) {
  EngineRig rig("llama-4bit");
  EngineOptions options = EngineRig::SmallOptions();
  int64_t accepted = 0;
  for (double temperature : {0.0, 0.7}) {
    std::vector<EngineRequest> requests;
    for (uint32_t i = 0; i < 3; ++i) {
      EngineRequest r = rig.Request(9, 60 + i, i, temperature);
      const std::vector<int32_t> phrase = r.prompt;
      for (int k = 0; k < 3; ++k) r.prompt.insert(r.prompt.end(), phrase.begin(), phrase.end());
      r.top_logprobs = 1;
      requests.push_back(r);
    }
    std::vector<std::shared_ptr<Listener>> plain, drafted;
    options.draft = false;
    {
      const auto engine = rig.Start(options);
      for (const auto& r : requests) plain.push_back(RunOne(engine.get(), r));
    }
    options.draft = true;
    const auto engine = rig.Start(options);
    for (const auto& r : requests) drafted.push_back(Submit(engine.get(), r));
    for (size_t i = 0; i < requests.size(); ++i) {
      drafted[i]->Wait();
      EXPECT_EQ(drafted[i]->tokens, plain[i]->tokens);
      for (size_t t = 0; t < plain[i]->logprobs.size(); ++t) {
        EXPECT_EQ(drafted[i]->logprobs[t].logprob, plain[i]->logprobs[t].logprob);
      }
      accepted += drafted[i]->usage.accepted_tokens;
    }
  }
  EXPECT_GT(accepted, 0);
}

}  // namespace
}  // namespace optiq
