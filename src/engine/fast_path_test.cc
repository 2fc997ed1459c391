// What the fast arithmetic promises: a sequence's logits are the same bits alone, beside others, with drafts and with any number of
// threads; and they are close to the exact ones.
#include <gtest/gtest.h>

#include <cmath>

#include "engine/generate.h"
#include "io/checkpoint.h"

namespace optiq {
namespace {

class FastPathTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    auto checkpoint = Checkpoint::Open(std::string(OPTIQ_TEST_DATA) + "/goldens/models/" + GetParam());
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    checkpoint_ = *std::move(checkpoint);
  }
  std::unique_ptr<Decoder> Load(ThreadPool* pool, Products products = Products::kFast) {
    auto decoder = Decoder::Load(*checkpoint_, pool);
    EXPECT_TRUE(decoder.ok()) << decoder.status();
    (*decoder)->set_products(products);
    return *std::move(decoder);
  }
  static std::vector<int32_t> Ids(int64_t n, int32_t salt, int64_t vocab) {
    std::vector<int32_t> ids(n);
    for (int64_t i = 0; i < n; ++i) ids[i] = static_cast<int32_t>((i * i * 31 + i * 7 + salt * 13) % vocab);
    return ids;
  }
  std::unique_ptr<Checkpoint> checkpoint_;
  ThreadPool one_{1}, three_{3};
};

TEST_P(FastPathTest, SameBitsForAnyThreadsAndNeighbours) {
  const auto alone = Load(&one_), many = Load(&three_);
  const int64_t vocab = alone->spec().vocab_size;
  std::vector<float> logits;
  std::vector<std::vector<std::vector<float>>> want(5);
  for (int s = 0; s < 5; ++s) {
    const auto cache = alone->MakeCache();
    ASSERT_TRUE(alone->Forward(Ids(20 + s, s, vocab), cache.get(), false, &logits).ok());
    for (int32_t step = 0; step < 4; ++step) {
      const int32_t id = (step * 5 + s) % static_cast<int32_t>(vocab);
      ASSERT_TRUE(alone->Forward({&id, 1}, cache.get(), false, &logits).ok());
      want[s].push_back(logits);
    }
  }
  std::vector<std::unique_ptr<KvCache>> caches;
  for (int s = 0; s < 5; ++s) {
    caches.push_back(many->MakeCache());
    ASSERT_TRUE(many->Forward(Ids(20 + s, s, vocab), caches.back().get(), false, &logits).ok());
  }
  for (int32_t step = 0; step < 4; ++step) {
    std::vector<int32_t> ids(5);
    std::vector<Decoder::Input> batch;
    for (int32_t s = 0; s < 5; ++s) {
      ids[s] = (step * 5 + s) % static_cast<int32_t>(vocab);
      batch.push_back({.ids = {&ids[s], 1}, .cache = caches[s].get()});
    }
    ASSERT_TRUE(many->ForwardBatch(batch, &logits).ok());
    for (int s = 0; s < 5; ++s) {
      const std::vector<float> got(logits.begin() + s * vocab, logits.begin() + (s + 1) * vocab);
      ASSERT_EQ(got, want[s][step]) << "sequence " << s << " step " << step;
    }
  }
}

TEST_P(FastPathTest, IsCloseToExact) {
  const auto fast = Load(&three_), exact = Load(&three_, Products::kF32);
  const int64_t n = 40, vocab = fast->spec().vocab_size;
  std::vector<float> a, b;
  ASSERT_TRUE(fast->Forward(Ids(n, 1, vocab), fast->MakeCache().get(), true, &a).ok());
  ASSERT_TRUE(exact->Forward(Ids(n, 1, vocab), exact->MakeCache().get(), true, &b).ok());
  double kl = 0;
  for (int64_t r = 0; r < n; ++r) {
    double za = 0, zb = 0;
    for (int64_t i = 0; i < vocab; ++i) {
      za += std::exp(double{a[r * vocab + i]});
      zb += std::exp(double{b[r * vocab + i]});
    }
    for (int64_t i = 0; i < vocab; ++i) {
      const double lb = b[r * vocab + i] - std::log(zb);
      kl += std::exp(lb) * (lb - (a[r * vocab + i] - std::log(za)));
    }
  }
  EXPECT_LT(kl / n, 5e-4);
}

TEST_P(FastPathTest, DraftsDoNotChangeTheAnswer) {
  const auto decoder = Load(&three_);
  auto tokenizer = Tokenizer::Load(*checkpoint_);
  ASSERT_TRUE(tokenizer.ok());
  GenerationRequest request;
  const std::vector<int32_t> phrase = Ids(9, 3, decoder->spec().vocab_size);
  for (int i = 0; i < 4; ++i) request.prompt.insert(request.prompt.end(), phrase.begin(), phrase.end());
  request.ignore_eos = true;
  int64_t accepted = 0;
  for (double temperature : {0.0, 0.7}) {
    for (int64_t max_tokens : {1, 7, 60}) {
      request.sampling.temperature = temperature;
      request.sampling.seed = 5;
      request.max_tokens = max_tokens;
      request.draft = false;
      Generator generator(decoder.get(), tokenizer->get(), {});
      auto plain = generator.Run(request);
      ASSERT_TRUE(plain.ok()) << plain.status();
      EXPECT_EQ(plain->drafted_tokens, 0);
      // The cache that a run leaves behind serves the next one: it must be the same too.
      GenerationRequest next = request;
      next.prompt.insert(next.prompt.end(), plain->tokens.begin(), plain->tokens.end());
      auto after_plain = generator.Run(next);
      request.draft = next.draft = true;
      generator.Reset();
      auto drafted = generator.Run(request);
      ASSERT_TRUE(drafted.ok()) << drafted.status();
      EXPECT_EQ(drafted->tokens, plain->tokens) << temperature << " " << max_tokens;
      EXPECT_EQ(drafted->decode_steps, plain->decode_steps);
      EXPECT_EQ(drafted->decode_passes + drafted->accepted_tokens, drafted->decode_steps);
      accepted += drafted->accepted_tokens;
      auto after_drafted = generator.Run(next);
      ASSERT_TRUE(after_plain.ok() && after_drafted.ok());
      EXPECT_EQ(after_drafted->cached_tokens, after_plain->cached_tokens);
      EXPECT_EQ(after_drafted->tokens, after_plain->tokens);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, FastPathTest, testing::Values("llama-4bit", "qwen3-mixed48", "gemma3_text-4bit", "llama"),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name;
                         });

}  // namespace
}  // namespace optiq
