#include "kv/kv_config.h"

#include <gtest/gtest.h>

#include <fstream>

#include "io/test_util.h"

namespace optiq {
namespace {

using test::ExpectError;

// Four layers: full, ring, a reader of the ring, full with heads of 96.
KvGeometry Geometry() {
  return {{.heads = 2, .head_dim = 128},
          {.heads = 2, .head_dim = 64, .window = 32},
          {.donor = 1},
          {.heads = 1, .head_dim = 96}};
}

StatusOr<KvPlan> Parse(const std::string& text) {
  auto json = ParseJson(text, "kv.json");
  if (!json.ok()) return json.status();
  return ParseKvConfig(*json, Geometry(), "f00d", "kv.json");
}

const std::string kGood =
    R"([{"layer_idx":0,"bits":4,"group_size":64},{"layer_idx":1,"bits":8},{"layer_idx":3,"bits":16}])";

TEST(KvConfig, ReadsTheListOfMlxOptiq) {
  auto plan = Parse(kGood);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->layers[0].keys, (KvFormat{4, 64}));
  EXPECT_EQ(plan->layers[0].values, (KvFormat{4, 64}));
  EXPECT_EQ(plan->layers[1].keys, (KvFormat{8, 64}));
  EXPECT_FALSE(plan->layers[3].quantized());
}

TEST(KvConfig, WritesBothSchemas) {
  auto plan = Parse(kGood);
  ASSERT_TRUE(plan.ok());
  auto again = Parse(KvConfigToList(*plan, Geometry()).dump());
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->layers, plan->layers);
  plan->layers[0].values = {3, 32};
  plan->layers[0].dense_first = 4;
  plan->layers[1].dense_recent = 64;
  plan->quantized_start = 100;
  again = Parse(KvConfigToJson(*plan, Geometry()).dump());
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->layers, plan->layers);
  EXPECT_EQ(again->quantized_start, 100);
}

TEST(KvConfig, RefusesWhatCannotBeApplied) {
  const auto bad = [](const std::string& text, const std::string& message) {
    const Status status = Parse(text).status();
    EXPECT_FALSE(status.ok()) << text;
    EXPECT_NE(Message(status).find(message), std::string::npos) << status;
    EXPECT_EQ(Message(status).find('\n'), std::string::npos);
  };
  const auto with = [](const std::string& entry) {
    return R"([{"layer_idx":0,"bits":4},{"layer_idx":1,"bits":4},)" + entry + "]";
  };
  bad(with(R"({"layer_idx":3,"bits":4})"), "layer 3: its head size 96 is not a multiple of the group size 64");
  bad(with(R"({"layer_idx":3,"bits":7,"group_size":32})"), "layer 3: bits is 7");
  bad(with(R"({"layer_idx":3,"bits":0})"), "layer 3: bits is 0");
  bad(with(R"({"layer_idx":3,"bits":4,"group_size":48})"), "layer 3: group_size is 48");
  bad(with(R"({"layer_idx":3,"bits":"4"})"), "bits");
  bad(with(R"({"layer_idx":3,"bits":4.5})"), "bits");
  bad(with(R"({"layer_idx":3})"), "bits");
  bad(with(R"({"layer_idx":3,"bits":4,"group_size":"32"})"), "group_size");
  bad(with(R"({"layer_idx":4,"bits":4})"), "layer_idx 4 does not exist; the model has 4 layers");
  bad(with(R"({"layer_idx":-1,"bits":4})"), "layer_idx -1 does not exist");
  bad(with(R"({"layer_idx":1,"bits":4})"), "layer 1 is there twice");
  bad(with(R"({"layer_idx":2,"bits":4})"), "it reads those of layer 1");
  bad(with(R"({"bits":4})"), "entry 2: layer_idx is missing");
  bad(with("17"), "entry 2: must be an object");
  bad(R"([{"layer_idx":0,"bits":4},{"layer_idx":3,"bits":16}])", "layer 1 is missing");
  bad("[]", "layer 0 is missing");
  bad("{}", "optiq-kv-config");
  bad("3", "must be a list");
  const std::string head = R"({"format":"optiq-kv-config","version":)";
  bad(head + R"(2,"layers":[]})", "version");
  bad(head + "1}", "'layers' must be a list");
  bad(head + R"(1,"model":"beef","layers":[]})", "another model");
  bad(head + R"(1,"quantized_kv_start":-1,"layers":[]})", "quantized_kv_start");
  bad(head + R"(1,"layers":[{"layer_idx":0,"bits":4}]})", "'keys' must be an object");
  bad(head + R"(1,"layers":[{"layer_idx":0,"keys":{"bits":4},"values":{"bits":9}}]})", "layer 0.values: bits is 9");
  bad(head + R"(1,"layers":[{"layer_idx":0,"keys":{"bits":4},"values":{"bits":4},"dense_first":-3}]})", "dense_first");
}

TEST(KvConfig, RefusesLargeFiles) {
  test::ScratchDir dir;
  test::Spit(dir / "kv.json", "[" + std::string(10 << 20, ' ') + "]");
  ExpectError(ReadKvConfig(dir / "kv.json", Geometry(), "").status(), absl::StatusCode::kResourceExhausted, "kv.json");
  ExpectError(ReadKvConfig(dir / "none.json", Geometry(), "").status(), absl::StatusCode::kNotFound, "none.json");
}

}  // namespace
}  // namespace optiq
