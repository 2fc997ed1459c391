#include "quant/expert_stats.h"

#include <gtest/gtest.h>

namespace optiq {
namespace {

SensitivityTable Table() {
  SensitivityTable t;
  t.fingerprint = "f";
  SensitivityItem dense{.path = "model.layers.0.self_attn.q_proj", .shape = {64, 64}, .options = {{.format = {4, 64}, .bytes = 1}}};
  SensitivityItem gate{.path = "model.layers.0.mlp.switch_mlp.gate_proj", .shape = {4, 64, 64}, .options = {{.format = {4, 64}, .bytes = 1}}};
  gate.expert_tokens = {10, 0, 3, 0};
  gate.expert_error_shares = {0.25, 0, 0.75, 0};
  SensitivityItem down = gate;
  down.path = "model.layers.0.mlp.switch_mlp.down_proj";
  t.items = {dense, gate, down};
  return t;
}

TEST(ExpertStatsTest, CountsAndShares) {
  const std::vector<ExpertStats> all = ExpertStatsOf(Table());
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0].unreached, (std::vector<int64_t>{1, 3}));
  EXPECT_EQ(all[0].least_tokens, 3);
  EXPECT_EQ(all[0].most_tokens, 10);
  EXPECT_EQ(all[0].largest_share_expert, 2);
}

TEST(ExpertStatsTest, AnUnreachedExpertIsReportedOncePerLayer) {
  const std::string warning = UnreachedExpertsWarning(Table());
  EXPECT_NE(warning.find("2 of 4 experts"), std::string::npos) << warning;
  EXPECT_NE(warning.find("layer 0: 1, 3"), std::string::npos) << warning;
  SensitivityTable reached = Table();
  for (SensitivityItem& item : reached.items) {
    for (int64_t& n : item.expert_tokens) n = 1;
  }
  EXPECT_EQ(UnreachedExpertsWarning(reached), "");
  EXPECT_NE(ExpertsHtml(Table()).find("switch_mlp.down_proj"), std::string::npos);
  EXPECT_EQ(ExpertsHtml(SensitivityTable()), "");
}

TEST(ExpertStatsTest, SurvivesTheFile) {
  const SensitivityTable back = *SensitivityTable::FromJson(Table().ToJson(), "t");
  EXPECT_EQ(back.items[1].expert_tokens, Table().items[1].expert_tokens);
  EXPECT_EQ(back.items[1].expert_error_shares, Table().items[1].expert_error_shares);
  Json bad = Table().ToJson();
  bad["layers"][1]["expert_tokens"].push_back(3);
  EXPECT_FALSE(SensitivityTable::FromJson(bad, "t").ok());
}

}  // namespace
}  // namespace optiq
