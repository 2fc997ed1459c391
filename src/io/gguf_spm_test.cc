#include "io/gguf_spm.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>

#include "io/gguf_text.h"

namespace optiq {
namespace {

std::vector<std::string_view> Views(const std::vector<std::string>& texts) { return {texts.begin(), texts.end()}; }

// Left and right text of each merge.
std::vector<std::pair<std::string, std::string>> Texts(const std::vector<std::string>& tokens,
                                                       const std::vector<SpmMerge>& merges) {
  std::vector<std::pair<std::string, std::string>> out;
  for (const SpmMerge& m : merges)
    out.emplace_back(tokens[m.piece].substr(0, m.split), tokens[m.piece].substr(m.split));
  return out;
}

TEST(SpmMerges, RanksByScoreThenLength) {
  const std::vector<std::string> tokens = {"a", "b", "c", "ab", "bc", "abc", "\u00e9", "a\u00e9", "\xc3"};
  const std::vector<float> scores = {-9, -9, -9, -2, -1, -3, -9, -2, -9};
  std::vector<bool> use(tokens.size(), true);
  use[8] = false;  // half a character
  const auto merges = SpmMerges(Views(tokens), scores, use);
  ASSERT_TRUE(merges.ok());
  using Pairs = std::vector<std::pair<std::string, std::string>>;
  EXPECT_EQ(Texts(tokens, *merges), (Pairs{{"b", "c"}, {"a", "b"}, {"a", "\u00e9"}, {"ab", "c"}, {"a", "bc"}}));
  use[4] = false;
  EXPECT_EQ(Texts(tokens, *SpmMerges(Views(tokens), scores, use)), (Pairs{{"a", "b"}, {"a", "\u00e9"}, {"ab", "c"}}));
}

TEST(SpmMerges, EqualBruteForceOnRandomVocabularies) {
  std::mt19937 rng(7);
  for (int round = 0; round < 20; ++round) {
    std::vector<std::string> tokens;
    for (int i = 0; i < 300; ++i) {
      std::string text;
      for (uint32_t n = rng() % 6 + 1; n > 0; --n) text += "ab\n"[rng() % 3];
      if (std::find(tokens.begin(), tokens.end(), text) == tokens.end()) tokens.push_back(text);
    }
    std::vector<float> scores;
    std::vector<bool> use;
    for (size_t i = 0; i < tokens.size(); ++i) {
      scores.push_back(static_cast<float>(static_cast<int>(rng() % 5) - 2));  // ties, both signs, zero
      use.push_back(rng() % 8 != 0);
    }
    struct Row {
      float score;
      size_t left, right;
      SpmMerge merge;
    };
    std::vector<Row> rows;
    const auto has = [&](const std::string& text) {
      const auto it = std::find(tokens.begin(), tokens.end(), text);
      return it != tokens.end() && use[it - tokens.begin()];
    };
    for (uint32_t i = 0; i < tokens.size(); ++i) {
      for (uint32_t k = 1; use[i] && k < tokens[i].size(); ++k) {
        if (has(tokens[i].substr(0, k)) && has(tokens[i].substr(k)))
          rows.push_back({scores[i], k, tokens[i].size() - k, {i, k}});
      }
    }
    std::stable_sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) {
      return std::tuple(b.score, b.left, b.right) < std::tuple(a.score, a.left, a.right);
    });
    const auto merges = SpmMerges(Views(tokens), scores, use);
    ASSERT_TRUE(merges.ok());
    ASSERT_EQ(merges->size(), rows.size());
    for (size_t i = 0; i < rows.size(); ++i) {
      EXPECT_EQ((*merges)[i].piece, rows[i].merge.piece) << i;
      EXPECT_EQ((*merges)[i].split, rows[i].merge.split) << i;
    }
  }
}

TEST(SpmMerges, StopsAtAMadeUpVocabulary) {
  std::vector<std::string> tokens;
  for (size_t n = 1; n <= 3000; ++n) tokens.push_back(std::string(n, 'a'));  // 4.5 million merges
  const std::vector<float> scores(tokens.size(), 0);
  EXPECT_EQ(SpmMerges(Views(tokens), scores, std::vector<bool>(tokens.size(), true)).status().code(),
            absl::StatusCode::kResourceExhausted);
}

TEST(FindDuplicateToken, ReportsTheSecond) {
  const std::vector<std::string> tokens = {"a", "b", "", "a", "b"};
  EXPECT_EQ(FindDuplicateToken(Views(tokens), {true, true, true, true, true}), 3u);
  EXPECT_EQ(FindDuplicateToken(Views(tokens), {true, true, true, false, true}), 4u);
  EXPECT_EQ(FindDuplicateToken(Views(tokens), {true, true, true, false, false}), std::nullopt);
}

TEST(GgufText, ChecksUtf8) {
  for (const char* good : {"", "abc", "\u00e9\u2581\uffff", "\xf0\x9f\x98\x80", "\xed\x9f\xbf", "\xf4\x8f\xbf\xbf"}) {
    EXPECT_TRUE(IsUtf8(good)) << good;
  }
  for (const char* bad : {"\x80", "\xc0\x80", "\xc1\xbf", "\xc3", "\xe0\x80\x80", "\xe2\x96", "\xed\xa0\x80",
                          "\xf0\x80\x80\x80", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff", "a\xe2\x28\xa1"}) {
    EXPECT_FALSE(IsUtf8(bad)) << testing::PrintToString(std::string(bad));
  }
}

TEST(GgufText, EscapesJson) {
  std::string out;
  AppendJsonString(std::string_view("a\"\\\n\x1f\0z/\u00e9", 10), &out);
  EXPECT_EQ(out, "\"a\\\"\\\\\\u000a\\u001f\\u0000z/\u00e9\"");
}

}  // namespace
}  // namespace optiq
