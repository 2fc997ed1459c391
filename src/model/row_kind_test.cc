// Rows of a kind have the same bits however a text is cut into passes, whatever runs beside it, and for any number of
// threads.
#include <gtest/gtest.h>

#include <random>

#include "io/checkpoint.h"
#include "model/decoder.h"

namespace optiq {
namespace {

struct Case {
  const char* model;
  Products products;
  int bits, group_size;
};

class RowKindTest : public testing::TestWithParam<Case> {
 protected:
  static constexpr int64_t kPrompt = 300, kAnswer = 6;  // across a page of 256 positions, and any window

  void SetUp() override {
    auto checkpoint = Checkpoint::Open(std::string(OPTIQ_TEST_DATA) + "/goldens/models/" + GetParam().model);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    checkpoint_ = *std::move(checkpoint);
  }
  std::unique_ptr<Decoder> Load(ThreadPool* pool) {
    auto decoder = Decoder::Load(*checkpoint_, pool);
    EXPECT_TRUE(decoder.ok()) << decoder.status();
    (*decoder)->set_products(GetParam().products);
    return *std::move(decoder);
  }
  std::unique_ptr<KvCache> MakeCache(const Decoder& decoder) {
    const KvGeometry geometry = KvGeometryOf(decoder.spec());
    auto cache =
        decoder.MakeCache(UniformKvPlan(geometry, {.bits = GetParam().bits, .group_size = GetParam().group_size}));
    EXPECT_TRUE(cache.ok()) << cache.status();
    return *std::move(cache);
  }
  std::vector<int32_t> Ids(uint32_t seed, int64_t vocab) {
    std::mt19937 random(seed);
    std::vector<int32_t> ids(kPrompt + kAnswer);
    for (int32_t& id : ids) id = static_cast<int32_t>(random() % vocab);
    return ids;
  }

  std::unique_ptr<Checkpoint> checkpoint_;
  ThreadPool one_{1}, three_{3};
};

TEST_P(RowKindTest, SameBitsForAnySchedule) {
  const auto decoder = Load(&one_), other = Load(&three_);
  const int64_t vocab = decoder->spec().vocab_size;
  constexpr int kSequences = 4;
  std::vector<std::vector<int32_t>> ids;
  std::vector<std::vector<std::vector<float>>> want(kSequences);
  std::vector<float> logits;
  for (int s = 0; s < kSequences; ++s) {
    ids.push_back(Ids(s, vocab));
    const auto cache = MakeCache(*decoder);
    const std::span<const int32_t> all(ids[s]);
    Decoder::Input input = {.ids = all.first(kPrompt), .cache = cache.get(), .kind = RowKind::kPrompt};
    ASSERT_TRUE(decoder->ForwardBatch({&input, 1}, &logits).ok());
    want[s].push_back(logits);
    for (int64_t i = kPrompt; i < kPrompt + kAnswer; ++i) {
      input = {.ids = all.subspan(i, 1), .cache = cache.get(), .kind = RowKind::kAnswer};
      ASSERT_TRUE(decoder->ForwardBatch({&input, 1}, &logits).ok());
      want[s].push_back(logits);
    }
  }
  for (uint32_t seed = 0; seed < 6; ++seed) {
    std::mt19937 random(seed);
    std::vector<std::unique_ptr<KvCache>> caches;
    for (int s = 0; s < kSequences; ++s) caches.push_back(MakeCache(*other));
    const int64_t most = seed % 2 == 0 ? 40 : 200;
    std::vector<int64_t> done(kSequences, 0);
    for (;;) {
      std::vector<Decoder::Input> batch;
      std::vector<int> sequences;
      for (int s = 0; s < kSequences; ++s) {
        if (done[s] == kPrompt + kAnswer || random() % 3 == 0) continue;
        const bool prompt = done[s] < kPrompt;
        const int64_t n =
            prompt ? std::min<int64_t>(kPrompt - done[s], 1 + random() % (random() % 4 == 0 ? 3 : most)) : 1;
        batch.push_back({.ids = std::span<const int32_t>(ids[s]).subspan(done[s], n),
                         .cache = caches[s].get(),
                         .kind = prompt ? RowKind::kPrompt : RowKind::kAnswer});
        sequences.push_back(s);
      }
      if (batch.empty()) {
        if (done == std::vector<int64_t>(kSequences, kPrompt + kAnswer)) break;
        continue;
      }
      ASSERT_TRUE(other->ForwardBatch(batch, &logits).ok());
      for (size_t i = 0; i < batch.size(); ++i) {
        const int s = sequences[i];
        done[s] += static_cast<int64_t>(batch[i].ids.size());
        if (done[s] < kPrompt) continue;
        const std::vector<float> got(logits.begin() + i * vocab, logits.begin() + (i + 1) * vocab);
        ASSERT_EQ(got, want[s][done[s] - kPrompt]) << "seed " << seed << ", sequence " << s << ", after " << done[s];
      }
    }
  }
}

TEST_P(RowKindTest, HiddenStatesGiveTheLogits) {
  const auto decoder = Load(&three_);
  const std::vector<int32_t> ids = Ids(1, decoder->spec().vocab_size);
  const std::span<const int32_t> some = std::span<const int32_t>(ids).first(20);
  std::vector<float> hidden(some.size() * decoder->spec().hidden_size), all, none, logits;
  auto cache = MakeCache(*decoder);
  Decoder::Input input = {.ids = some, .cache = cache.get(), .all_logits = true, .kind = RowKind::kPrompt};
  ASSERT_TRUE(decoder->ForwardBatch({&input, 1}, &all).ok());
  cache = MakeCache(*decoder);
  input = {.ids = some, .cache = cache.get(), .no_logits = true, .kind = RowKind::kPrompt, .hidden = hidden.data()};
  ASSERT_TRUE(decoder->ForwardBatch({&input, 1}, &none).ok());
  EXPECT_TRUE(none.empty());
  ASSERT_TRUE(decoder->Logits(hidden.data(), 20, &logits).ok());
  EXPECT_EQ(logits, all);
}

INSTANTIATE_TEST_SUITE_P(
    Models, RowKindTest,
    testing::Values(
        Case{"llama-4bit", Products::kFastFixed, 16, 64}, Case{"llama-4bit", Products::kFastFixed, 4, 32},
        Case{"llama", Products::kF32Fixed, 32, 64}, Case{"llama", Products::kFastFixed, 8, 32},
        Case{"gemma3_text-4bit", Products::kFastFixed, 16, 64}, Case{"gemma3_text", Products::kF32Fixed, 32, 64},
        Case{"gemma3_text-4bit", Products::kFastFixed, 4, 32}, Case{"gemma4_e2b-mixed48", Products::kFastFixed, 8, 32},
        Case{"qwen3_moe-mixed48", Products::kFastFixed, 16, 64}, Case{"qwen3_moe", Products::kF32Fixed, 32, 64},
        Case{"lfm2-mixed48", Products::kFastFixed, 16, 64}, Case{"lfm2", Products::kF32Fixed, 32, 64}),
    [](const auto& info) {
      std::string name = info.param.model;
      for (char& c : name) c = c == '-' ? '_' : c;
      return name + (IsFast(info.param.products) ? "_fast" : "_exact") + std::to_string(info.param.bits);
    });

}  // namespace
}  // namespace optiq
