#include "quant/allocation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "quant/test_table.h"

namespace optiq {
namespace {

AllocationRequest AtBpw(const SensitivityTable& table, double bpw) {
  AllocationRequest request;
  request.budget_bytes = BudgetForBpw(table, bpw);
  return request;
}

TEST(Allocation, SpendsTheBudgetWhereItCounts) {
  SensitivityTable table = SmolTable();
  for (double bpw : {2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 8.0}) {
    AllocationRequest request = AtBpw(table, bpw);
    StatusOr<Allocation> a = Allocate(table, request);
    ASSERT_TRUE(a.ok()) << a.status();
    uint64_t bytes = 0;
    double kl = 0;
    for (size_t i = 0; i < table.items.size(); ++i) {
      const SensitivityItem& item = table.items[i];
      bytes += a->choice[i] < 0 ? item.dense_bytes : item.options[a->choice[i]].bytes;
      kl += a->choice[i] < 0 ? 0 : item.options[a->choice[i]].kl;
    }
    EXPECT_EQ(a->bytes, bytes);
    EXPECT_LE(bytes, request.budget_bytes);
    EXPECT_GE(static_cast<double>(bytes), 0.995 * static_cast<double>(request.budget_bytes)) << bpw;
    EXPECT_NEAR(a->predicted_kl, kl, 1e-12 * kl);
    EXPECT_TRUE(a->optimal);
    EXPECT_LE(a->lp_bound, a->predicted_kl);
    EXPECT_LT(a->gap(), 0.02) << bpw;
  }
}

TEST(Allocation, BeatsEveryUniformSettingAtItsOwnSize) {
  SensitivityTable table = SmolTable();
  for (size_t k = 0; k < table.items[0].options.size(); ++k) {
    AffineFormat format = table.items[0].options[k].format;
    AllocationRequest request;
    double uniform = 0;
    for (const SensitivityItem& item : table.items) {
      for (const SensitivityOption& o : item.options) {
        // 576 is no multiple of 128: those items keep 64, as a uniform setting would have to.
        int group = item.shape.back() % format.group_size == 0 ? format.group_size : 64;
        if (o.format.bits != format.bits || o.format.group_size != group) continue;
        request.budget_bytes += o.bytes;
        uniform += o.kl;
      }
    }
    StatusOr<Allocation> a = Allocate(table, request);
    ASSERT_TRUE(a.ok()) << a.status();
    EXPECT_LE(a->predicted_kl, uniform * (1 + 1e-12)) << format.bits << " bits, group " << format.group_size;
  }
}

TEST(Allocation, OverridesAreHonouredAndTheLastWins) {
  SensitivityTable table = SmolTable(4);
  AllocationRequest request = AtBpw(table, 5.0);
  request.overrides = {{"v_proj$", 8}, {"layers\\.2\\.", 3}, {"layers\\.3\\.mlp\\.down_proj", 0}};
  StatusOr<Allocation> a = Allocate(table, request);
  ASSERT_TRUE(a.ok()) << a.status();
  for (size_t i = 0; i < table.items.size(); ++i) {
    const SensitivityItem& item = table.items[i];
    int bits = a->choice[i] < 0 ? 0 : item.options[a->choice[i]].format.bits;
    if (item.path == "model.layers.3.mlp.down_proj") {
      EXPECT_EQ(bits, 0);
    } else if (item.block == 2) {
      EXPECT_EQ(bits, 3) << item.path;
    } else if (item.path.find("v_proj") != std::string::npos) {
      EXPECT_EQ(bits, 8) << item.path;
    }
  }
  EXPECT_LE(a->bytes, request.budget_bytes);
  Plan plan = PlanFromAllocation(table, *a);
  EXPECT_TRUE(plan.entries["model.layers.3.mlp.down_proj"].dense);
  EXPECT_EQ(plan.entries["model.layers.1.self_attn.v_proj"].format.bits, 8);
  EXPECT_EQ(plan.entries.size(), table.items.size());
  EXPECT_EQ(plan.base_model, table.base_model);
  EXPECT_EQ(plan.origin, "allocation");
}

TEST(Allocation, OverrideErrors) {
  SensitivityTable table = SmolTable(2);
  AllocationRequest request = AtBpw(table, 5.0);
  auto error = [&](std::vector<std::pair<std::string, int>> overrides) {
    request.overrides = std::move(overrides);
    StatusOr<Allocation> a = Allocate(table, request);
    EXPECT_FALSE(a.ok());
    EXPECT_EQ(a.status().code(), absl::StatusCode::kInvalidArgument);
    return Message(a.status());
  };
  EXPECT_NE(error({{"no_such", 4}}).find("'no_such': matches none of the 15 weights"), std::string::npos);
  EXPECT_NE(error({{"v_proj", 7}}).find("'model.layers.0.self_attn.v_proj' has no 7-bit option"), std::string::npos);
  EXPECT_NE(error({{"(", 4}}).find("not a valid regular expression"), std::string::npos);
  table.items[3].dense_bytes = 0;
  EXPECT_NE(error({{"v_proj", 0}}).find("has no dense option"), std::string::npos);
}

TEST(Allocation, ImpossibleBudgetNamesBothSizesAndAnEnoughTarget) {
  SensitivityTable table = SmolTable(3);
  uint64_t smallest = 0;
  for (const SensitivityItem& item : table.items) {
    uint64_t least = item.dense_bytes;
    for (const SensitivityOption& o : item.options) least = std::min(least, o.bytes);
    smallest += least;
  }
  AllocationRequest request = AtBpw(table, 2.0);
  StatusOr<Allocation> a = Allocate(table, request);
  ASSERT_FALSE(a.ok());
  EXPECT_EQ(a.status().code(), absl::StatusCode::kInvalidArgument);
  std::string message = Message(a.status());
  EXPECT_NE(message.find(std::to_string(request.budget_bytes)), std::string::npos) << message;
  EXPECT_NE(message.find("take " + std::to_string(smallest) + " bytes"), std::string::npos) << message;
  EXPECT_NE(message.find("2.000 bits per weight"), std::string::npos) << message;
  // The number it gives must work.
  size_t at = message.find("at least ") + 9;
  double least = std::stod(message.substr(at));
  EXPECT_TRUE(Allocate(table, AtBpw(table, least)).ok()) << message;
  EXPECT_FALSE(Allocate(table, AtBpw(table, least - 0.002)).ok()) << message;
  EXPECT_TRUE(Allocate(table, {.budget_bytes = smallest}).ok());
  EXPECT_FALSE(Allocate(table, {.budget_bytes = smallest - 1}).ok());
}

TEST(Allocation, DenseIsTakenOnlyWhereAllowed) {
  SensitivityTable table = SmolTable(2);
  AllocationRequest request = AtBpw(table, 16.0);
  StatusOr<Allocation> a = Allocate(table, request);
  ASSERT_TRUE(a.ok());
  EXPECT_EQ(a->predicted_kl, 0.0);
  for (int c : a->choice) EXPECT_EQ(c, -1);
  request.allow_dense = false;
  a = Allocate(table, request);
  ASSERT_TRUE(a.ok());
  for (size_t i = 0; i < a->choice.size(); ++i) {
    ASSERT_GE(a->choice[i], 0);
    EXPECT_EQ(table.items[i].options[a->choice[i]].format.bits, 8);
  }
  // An item without options can only stay dense.
  table.items[4].options.clear();
  a = Allocate(table, request);
  ASSERT_TRUE(a.ok()) << a.status();
  EXPECT_EQ(a->choice[4], -1);
}

TEST(Allocation, BadMeasurements) {
  SensitivityTable table = SmolTable(1);
  AllocationRequest request = AtBpw(table, 4.5);
  table.items[1].options[0].kl = -1e-12;  // rounding of a measured zero
  EXPECT_TRUE(Allocate(table, request).ok());
  table.items[1].options[0].kl = std::numeric_limits<double>::quiet_NaN();
  StatusOr<Allocation> a = Allocate(table, request);
  ASSERT_FALSE(a.ok());
  EXPECT_NE(Message(a.status()).find("model.layers.0.self_attn.q_proj"), std::string::npos);
  table = SmolTable(1);
  for (SensitivityItem& item : table.items) item.options[0].bytes = uint64_t{1} << 60;
  EXPECT_FALSE(Allocate(table, request).ok());
}

TEST(Allocation, EmptyTable) {
  StatusOr<Allocation> a = Allocate({}, {});
  ASSERT_TRUE(a.ok()) << a.status();
  EXPECT_TRUE(a->choice.empty());
  EXPECT_EQ(BudgetForBpw({}, 4.5), 0u);
}

TEST(Allocation, BudgetForBpw) {
  SensitivityTable table = SmolTable(1);
  uint64_t params = TotalParams(table);
  EXPECT_EQ(BudgetForBpw(table, 8.0), params);
  EXPECT_EQ(BudgetForBpw(table, 4.5), params * 9 / 16);
  EXPECT_EQ(BudgetForBpw(table, -1), 0u);
  EXPECT_EQ(BudgetForBpw(table, std::nan("")), 0u);
  EXPECT_EQ(BudgetForBpw(table, 1e300), uint64_t{1} << 62);
}

TEST(ParetoCurve, FallsAndEndsAtTheBestQuantizedSize) {
  SensitivityTable table = SmolTable();
  StatusOr<std::vector<ParetoPoint>> curve = ParetoCurve(table, 40);
  ASSERT_TRUE(curve.ok()) << curve.status();
  ASSERT_GT(curve->size(), 30u);
  for (size_t i = 1; i < curve->size(); ++i) {
    EXPECT_GT((*curve)[i].bytes, (*curve)[i - 1].bytes);
    EXPECT_LT((*curve)[i].predicted_kl, (*curve)[i - 1].predicted_kl);
  }
  EXPECT_LT(curve->front().bpw, 2.5);
  EXPECT_GT(curve->back().bpw, 8.5);
  EXPECT_TRUE(ParetoCurve({}, 3).ok());
}

}  // namespace
}  // namespace optiq
