#include "text/text_stream.h"

#include <gtest/gtest.h>

#include "text/test_models.h"

namespace optiq {
namespace {

constexpr std::string_view kBroken = "\uFFFD";

std::string WithoutBroken(std::string text) {
  for (size_t at; (at = text.find(kBroken)) != std::string::npos;) text.erase(at, kBroken.size());
  return text;
}

bool IsSubsequence(const std::string& part, const std::string& whole) {
  size_t at = 0;
  for (char c : whole) at += at < part.size() && part[at] == c;
  return at == part.size();
}

class TextStreamTest : public testing::TestWithParam<const char*> {
 protected:
  std::string Stream(const std::vector<int32_t>& ids, bool skip) {
    auto stream = TextStream::Create(tokenizer_, skip);
    EXPECT_TRUE(stream.ok());
    std::string all;
    for (int32_t id : ids) {
      auto piece = stream->Push(id);
      EXPECT_TRUE(piece.ok()) << piece.status();
      // Throws on half a character.
      EXPECT_NO_THROW(static_cast<void>(Json(*piece).dump())) << id;
      all += *piece;
    }
    return all + *stream->Flush();
  }
  TestModel model_ = LoadTestModel(GetParam());
  const Tokenizer& tokenizer_ = *model_.tokenizer;
};

TEST_P(TextStreamTest, EqualsDecodeOfTexts) {
  std::mt19937 random(4);
  std::vector<std::string> control = ControlTokens(tokenizer_);
  for (int i = 0; i < 300; ++i) {
    auto ids = *tokenizer_.Encode(RandomText(random, control), EncodeMode::kWithSpecial);
    for (bool skip : {false, true}) EXPECT_EQ(Stream(ids, skip), *tokenizer_.Decode(ids, skip));
  }
}

// Random ids are mostly whole tokens with single bytes of characters between them.
TEST_P(TextStreamTest, EqualsDecodeOfRandomIds) {
  std::mt19937 random(5);
  int equal = 0;
  for (int i = 0; i < 500; ++i) {
    std::vector<int32_t> ids(random() % 60);
    // Two ids past the end: unknown ids are left out.
    for (int32_t& id : ids) id = static_cast<int32_t>(random() % (tokenizer_.vocab_limit() + 2));
    for (bool skip : {false, true}) {
      std::string whole = *tokenizer_.Decode(ids, skip);
      std::string streamed = Stream(ids, skip);
      equal += streamed == whole;
      if (whole.find(kBroken) == std::string::npos) {
        EXPECT_EQ(streamed, whole);
      } else {
        EXPECT_TRUE(IsSubsequence(WithoutBroken(whole), WithoutBroken(streamed)));
      }
    }
  }
  EXPECT_GT(equal, 300);  // of 1000; most random streams hold broken bytes
}

TEST_P(TextStreamTest, EmojiArrivesWhole) {
  const std::string emoji = "👩";
  auto ids = *tokenizer_.Encode(emoji, EncodeMode::kPlain);
  ASSERT_GT(ids.size(), 1u);
  auto stream = TextStream::Create(tokenizer_, true);
  for (size_t i = 0; i + 1 < ids.size(); ++i) EXPECT_EQ(*stream->Push(ids[i]), "");
  EXPECT_EQ(*stream->Push(ids.back()), emoji);
  // Half a character at the end of generation.
  EXPECT_EQ(*stream->Push(ids[0]), "");
  EXPECT_NE(stream->Flush()->find(kBroken), std::string::npos);
  EXPECT_EQ(*stream->Flush(), "");
}

TEST_P(TextStreamTest, EndlessBrokenBytes) {
  int32_t first = tokenizer_.Encode("👩", EncodeMode::kPlain)->front();
  auto stream = TextStream::Create(tokenizer_, true);
  std::string all;
  for (int i = 0; i < 1000; ++i) all += *stream->Push(first);
  EXPECT_GT(all.size(), 900 * kBroken.size());  // handed out as it goes
  all += *stream->Flush();
  EXPECT_EQ(all, *tokenizer_.Decode(std::vector<int32_t>(1000, first), true));
}

TEST_P(TextStreamTest, OutlivesItsTokenizer) {
  std::shared_ptr<const Tokenizer> tokenizer = LoadTestModel(GetParam()).tokenizer;
  auto ids = *tokenizer->Encode("hello there", EncodeMode::kPlain);
  auto stream = TextStream::Create(*tokenizer, true);
  tokenizer.reset();
  std::string all;
  for (int32_t id : ids) all += *stream->Push(id);
  EXPECT_EQ(all, "hello there");
  EXPECT_FALSE(stream->Push(-1).ok());
}

INSTANTIATE_TEST_SUITE_P(Kinds, TextStreamTest, testing::ValuesIn(kTestKinds),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace optiq
