#include "text/special_tokens.h"

#include <gtest/gtest.h>

namespace optiq {
namespace {

using Named = std::vector<std::pair<std::string, std::string>>;

SpecialTokens Parse(std::string_view config, std::string_view map = "null") {
  auto tokens = ParseSpecialTokens(Json::parse(config), Json::parse(map));
  EXPECT_TRUE(tokens.ok()) << tokens.status();
  return *tokens;
}

TEST(SpecialTokensTest, NamedTokensInStandardOrder) {
  SpecialTokens tokens = Parse(R"({"image_token":"<img>","eos_token":"</s>","bos_token":{"content":"<s>","lstrip":true},
                                   "unk_token":null,"add_bos_token":true,"model_max_length":5})");
  EXPECT_EQ(tokens.named, (Named{{"bos_token", "<s>"}, {"eos_token", "</s>"}, {"image_token", "<img>"}}));
  EXPECT_EQ(tokens.Find("eos_token"), "</s>");
  EXPECT_EQ(tokens.Find("unk_token"), std::nullopt);
  ASSERT_EQ(tokens.added_tokens.size(), 3u);
  EXPECT_EQ(tokens.added_tokens[0], Json::parse(R"({"content":"<s>","lstrip":true,"rstrip":false,"single_word":false,
                                                    "normalized":false,"special":true})"));
}

// transformers reads special_tokens_map.json only when tokenizer_config.json has no added_tokens_decoder.
TEST(SpecialTokensTest, LegacyMap) {
  EXPECT_EQ(Parse(R"({"bos_token":"a"})", R"({"bos_token":"b"})").named, (Named{{"bos_token", "b"}}));
  EXPECT_EQ(Parse(R"({"bos_token":"a","added_tokens_decoder":{}})", R"({"bos_token":"b"})").named,
            (Named{{"bos_token", "a"}}));
  EXPECT_EQ(Parse("null", R"({"bos_token":"b"})").named, (Named{{"bos_token", "b"}}));
  EXPECT_TRUE(Parse("null").named.empty());
}

TEST(SpecialTokensTest, DeclaredFlagsAreKept) {
  SpecialTokens tokens = Parse(R"({"eos_token":"e","added_tokens_decoder":{
      "10":{"content":"late","special":false},"9":{"content":"e","rstrip":true,"special":false}}})");
  ASSERT_EQ(tokens.added_tokens.size(), 3u);
  EXPECT_EQ(tokens.added_tokens[0]["content"], "e");  // by id, as a number
  EXPECT_EQ(tokens.added_tokens[1]["content"], "late");
  EXPECT_EQ(tokens.added_tokens[2]["rstrip"], true);
  EXPECT_EQ(tokens.added_tokens[2]["special"], true);
}

TEST(SpecialTokensTest, ExtraTokens) {
  EXPECT_EQ(Parse(R"({"extra_special_tokens":["a",{"content":"b"}]})").added_tokens.size(), 2u);
  EXPECT_EQ(Parse(R"({"additional_special_tokens":["a"]})").added_tokens.size(), 1u);
  EXPECT_EQ(Parse(R"({"extra_special_tokens":{"audio_token":"<a>"}})").named, (Named{{"audio_token", "<a>"}}));
  EXPECT_TRUE(Parse(R"({"split_special_tokens":true})").split_special_tokens);
}

TEST(SpecialTokensTest, ClassDefaults) {
  EXPECT_EQ(Parse(R"({"tokenizer_class":"GemmaTokenizerFast"})").named, (Named{{"mask_token", "<mask>"}}));
  EXPECT_TRUE(Parse(R"({"tokenizer_class":"GemmaTokenizer","mask_token":null})").named.empty());
}

TEST(SpecialTokensTest, WrongTypesAreErrors) {
  for (const char* config : {R"({"bos_token":1})", R"({"bos_token":{}})", R"({"added_tokens_decoder":[]})",
                             R"({"added_tokens_decoder":{"x":{"content":"a"}}})",
                             R"({"added_tokens_decoder":{"1":{"content":"a","lstrip":2}}})",
                             R"({"extra_special_tokens":"a"})", R"({"split_special_tokens":"yes"})"}) {
    auto tokens = ParseSpecialTokens(Json::parse(config), Json());
    EXPECT_EQ(tokens.status().code(), absl::StatusCode::kInvalidArgument) << config;
    EXPECT_EQ(Message(tokens.status()).find("tokenizer_config.json: "), 0u) << tokens.status();
  }
}

}  // namespace
}  // namespace optiq
