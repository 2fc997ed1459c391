#include "text/ordered_json.h"

#include <gtest/gtest.h>

namespace optiq {
namespace {

TEST(OrderedJsonTest, KeepsOrder) {
  const char* text = R"({"z":[1,{"b":null,"a":[true,-2,3.5,"x"]}],"a":{}})";
  auto json = ParseOrderedJson(text, "test");
  ASSERT_TRUE(json.ok()) << json.status();
  EXPECT_EQ(json->dump(), text);
  EXPECT_EQ(ParseOrderedJson("5", "test")->get<int>(), 5);
}

TEST(OrderedJsonTest, Limits) {
  EXPECT_TRUE(ParseOrderedJson("[[]]", "test", {.max_depth = 2}).ok());
  EXPECT_FALSE(ParseOrderedJson("[[[]]]", "test", {.max_depth = 2}).ok());
  EXPECT_FALSE(ParseOrderedJson("[1,2,3]", "test", {.max_values = 3}).ok());
  EXPECT_FALSE(ParseOrderedJson(std::string(100'000, '['), "test").ok());
  for (const char* bad : {"", "{", "[1,]", R"({"a":1,"b":2,"a":3})", "1e999", "\"\xff\"", "{} {}", "nul"}) {
    auto json = ParseOrderedJson(bad, "body");
    EXPECT_EQ(json.status().code(), absl::StatusCode::kDataLoss) << bad;
    EXPECT_EQ(Message(json.status()).find("body: "), 0u);
  }
}

TEST(OrderedJsonTest, DeeperThan) {
  OrderedJson json = OrderedJson::parse("[1,[2,{\"a\":3}]]");
  EXPECT_FALSE(DeeperThan(json, 3));
  EXPECT_TRUE(DeeperThan(json, 2));
  EXPECT_FALSE(DeeperThan(OrderedJson(1), 0));
}

}  // namespace
}  // namespace optiq
