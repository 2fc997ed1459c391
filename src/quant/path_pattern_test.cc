#include "quant/path_pattern.h"

#include <gtest/gtest.h>

namespace optiq {
namespace {

bool Match(std::string_view pattern, std::string_view path) {
  StatusOr<PathPattern> p = PathPattern::Compile(pattern);
  EXPECT_TRUE(p.ok()) << p.status();
  StatusOr<bool> m = p->Matches(path);
  EXPECT_TRUE(m.ok()) << m.status();
  return m.value_or(false);
}

TEST(PathPattern, MatchesAnywhere) {
  EXPECT_TRUE(Match("down_proj", "model.layers.3.mlp.down_proj"));
  EXPECT_TRUE(Match("layers\\.(0|29)\\.", "model.layers.29.mlp.up_proj"));
  EXPECT_FALSE(Match("layers\\.(0|29)\\.", "model.layers.2.mlp.up_proj"));
  EXPECT_TRUE(Match("^model\\.embed_tokens$", "model.embed_tokens"));
  EXPECT_FALSE(Match("^model\\.embed_tokens$", "model.embed_tokens_per_layer"));
  EXPECT_TRUE(Match("layers\\.\\d{2}\\.", "model.layers.12.mlp.up_proj"));
}

TEST(PathPattern, RefusesBadPatterns) {
  for (std::string pattern :
       {std::string(), std::string("("), std::string("[z-a]"), std::string(257, 'a'), std::string("(a)\\1"),
        std::string("a{65}"), std::string("((a{9}){9})"), std::string("(a?){9999999999}"), std::string("*")}) {
    StatusOr<PathPattern> p = PathPattern::Compile(pattern);
    EXPECT_FALSE(p.ok()) << pattern;
    EXPECT_EQ(p.status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(PathPattern, NamesThePatternInTheError) {
  EXPECT_NE(Message(PathPattern::Compile("(oops").status()).find("'(oops'"), std::string::npos);
}

TEST(PathPattern, HostilePatternsEnd) {
  // Exponential in a backtracking matcher; must end at once here.
  std::string path(1000, 'a');
  EXPECT_FALSE(Match("(a+)+b$", path));
  EXPECT_FALSE(Match("(a|a)*b", path));
  EXPECT_FALSE(Match("(a?){64}(a*)*b", path));
  EXPECT_TRUE(Match(std::string(120, '(') + "a" + std::string(120, ')'), path));
}

}  // namespace
}  // namespace optiq
