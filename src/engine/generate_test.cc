#include "engine/generate.h"

#include <gtest/gtest.h>

#include <fstream>

#include "engine/generation_config.h"
#include "io/checkpoint.h"

namespace optiq {
namespace {

constexpr int kContext = 1 << 20;

class GeneratorTest : public testing::Test {
 protected:
  void SetUp() override {
    const std::string data = std::string(OPTIQ_TEST_DATA) + "/goldens/";
    auto checkpoint = Checkpoint::Open(data + "models/llama");
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    checkpoint_ = *std::move(checkpoint);
    auto decoder = Decoder::Load(*checkpoint_, &pool_);
    ASSERT_TRUE(decoder.ok()) << decoder.status();
    decoder_ = *std::move(decoder);
    auto tokenizer = Tokenizer::Load(*checkpoint_);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *tokenizer;
    auto prompts = ReadJsonFile(data + "expected/llama/prompts.json");
    ASSERT_TRUE(prompts.ok()) << prompts.status();
    for (const Json& p : (*prompts)["prompts"]) {
      prompts_.push_back(p["ids"].get<std::vector<int32_t>>());
      greedy_.push_back(p["greedy"].get<std::vector<int32_t>>());
    }
  }

  Generator MakeGenerator(std::vector<int32_t> end_ids = {}) {
    return Generator(decoder_.get(), tokenizer_.get(), std::move(end_ids));
  }
  // 8 tokens after prompt 0; all golden margins of these steps are above 0.015.
  GenerationRequest Request(int64_t max_tokens = 8) {
    GenerationRequest request;
    request.prompt = prompts_[0];
    request.max_tokens = max_tokens;
    return request;
  }
  std::vector<int32_t> Expected(size_t n) { return {greedy_[0].begin(), greedy_[0].begin() + n}; }

  ThreadPool pool_{2};
  std::unique_ptr<Checkpoint> checkpoint_;
  std::unique_ptr<Decoder> decoder_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::vector<std::vector<int32_t>> prompts_, greedy_;
};

TEST_F(GeneratorTest, GreedyIsTheGoldenContinuation) {
  auto result = MakeGenerator().Run(Request());
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->tokens, Expected(8));
  EXPECT_EQ(result->finish, FinishReason::kLength);
  EXPECT_EQ(result->prompt_tokens, static_cast<int64_t>(prompts_[0].size()));
  EXPECT_EQ(result->decode_steps, 7);
  EXPECT_GT(result->first_token_seconds, 0);
}

TEST_F(GeneratorTest, TheSizeOfPrefillChunksDoesNotMatter) {
  for (int64_t chunk : {1, 3, 7, 1000}) {
    GenerationRequest request = Request();
    request.prefill_chunk = chunk;
    auto result = MakeGenerator().Run(request);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->tokens, Expected(8)) << chunk;
  }
}

TEST_F(GeneratorTest, PiecesJoinToTheText) {
  std::string joined;
  GenerationHooks hooks;
  hooks.on_text = [&](std::string_view piece) {
    EXPECT_FALSE(piece.empty());
    joined += piece;
    return OkStatus();
  };
  auto result = MakeGenerator().Run(Request(32), hooks);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(joined, result->text);
  EXPECT_FALSE(joined.empty());
}

TEST_F(GeneratorTest, EndOfText) {
  const int32_t end = Expected(8)[3];
  size_t first = 0;
  while (greedy_[0][first] != end) ++first;
  auto result = MakeGenerator({end}).Run(Request());
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->tokens, Expected(first));
  EXPECT_EQ(result->eos_token, end);
  EXPECT_EQ(result->finish, FinishReason::kStop);
  GenerationRequest ignoring = Request();
  ignoring.ignore_eos = true;
  EXPECT_EQ(MakeGenerator({end}).Run(ignoring)->tokens, Expected(8));
}

