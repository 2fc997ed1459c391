#include "engine/stop_matcher.h"

#include <gtest/gtest.h>

#include <random>

namespace optiq {
namespace {

struct Outcome {
  std::string text;
  bool matched;
  std::string stop;
  bool operator==(const Outcome&) const = default;
};

Outcome Feed(const std::vector<std::string>& stops, const std::vector<std::string>& pieces) {
  StopMatcher matcher = *StopMatcher::Create(stops);
  Outcome out;
  for (const std::string& piece : pieces) {
    out.text += matcher.Push(piece);
    if (matcher.matched()) break;
  }
  out.text += matcher.Flush();
  out.matched = matcher.matched();
  if (out.matched) out.stop = matcher.stop();
  return out;
}

TEST(StopMatcher, NoStopsPassesEverythingAtOnce) {
  StopMatcher matcher = *StopMatcher::Create({});
  EXPECT_EQ(matcher.Push("abc"), "abc");
  EXPECT_EQ(matcher.Flush(), "");
}

TEST(StopMatcher, RefusesEmptyStop) { EXPECT_FALSE(StopMatcher::Create({"a", ""}).ok()); }

TEST(StopMatcher, AcrossPieces) {
  EXPECT_EQ(Feed({"</s>"}, {"hello<", "/", "s", "> more"}), (Outcome{"hello", true, "</s>"}));
}

TEST(StopMatcher, HoldsBackAPossibleBeginningOnly) {
  StopMatcher matcher = *StopMatcher::Create({"\n\nQ:"});
  EXPECT_EQ(matcher.Push("A\n"), "A");
  EXPECT_EQ(matcher.Push("B"), "\nB");
  EXPECT_EQ(matcher.Push("\n\n"), "");
  EXPECT_EQ(matcher.Flush(), "\n\n");
}

TEST(StopMatcher, SelfOverlappingPattern) {
  EXPECT_EQ(Feed({"aab"}, {"aa", "aa", "b"}), (Outcome{"aa", true, "aab"}));
  EXPECT_EQ(Feed({"abab c"}, {"ababab c"}), (Outcome{"ab", true, "abab c"}));
}

TEST(StopMatcher, TheFirstCompleteWinsThenTheLongest) {
  EXPECT_EQ(Feed({"bcde", "cd"}, {"abcde"}), (Outcome{"ab", true, "cd"}));
  EXPECT_EQ(Feed({"d", "bcd"}, {"abcde"}), (Outcome{"a", true, "bcd"}));
}

// Against the plain definition, at every way to cut random texts over a small alphabet.
TEST(StopMatcher, DoesNotDependOnTheCuts) {
  std::mt19937 rng(3);
  auto text_of = [&](int n) {
    std::string s;
    for (int i = 0; i < n; ++i) s += static_cast<char>('a' + rng() % 2);
    return s;
  };
  for (int round = 0; round < 3000; ++round) {
    const std::string text = text_of(rng() % 14);
    std::vector<std::string> stops;
    for (int i = rng() % 3; i >= 0; --i) stops.push_back(text_of(2 + rng() % 4));
    Outcome expected{text, false, ""};
    for (size_t end = 1; end <= text.size() && !expected.matched; ++end) {
      for (const std::string& stop : stops) {
        if (end >= stop.size() && text.compare(end - stop.size(), stop.size(), stop) == 0 &&
            stop.size() > expected.stop.size()) {
          expected = {text.substr(0, end - stop.size()), true, stop};
        }
      }
    }
    std::vector<std::string> pieces(1);
    for (char c : text) {
      if (rng() % 2) pieces.emplace_back();
      pieces.back() += c;
    }
    EXPECT_EQ(Feed(stops, pieces), expected) << text;
  }
}

}  // namespace
}  // namespace optiq
