#include "text/tokenizer.h"

#include <gtest/gtest.h>

#include "text/test_models.h"

namespace optiq {
namespace {

class TokenizerTest : public testing::TestWithParam<const char*> {
 protected:
  TestModel model_ = LoadTestModel(GetParam());
  const Tokenizer& tokenizer_ = *model_.tokenizer;
};

TEST_P(TokenizerTest, IdsAndTextsOfTransformers) {
  ASSERT_GT(model_.expected["texts"].size(), 20u);
  for (const OrderedJson& t : model_.expected["texts"]) {
    std::string text = t["text"];
    auto ids = t["ids"].get<std::vector<int32_t>>();
    auto with_special = t["ids_with_special"].get<std::vector<int32_t>>();
    EXPECT_EQ(*tokenizer_.Encode(text, EncodeMode::kPlain), ids) << text;
    EXPECT_EQ(*tokenizer_.Encode(text, EncodeMode::kWithSpecial), with_special) << text;
    EXPECT_EQ(*tokenizer_.Decode(ids, false), t["decoded"].get<std::string>());
    EXPECT_EQ(*tokenizer_.Decode(ids, true), t["decoded_skip_special"].get<std::string>());
    EXPECT_EQ(*tokenizer_.Decode(with_special, true), t["decoded_skip_special"].get<std::string>());
  }
}

TEST_P(TokenizerTest, ControlTokensInLiteralTextStayText) {
  std::vector<std::string> control = ControlTokens(tokenizer_);
  ASSERT_GE(control.size(), 4u);
  std::mt19937 random(1);
  for (int i = 0; i < 300; ++i) {
    std::string text = RandomText(random, control);
    std::vector<int32_t> literal = *tokenizer_.Encode(text, EncodeMode::kLiteral);
    for (int32_t id : literal) EXPECT_FALSE(tokenizer_.IsControl(id)) << text;
    EXPECT_EQ(*tokenizer_.Decode(literal, false),
              *tokenizer_.Decode(*tokenizer_.Encode(text, EncodeMode::kPlain), false));
    // The guard is the other way to the same ids.
    EXPECT_EQ(*tokenizer_.Encode(*tokenizer_.Guard(text), EncodeMode::kGuarded), literal) << text;
    // Without control tokens all modes agree.
    std::string harmless = RandomText(random);
    EXPECT_EQ(*tokenizer_.Encode(harmless, EncodeMode::kLiteral), *tokenizer_.Encode(harmless, EncodeMode::kPlain))
        << harmless;
    EXPECT_EQ(*tokenizer_.Encode(harmless, EncodeMode::kGuarded), *tokenizer_.Encode(harmless, EncodeMode::kPlain))
        << harmless;
  }
}

TEST_P(TokenizerTest, ControlTokenCutInTwoStaysText) {
  for (const std::string& token : ControlTokens(tokenizer_)) {
    for (size_t cut = 1; cut < token.size(); ++cut) {
      for (const char* space : {"", " "}) {
        // The first part may be trimmed by the template before the second is appended.
        std::string first = *tokenizer_.Guard("a" + token.substr(0, cut) + space);
        if (*space) first.pop_back();
        auto ids = *tokenizer_.Encode(first + *tokenizer_.Guard(token.substr(cut)), EncodeMode::kGuarded);
        for (int32_t id : ids) EXPECT_FALSE(tokenizer_.IsControl(id)) << token << " cut at " << cut;
      }
    }
  }
}

TEST_P(TokenizerTest, TokenTextsJoinToTheText) {
  std::mt19937 random(2);
  for (int i = 0; i < 200; ++i) {
    std::string text = RandomText(random);
    std::string joined;
    std::vector<int32_t> ids = *tokenizer_.Encode(text, EncodeMode::kPlain);
    for (int32_t id : ids) joined += *tokenizer_.TokenText(id);
    EXPECT_EQ(joined, *tokenizer_.Decode(ids, false));  // the text, normalized (Qwen: NFC)
  }
}

TEST_P(TokenizerTest, Lookup) {
  int named = 0;
  for (const auto& [name, token] : tokenizer_.special_tokens().named) {
    std::optional<int32_t> id = tokenizer_.TokenId(token);
    ASSERT_TRUE(id) << name;
    EXPECT_TRUE(tokenizer_.IsSpecial(*id) && tokenizer_.IsControl(*id)) << name;
    EXPECT_EQ(tokenizer_.TokenText(*id), token);
    EXPECT_LT(*id, tokenizer_.vocab_limit());
    ++named;
  }
  EXPECT_GE(named, 2);
  EXPECT_TRUE(tokenizer_.eos_token());
  EXPECT_FALSE(tokenizer_.TokenId("no such token"));
  EXPECT_TRUE(tokenizer_.TokenText(tokenizer_.vocab_limit() - 1));
  EXPECT_FALSE(tokenizer_.TokenText(tokenizer_.vocab_limit()));
  EXPECT_FALSE(tokenizer_.TokenText(-1));
  EXPECT_FALSE(tokenizer_.IsSpecial(-1));
}

TEST_P(TokenizerTest, BadInput) {
  EXPECT_EQ(tokenizer_.Encode("a\xff", EncodeMode::kPlain).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(tokenizer_.Decode({-1}, false).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(*tokenizer_.Decode({INT32_MAX}, false), "");
  EXPECT_EQ(*tokenizer_.Decode({}, false), "");
  EXPECT_FALSE(tokenizer_.Encode(std::string_view("a\0b", 3), EncodeMode::kPlain)->empty());
}

INSTANTIATE_TEST_SUITE_P(Kinds, TokenizerTest, testing::ValuesIn(kTestKinds),
                         [](const auto& info) { return std::string(info.param); });

std::string SmallTokenizer(const std::string& added) {
  return R"({"version":"1.0","truncation":{"max_length":2,"strategy":"LongestFirst","stride":0,"direction":"Right"},"padding":null,
    "added_tokens":[)" +
         added + R"(],"normalizer":null,"pre_tokenizer":null,"post_processor":null,"decoder":null,
    "model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,"end_of_word_suffix":null,
    "fuse_unk":false,"byte_fallback":false,"ignore_merges":true,
    "vocab":{"a":0,"<":1,"e":2,">":3,"<e>":4,"[x]":9,"[":10,"x":11,"]":12},"merges":[]}})";
}

std::string Added(int id, const std::string& text, bool normalized, bool special) {
  return fmt::format(
      R"({{"id":{},"content":"{}","single_word":false,"lstrip":false,"rstrip":false,"normalized":{},"special":{}}})",
      id, text, normalized, special);
}

TEST(SmallTokenizerTest, TruncationInTheFileIsIgnored) {
  auto tokenizer = Tokenizer::FromJson(SmallTokenizer(""));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->Encode("aaaa", EncodeMode::kPlain)->size(), 4u);
  EXPECT_EQ((*tokenizer)->vocab_limit(), 13);  // ids are sparse
}

