#include "quant/metadata.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "quant/test_summary.h"

namespace optiq {
namespace {

TEST(Metadata, HasTheSchemaOfMlxOptiq) {
  ConvertSummary s = ExampleSummary();
  Json json = OptiqMetadata(s);
  EXPECT_EQ(json["method"], "optiq_mixed_precision");
  EXPECT_EQ(json["base_model"], s.base_model);
  EXPECT_EQ(json["reference"], "bf16");
  EXPECT_EQ(json["target_bpw"], 4.5);
  EXPECT_EQ(json["achieved_bpw"], s.achieved_bpw);
  EXPECT_EQ(json["threshold"], 0.0);
  ASSERT_EQ(json["per_layer"].size(), 211u);
  int64_t low = 0;
  int lowest = 99;
  for (const auto& [path, e] : s.plan.entries) lowest = std::min(lowest, e.format.bits);
  for (const auto& [path, e] : s.plan.entries) {
    low += e.format.bits == lowest;
    EXPECT_EQ(json["per_layer"][path], Json({{"bits", e.format.bits}, {"group_size", e.format.group_size}})) << path;
  }
  EXPECT_EQ(json["n_low_bits"], low);
  EXPECT_EQ(json["n_high_bits"], 211 - low);
}

TEST(Metadata, HasOurFields) {
  ConvertSummary s = ExampleSummary();
  Json ours = OptiqMetadata(s)["optiq_cpp"];
  EXPECT_EQ(ours["version"], "0.1.0");
  EXPECT_EQ(ours["calibration"]["sha256"], std::string(64, 'a'));
  EXPECT_EQ(ours["bytes"]["files"], s.file_bytes);
  EXPECT_EQ(ours["evaluation"].size(), 2u);
  EXPECT_EQ(ours["evaluation"][1]["shipped"], true);
  EXPECT_EQ(ours["evaluation"][1]["kl_mean"], 0.1512);
  EXPECT_NEAR(ours["gap"].get<double>(), s.predicted_kl / s.lp_bound - 1, 1e-15);
  EXPECT_EQ(ours["optimal"], true);
  double sum = 0;
  for (const auto& [path, layer] : ours["layers"].items()) {
    sum += layer["kl"].get<double>();
    EXPECT_EQ(layer["encoder"], "rtn");
  }
  EXPECT_NEAR(sum, s.predicted_kl, 1e-12);
}

TEST(Metadata, DenseIsSixteenBits) {
  ConvertSummary s = ExampleSummary(4.5, 1);
  s.plan.entries["model.layers.0.self_attn.k_proj"] = {{}, "rtn", true};
  Json json = OptiqMetadata(s);
  EXPECT_EQ(json["per_layer"]["model.layers.0.self_attn.k_proj"]["bits"], 16);
  EXPECT_FALSE(json["optiq_cpp"]["layers"]["model.layers.0.self_attn.k_proj"].contains("encoder"));
}

TEST(Metadata, HostileStringsAndNumbersStayJson) {
  ConvertSummary s = HostileSummary();
  s.achieved_bpw = std::nan("");
  s.predicted_kl = std::numeric_limits<double>::infinity();
  s.evaluation[0].perplexity = std::numeric_limits<double>::infinity();
  std::string text;
  ASSERT_NO_THROW(text = OptiqMetadata(s).dump(1));
  StatusOr<Json> back = ParseJson(text, "metadata");
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_TRUE((*back)["achieved_bpw"].is_null());
}

TEST(Metadata, EmptySummary) {
  Json json = OptiqMetadata({});
  EXPECT_EQ(json["per_layer"], Json::object());
  EXPECT_EQ(json["n_low_bits"], 0);
  EXPECT_NO_THROW(json.dump());
}

}  // namespace
}  // namespace optiq
