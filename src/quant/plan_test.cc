#include "quant/plan.h"

#include <gtest/gtest.h>

#include <functional>

namespace optiq {
namespace {

Plan Example() {
  Plan plan;
  plan.base_model = "m";
  plan.origin = "allocation";
  plan.default_format = {5, 128};
  plan.entries["model.embed_tokens"] = {{8, 32}, "rtn", false};
  plan.entries["model.layers.0.mlp.up_proj"] = {{3, 64}, "search", false};
  plan.entries["model.layers.0.mlp.gate"] = {{}, "rtn", true};
  return plan;
}

TEST(Plan, RoundTrip) {
  Plan plan = Example();
  StatusOr<Json> json = ParseJson(plan.ToJson().dump(2), "plan.json");
  ASSERT_TRUE(json.ok());
  StatusOr<Plan> back = Plan::FromJson(*json, "plan.json");
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->base_model, plan.base_model);
  EXPECT_EQ(back->origin, plan.origin);
  EXPECT_EQ(back->default_format, plan.default_format);
  EXPECT_EQ(back->entries, plan.entries);
  EXPECT_EQ((*json)["layers"]["model.layers.0.mlp.gate"], false);
}

TEST(Plan, BytesThatAreNotUtf8CanBeWritten) {
  Plan plan = Example();
  plan.base_model = plan.origin = "/models/\xFF";
  plan.entries["a\xFF"] = {};
  EXPECT_NO_THROW(plan.ToJson().dump());
}

TEST(Plan, WrittenByHand) {
  StatusOr<Json> json = ParseJson(
      R"({"version": 1, "comment": "v at 6 bits", "default": {"bits": 4, "group_size": 64},
          "layers": {"a": {"bits": 6}, "b": {"group_size": 32}, "c": {}, "d": false}})",
      "p.json");
  ASSERT_TRUE(json.ok());
  StatusOr<Plan> plan = Plan::FromJson(*json, "p.json");
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->origin, "file p.json");
  EXPECT_EQ(plan->entries["a"], (PlanEntry{{6, 64}, "rtn", false}));
  EXPECT_EQ(plan->entries["b"], (PlanEntry{{4, 32}, "rtn", false}));
  EXPECT_EQ(plan->entries["c"], (PlanEntry{{4, 64}, "rtn", false}));
  EXPECT_TRUE(plan->entries["d"].dense);
}

TEST(Plan, BadJsonGivesClearErrors) {
  struct Case {
    std::function<void(Json&)> spoil;
    const char* expected;
  };
  const std::string up = "model.layers.0.mlp.up_proj";
  const Case cases[] = {
      {[](Json& j) { j = 4; }, "must be a JSON object"},
      {[](Json& j) { j.erase("version"); }, "'version' is missing"},
      {[](Json& j) { j["version"] = 9; }, "version 9 is not known"},
      {[](Json& j) { j["layer"] = Json::object(); }, "unknown field 'layer'"},
      {[](Json& j) { j.erase("default"); }, "'default' must be an object"},
      {[](Json& j) { j["default"].erase("bits"); }, "default: field 'bits' is missing"},
      {[](Json& j) { j["default"]["bits"] = 1; }, "bits is 1"},
      {[](Json& j) { j["layers"] = Json::array(); }, "'layers' must be an object"},
      {[&](Json& j) { j["layers"][up] = true; }, "or false to leave it dense"},
      {[&](Json& j) { j["layers"][up] = 8; }, "or false to leave it dense"},
      {[&](Json& j) { j["layers"][up]["bit"] = 8; }, "unknown field 'bit'"},
      {[&](Json& j) { j["layers"][up]["bits"] = 16; }, "bits is 16"},
      {[&](Json& j) { j["layers"][up]["group_size"] = -64; }, "group_size is -64"},
      {[&](Json& j) { j["layers"][up]["encoder"] = ""; }, "not an encoder name"},
      {[&](Json& j) { j["layers"][up]["encoder"] = 1; }, "'encoder' must be a string"},
      {[&](Json& j) { j["layers"][""] = false; }, "a module path must have"},
  };
  for (const Case& c : cases) {
    Json json = Example().ToJson();
    c.spoil(json);
    StatusOr<Plan> plan = Plan::FromJson(json, "p.json");
    ASSERT_FALSE(plan.ok()) << c.expected;
    EXPECT_EQ(plan.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(Message(plan.status()).find(c.expected), std::string::npos) << plan.status();
    EXPECT_EQ(Message(plan.status()).rfind("p.json: ", 0), 0u) << plan.status();
  }
}

}  // namespace
}  // namespace optiq