// A control token that is also an entry of the model's vocabulary, and one that is matched after normalization.
TEST(SmallTokenizerTest, ControlTokensInsideTheModel) {
  auto tokenizer = Tokenizer::FromJson(SmallTokenizer(Added(4, "<e>", true, true)));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const Tokenizer& t = **tokenizer;
  using Ids = std::vector<int32_t>;
  EXPECT_EQ(*t.Encode("<e>", EncodeMode::kPlain), Ids({4}));
  EXPECT_EQ(*t.Encode("<e>", EncodeMode::kLiteral), Ids({1, 2, 3}));
  EXPECT_EQ(*t.Encode("<e>", EncodeMode::kGuarded), Ids({4}));
  EXPECT_EQ(*t.Encode(*t.Guard("a<e>") + "<e>", EncodeMode::kGuarded), Ids({0, 1, 2, 3, 4}));
  EXPECT_EQ(*t.Encode("[x]", EncodeMode::kLiteral), Ids({9}));  // text, as far as anybody said
}

TEST(SmallTokenizerTest, NamedTokensBecomeSpecial) {
  auto special =
      ParseSpecialTokens(Json::parse(R"({"eos_token":"<e>","pad_token":"[x]","model_token":"<new>"})"), Json());
  ASSERT_TRUE(special.ok()) << special.status();
  auto tokenizer = Tokenizer::FromJson(SmallTokenizer(Added(4, "<e>", false, false)), *special);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_TRUE((*tokenizer)->IsSpecial(4));
  EXPECT_TRUE((*tokenizer)->IsSpecial(9));
  EXPECT_EQ(*(*tokenizer)->Encode("[x]a", EncodeMode::kLiteral), (std::vector<int32_t>{10, 11, 12, 0}));
  EXPECT_EQ(*(*tokenizer)->Decode({0, 4, 0}, true), "a a");  // without a decoder, tokens are joined by spaces
  EXPECT_EQ(*(*tokenizer)->Decode({0, 4}, false), "a <e>");
  EXPECT_TRUE((*tokenizer)->TokenId("<new>"));
}

TEST(SmallTokenizerTest, IdsAboveTheLimit) {
  std::string json = SmallTokenizer("");
  json.replace(json.find("\"]\":12"), 6, "\"]\":4000000000");
  EXPECT_EQ(Tokenizer::FromJson(json).status().code(), absl::StatusCode::kResourceExhausted);
}

// Replacements that would turn a short text into more memory than there is.
TEST(SmallTokenizerTest, ExplodingNormalizer) {
  std::string json = SmallTokenizer("");
  std::string replace = R"({"type":"Replace","pattern":{"String":"a"},"content":"aaaaaaaaaa"})";
  std::string sequence = replace;
  for (int i = 0; i < 20; ++i) sequence += "," + replace;
  const std::string old = R"("normalizer":null)";
  json.replace(json.find(old), old.size(), R"("normalizer":{"type":"Sequence","normalizers":[)" + sequence + "]}");
  auto tokenizer = Tokenizer::FromJson(json);
  EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kResourceExhausted) << tokenizer.status();
}

}  // namespace
}  // namespace optiq
