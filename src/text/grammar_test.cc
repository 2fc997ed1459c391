#include "text/grammar.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <random>

#include "text/test_models.h"

namespace optiq {
namespace {

std::vector<int32_t> EndIds(const Tokenizer& tokenizer) { return {*tokenizer.TokenId(*tokenizer.eos_token())}; }

// A random walk over what the masks allow, to the end.
std::string Walk(const Tokenizer& tokenizer, GrammarMatcher* matcher, const std::vector<int32_t>& ends,
                 std::mt19937* random, int most) {
  std::vector<int32_t> ids;
  std::vector<float> logits(tokenizer.vocab_limit());
  for (int i = 0; i < most; ++i) {
    std::fill(logits.begin(), logits.end(), 0.0f);
    EXPECT_TRUE(matcher->Mask(logits).ok());
    std::vector<int32_t> allowed;
    for (size_t id = 0; id < logits.size(); ++id) {
      if (std::isfinite(logits[id])) allowed.push_back(static_cast<int32_t>(id));
    }
    if (allowed.empty()) {
      ADD_FAILURE() << "nothing is allowed";
      break;
    }
    const int32_t id = allowed[(*random)() % allowed.size()];
    if (id == ends[0]) break;
    EXPECT_FALSE(tokenizer.IsControl(id));
    EXPECT_FALSE(matcher->done());
    const Status status = matcher->Accept(id);
    EXPECT_TRUE(status.ok()) << status;
    ids.push_back(id);
  }
  return *tokenizer.Decode(ids, false);
}

TEST(GrammarTest, WalksGiveValidJson) {
  std::mt19937 random(3);
  for (const char* kind : kTestKinds) {
    const TestModel model = LoadTestModel(kind);
    const std::vector<int32_t> ends = EndIds(*model.tokenizer);
    const auto grammar = Grammar::Create(*model.tokenizer, ends, model.tokenizer->vocab_limit());
    ASSERT_TRUE(grammar.ok()) << grammar.status();
    for (int round = 0; round < 10; ++round) {
      auto matcher = (*grammar)->Match(
          "json_schema",
          R"({"type":"object","properties":{"a":{"enum":["x","yy"]},"b":{"type":"boolean"},"c":{"type":"array",
          "items":{"type":"integer","minimum":0,"maximum":99},"maxItems":3}},"required":["a","b","c"],"additionalProperties":false,
          "x-guidance":{"whitespace_flexible":false,"item_separator":", ","key_separator":": "}})");
      ASSERT_TRUE(matcher.ok()) << matcher.status();
      const std::string text = Walk(*model.tokenizer, &*matcher, ends, &random, 400);
      const Json json = Json::parse(text, nullptr, false);
      ASSERT_TRUE(json.is_object()) << text;
      EXPECT_TRUE(json["a"] == "x" || json["a"] == "yy");
      EXPECT_TRUE(json["b"].is_boolean());
      EXPECT_LE(json["c"].size(), 3u);
    }
  }
}

TEST(GrammarTest, BrokenSchemas) {
  const TestModel model = LoadTestModel("qwen");
  const auto grammar = Grammar::Create(*model.tokenizer, EndIds(*model.tokenizer), model.tokenizer->vocab_limit());
  ASSERT_TRUE(grammar.ok()) << grammar.status();
  std::string deep;
  for (int i = 0; i < 1000; ++i) deep += R"({"type":"array","items":)";
  deep += "{}" + std::string(1000, '}');
  for (const std::string& text :
       {std::string("{"), std::string(R"({"type":"nonsense"})"), std::string(R"({"type":"string","pattern":"(a"})"),
        std::string(R"({"not":{}})"), std::string(R"({"$ref":"http://example.com/x"})"),
        std::string(R"({"type":"string","pattern":"(?=a)b"})"), deep, std::string(2 << 20, ' ')}) {
    EXPECT_FALSE((*grammar)->Match("json_schema", text).ok()) << text.substr(0, 80);
  }
  // Bombs are refused, or cost little.
  for (const char* text :
       {R"({"type":"string","pattern":"((a{1000}){1000}){1000}"})", R"({"type":"string","maxLength":1000000000})",
        R"({"type":"string","pattern":"(a?){5000}a{5000}"})",
        R"({"type":"array","minItems":1000000000,"items":{"type":"integer"}})"}) {
    const auto start = std::chrono::steady_clock::now();
    auto matcher = (*grammar)->Match("json_schema", text);
    std::vector<float> logits(model.tokenizer->vocab_limit());
    if (matcher.ok()) (void)matcher->Mask(logits);
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(1)) << text;
  }
  EXPECT_FALSE(Grammar::Create(*model.tokenizer, {}, 100).ok());
}

}  // namespace
}  // namespace optiq
