// Damaged tokenizer.json files: an error or a working tokenizer, never a crash.
#include <gtest/gtest.h>

#include "text/test_models.h"
#include "text/text_stream.h"

namespace optiq {
namespace {

// Loads and, if that works, uses the tokenizer. Returns whether it loaded.
bool Try(const std::string& json) {
  auto tokenizer = Tokenizer::FromJson(json);
  if (!tokenizer.ok()) {
    EXPECT_EQ(Message(tokenizer.status()).find("tokenizer.json: "), 0u) << tokenizer.status();
    EXPECT_EQ(Message(tokenizer.status()).find('\n'), std::string::npos);
    return false;
  }
  for (EncodeMode mode : {EncodeMode::kPlain, EncodeMode::kWithSpecial, EncodeMode::kLiteral, EncodeMode::kGuarded}) {
    auto ids = (*tokenizer)->Encode("The sum of 12, Größe 中 <|im_end|> 👩 \x01", mode);
    if (!ids.ok()) continue;
    EXPECT_TRUE((*tokenizer)->Decode(*ids, true).ok() || true);
    auto stream = TextStream::Create(**tokenizer, false);
    for (int32_t id : *ids) {
      if (!stream->Push(id).ok()) break;
    }
  }
  return true;
}

class TokenizerDamageTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    TestModel model = LoadTestModel(GetParam());
    json_ =
        *ReadTextFile(GoldenPath("models/" + model.expected["model"].get<std::string>() + "/tokenizer.json"), 1 << 20);
    ASSERT_TRUE(Try(json_));
  }
  std::string json_;
};

TEST_P(TokenizerDamageTest, Truncated) {
  for (size_t size = 0; size + 2 < json_.size(); size += 1 + json_.size() / 150)
    EXPECT_FALSE(Try(json_.substr(0, size))) << size;
}

TEST_P(TokenizerDamageTest, FlippedBytes) {
  std::mt19937 random(3);
  int loaded = 0;
  for (int i = 0; i < 400; ++i) {
    std::string damaged = json_;
    // Half of the flips hit the part before the vocabulary, where the pipeline is described.
    size_t range = i % 2 == 0 ? damaged.size() : damaged.find("\"vocab\"");
    for (int n = 1 + static_cast<int>(random() % 3); n > 0; --n) {
      damaged[random() % range] = "0123456789abcdef\"{}[],: \\<>"[random() % 27];
    }
    loaded += Try(damaged);
  }
  EXPECT_GT(loaded, 0);
  EXPECT_LT(loaded, 400);
}

TEST_P(TokenizerDamageTest, MissingAndRepeatedParts) {
  Json whole = Json::parse(json_);
  for (const auto& [key, value] : whole.items()) {
    for (const Json& other : {Json(), Json(1), Json::array(), Json::object(), Json("x"), Json::array({value, value})}) {
      Json damaged = whole;
      damaged[key] = other;
      Try(damaged.dump());
    }
    Json without = whole;
    without.erase(key);
    Try(without.dump());
  }
  for (const auto& [key, value] : whole["model"].items()) {
    Json damaged = whole;
    damaged["model"][key] = Json::array({1, "a"});
    Try(damaged.dump());
    damaged["model"].erase(key);
    Try(damaged.dump());
  }
}

TEST(TokenizerDamageTest, NotATokenizer) {
  const std::string deep(100'000, '[');
  for (const std::string& json : {std::string(), std::string("{}"), std::string("null"), deep, std::string("\xff\xfe"),
                                  std::string("version https://git-lfs.github.com/spec/v1\n")}) {
    EXPECT_FALSE(Try(json));
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, TokenizerDamageTest, testing::ValuesIn(kTestKinds),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace optiq
