// The golden models whose tokenizers are tested: one per kind of tokenizer. Test code only.
#ifndef OPTIQ_TEXT_TEST_MODELS_H_
#define OPTIQ_TEXT_TEST_MODELS_H_

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "base/file.h"
#include "text/chat_template.h"
#include "text/ordered_json.h"
#include "text/tokenizer.h"

namespace optiq {

struct TestModel {
  std::string kind;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::optional<ChatTemplate> chat_template;
  OrderedJson expected;  // its entry of expected/tokenizers.json
};

inline std::string GoldenPath(const std::string& name) { return std::string(OPTIQ_TEST_DATA) + "/goldens/" + name; }

inline TestModel LoadTestModel(const std::string& kind) {
  TestModel out{kind, nullptr, {}, {}};
  auto text = ReadTextFile(GoldenPath("expected/tokenizers.json"), 64 << 20);
  EXPECT_TRUE(text.ok()) << text.status();
  auto all = ParseOrderedJson(*text, "tokenizers.json");
  EXPECT_TRUE(all.ok()) << all.status();
  out.expected = (*all)[kind];
  auto checkpoint = Checkpoint::Open(GoldenPath("models/" + out.expected["model"].get<std::string>()));
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  auto tokenizer = Tokenizer::Load(**checkpoint);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  out.tokenizer = *tokenizer;
  auto chat_template = ChatTemplate::Load(**checkpoint);
  EXPECT_TRUE(chat_template.ok()) << chat_template.status();
  out.chat_template = *chat_template;
  return out;
}

inline const char* const kTestKinds[] = {"gemma3", "qwen", "llama3"};

// Pieces of several scripts, spaces and, if given, control tokens.
inline std::string RandomText(std::mt19937& random, const std::vector<std::string>& control = {}) {
  static const char* const kPieces[] = {
      "the sum of ", "12",  " and 30?", "\n",    "  ",   "Größe ",  "中文字", "👩‍👩‍👧",
      "e\u0301",     "<b>", "|",        "<|",    "\t",   "привет ", "x=1;",   "<",
      "[",           "½",   "\u200b",   "don't", "</a>", ">"};
  std::string out;
  for (size_t n = random() % 12; n > 0; --n) {
    if (!control.empty() && random() % 3 == 0) {
      out += control[random() % control.size()];
    } else {
      out += kPieces[random() % std::size(kPieces)];
    }
  }
  return out;
}

// All control tokens of a tokenizer.
inline std::vector<std::string> ControlTokens(const Tokenizer& tokenizer) {
  std::vector<std::string> out;
  for (int32_t id = 0; id < tokenizer.vocab_limit(); ++id) {
    if (tokenizer.IsControl(id)) out.push_back(*tokenizer.TokenText(id));
  }
  return out;
}

}  // namespace optiq

#endif  // OPTIQ_TEXT_TEST_MODELS_H_