TEST_F(GeneratorTest, StopStringAcrossTokensIsNeverShown) {
  auto whole = MakeGenerator().Run(Request(24));
  ASSERT_TRUE(whole.ok()) << whole.status();
  // Every stop of four bytes that starts and ends at whole characters.
  for (size_t at = 0; at + 4 <= whole->text.size(); ++at) {
    const std::string stop = whole->text.substr(at, 4);
    if ((stop[0] & 0xC0) == 0x80 || (at + 4 < whole->text.size() && (whole->text[at + 4] & 0xC0) == 0x80)) continue;
    std::string shown;
    GenerationHooks hooks;
    hooks.on_text = [&](std::string_view piece) {
      shown += piece;
      return OkStatus();
    };
    GenerationRequest request = Request(24);
    request.stop = {stop};
    auto result = MakeGenerator().Run(request, hooks);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->finish, FinishReason::kStop);
    EXPECT_EQ(result->stop, stop);
    EXPECT_EQ(shown, whole->text.substr(0, whole->text.find(stop)));
    EXPECT_EQ(shown, result->text);
  }
}

TEST_F(GeneratorTest, TheCacheIsUsedAgainAndChangesNothing) {
  Generator generator = MakeGenerator();
  auto first = generator.Run(Request());
  ASSERT_TRUE(first.ok()) << first.status();
  GenerationRequest next = Request();
  next.prompt.insert(next.prompt.end(), first->tokens.begin(), first->tokens.end());
  next.prompt.insert(next.prompt.end(), prompts_[1].begin(), prompts_[1].end());
  auto cached = generator.Run(next);
  auto fresh = MakeGenerator().Run(next);
  ASSERT_TRUE(cached.ok() && fresh.ok());
  EXPECT_EQ(cached->cached_tokens, static_cast<int64_t>(prompts_[0].size()) + 7);  // the eighth was never fed
  EXPECT_EQ(fresh->cached_tokens, 0);
  EXPECT_EQ(cached->tokens, fresh->tokens);
  // The same prompt again: all but the last token is there.
  auto again = generator.Run(next);
  EXPECT_EQ(again->cached_tokens, static_cast<int64_t>(next.prompt.size()) - 1);
  EXPECT_EQ(again->tokens, fresh->tokens);
}

TEST_F(GeneratorTest, Cancel) {
  std::atomic<bool> cancel{true};
  GenerationHooks hooks;
  hooks.cancel = &cancel;
  auto before = MakeGenerator().Run(Request(), hooks);
  ASSERT_TRUE(before.ok());
  EXPECT_EQ(before->finish, FinishReason::kCancelled);
  EXPECT_TRUE(before->tokens.empty());
  cancel = false;
  hooks.on_text = [&](std::string_view) {
    cancel = true;
    return OkStatus();
  };
  auto during = MakeGenerator().Run(Request(kContext), hooks);
  ASSERT_TRUE(during.ok());
  EXPECT_EQ(during->finish, FinishReason::kCancelled);
  EXPECT_GE(during->tokens.size(), 1u);
}

TEST_F(GeneratorTest, AnErrorOfTheListenerEndsIt) {
  GenerationHooks hooks;
  hooks.on_text = [](std::string_view) { return ResourceExhausted("full"); };
  EXPECT_EQ(MakeGenerator().Run(Request(), hooks).status().code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(GeneratorTest, ImpossibleRequests) {
  const auto code = [&](auto change) {
    GenerationRequest request = Request();
    change(request);
    return MakeGenerator().Run(request).status().code();
  };
  EXPECT_EQ(code([](auto& r) { r.prompt.clear(); }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](auto& r) { r.prompt[0] = -1; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](auto& r) { r.prompt[0] = 512; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](auto& r) { r.max_tokens = 0; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](auto& r) { r.sampling.temperature = -1; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](auto& r) { r.stop = {""}; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](auto& r) { r.prompt.assign(kContext, 1); }), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace optiq
