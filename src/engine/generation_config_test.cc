#include "engine/generation_config.h"

#include <gtest/gtest.h>

namespace optiq {
namespace {

StatusOr<GenerationConfig> Parse(std::string_view text) {
  auto json = ParseJson(text, "g.json");
  if (!json.ok()) return json.status();
  return ParseGenerationConfig(*json, "g.json");
}

using Ids = std::vector<int32_t>;

TEST(GenerationConfig, EosIsAnIdOrAList) {
  EXPECT_EQ(*Parse(R"({"eos_token_id": 2})")->eos_token_ids, Ids{2});
  EXPECT_EQ(*Parse(R"({"eos_token_id": [1, 106]})")->eos_token_ids, (Ids{1, 106}));
  EXPECT_FALSE(Parse("{}")->eos_token_ids.has_value());
  EXPECT_FALSE(Parse(R"({"eos_token_id": null})")->eos_token_ids.has_value());
}

TEST(GenerationConfig, RefusesWhatIsNoId) {
  for (const char* bad : {R"("2")", "-1", "1.5", "[[1]]", "3000000000", "true", "[1, null]", "{}"}) {
    const auto config = Parse(fmt::format(R"({{"eos_token_id": {}}})", bad));
    ASSERT_FALSE(config.ok()) << bad;
    EXPECT_NE(Message(config.status()).find("g.json: field 'eos_token_id'"), std::string::npos) << bad;
  }
}

TEST(GenerationConfig, Sampling) {
  const auto config = Parse(R"({"do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.1,
                               "repetition_penalty": 1.05, "suppress_tokens": [3]})");
  ASSERT_TRUE(config.ok()) << config.status();
  const SamplingParams params = config->ToSampling();
  EXPECT_EQ(params.temperature, 0.6);
  EXPECT_EQ(params.top_k, 20);
  EXPECT_EQ(params.top_p, 0.95);
  EXPECT_EQ(params.min_p, 0.1);
  EXPECT_EQ(params.repetition_penalty, 1.05);
  EXPECT_EQ(params.suppress_tokens, Ids{3});
}

TEST(GenerationConfig, GreedyUnlessDoSample) {
  EXPECT_EQ(Parse(R"({"temperature": 0.6, "top_k": 20})")->ToSampling().temperature, 0);
  EXPECT_EQ(Parse(R"({"do_sample": true})")->ToSampling().temperature, 1);
}

TEST(GenerationConfig, RefusesAbsurdValues) {
  for (const char* bad : {R"({"do_sample": true, "temperature": -1})", R"({"do_sample": true, "top_p": 2})",
                          R"({"do_sample": true, "top_k": -5})", R"({"temperature": "hot"})", R"({"do_sample": 1})",
                          R"({"repetition_penalty": -1})", "[]"}) {
    EXPECT_FALSE(Parse(bad).ok()) << bad;
  }
}

TEST(EndOfTextIds, GenerationConfigComesFirst) {
  const Json config = Json::parse(R"({"eos_token_id": [9, 3, 9]})");
  EXPECT_EQ(*EndOfTextIds(*Parse(R"({"eos_token_id": 2})"), config, "c", nullptr), Ids{2});
  EXPECT_EQ(*EndOfTextIds(*Parse("{}"), config, "c", nullptr), (Ids{3, 9}));
  EXPECT_EQ(*EndOfTextIds(*Parse("{}"), Json::parse(R"({"text_config": {"eos_token_id": 7}})"), "c", nullptr), Ids{7});
  EXPECT_EQ(*EndOfTextIds(*Parse("{}"), Json::object(), "c", nullptr), Ids{});
  EXPECT_FALSE(EndOfTextIds(*Parse("{}"), Json::parse(R"({"eos_token_id": "x"})"), "c", nullptr).ok());
}

}  // namespace
}  // namespace optiq
