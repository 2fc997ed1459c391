#include "engine/scoped_stops.h"
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

Outcome FeedScoped(const StopScope& scope, const std::vector<std::string>& stops, const std::vector<std::string>& pieces) {
  ScopedStops matcher = *ScopedStops::Create(stops, scope);
  Outcome out;
  for (const std::string& piece : pieces) {
    out.text += matcher.Push(piece);
    if (matcher.matched()) break;
  }
  if (!matcher.matched()) out.text += matcher.Finish("");
  out.matched = matcher.matched();
  if (out.matched) out.stop = matcher.stop();
  return out;
}

TEST(ScopedStops, ThoughtsAreNotSearched) {
  const StopScope think = {.open = "<think>", .close = "</think>"};
  StopScope inside = think, anywhere = think;
  inside.inside = anywhere.anywhere = true;
  const struct {
    StopScope scope;
    std::vector<std::string> stops;
    std::string text;
    Outcome want;
  } cases[] = {
      {think, {"b"}, "abc", {"a", true, "b"}},
      {think, {"b"}, "<think>b</think>abc", {"<think>b</think>a", true, "b"}},
      {think, {"b"}, " \n<think>b</think>\n<think>b</think>c", {" \n<think>b</think>\n<think>b</think>c", false, ""}},
      {think, {"b"}, "a<think>b</think>c", {"a<think>", true, "b"}},  // too late for a thought
      {anywhere, {"b"}, "a<think>b</think>cb", {"a<think>b</think>c", true, "b"}},
      {inside, {"b"}, "b</thin</think>b", {"b</thin</think>", true, "b"}},
      {inside, {"b"}, "never closed b", {"never closed b", false, ""}},
      {think, {"<"}, "<think>x</think>y<z", {"<think>x</think>y", true, "<"}},
      {think, {"<"}, "<thin", {"", true, "<"}},
      {think, {"nk>"}, "<think>x</think>", {"<think>x</think>", false, ""}},
      {anywhere, {"ax"}, "a<think></think>x", {"a<think></think>x", false, ""}},
      {anywhere, {"<t"}, "<<think>", {"<<think>", false, ""}},
      {{}, {"b"}, "<think>b", {"<think>", true, "b"}},
  };
  std::mt19937 random(3);
  for (const auto& c : cases) {
    EXPECT_EQ(FeedScoped(c.scope, c.stops, {c.text}), c.want) << c.text;
    for (int round = 0; round < 40; ++round) {
      std::vector<std::string> pieces;
      for (size_t at = 0; at < c.text.size();) {
        const size_t n = 1 + random() % (round < 5 ? 1 : 5);
        pieces.push_back(c.text.substr(at, n));
        at += n;
      }
      EXPECT_EQ(FeedScoped(c.scope, c.stops, pieces), c.want) << c.text;
    }
  }
}

}  // namespace
}  // namespace optiq
