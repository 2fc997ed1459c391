#include "quant/mckp.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <limits>
#include <random>

namespace optiq {
namespace {

// The least cost within the budget, by trying every choice; infinity when there is none.
double BruteForce(const std::vector<MckpClass>& classes, uint64_t budget) {
  std::vector<size_t> pick(classes.size(), 0);
  double best = std::numeric_limits<double>::infinity();
  while (true) {
    uint64_t weight = 0;
    double cost = 0;
    for (size_t i = 0; i < classes.size(); ++i) {
      weight += classes[i][pick[i]].weight;
      cost += classes[i][pick[i]].cost;
    }
    if (weight <= budget) best = std::min(best, cost);
    size_t i = 0;
    while (i < classes.size() && ++pick[i] == classes[i].size()) pick[i++] = 0;
    if (i == classes.size()) return best;
  }
}

void ExpectConsistent(const std::vector<MckpClass>& classes, uint64_t budget, const MckpSolution& s) {
  ASSERT_EQ(s.choice.size(), classes.size());
  uint64_t weight = 0;
  double cost = 0;
  for (size_t i = 0; i < classes.size(); ++i) {
    ASSERT_GE(s.choice[i], 0);
    ASSERT_LT(s.choice[i], static_cast<int>(classes[i].size()));
    weight += classes[i][s.choice[i]].weight;
    cost += classes[i][s.choice[i]].cost;
  }
  EXPECT_EQ(s.weight, weight);
  EXPECT_LE(weight, budget);
  EXPECT_NEAR(s.cost, cost, 1e-12 * cost);
  EXPECT_LE(s.lower_bound, s.cost);
}

// Quadratic error law with noise: cost ~ sensitivity * 4^-bits, weight ~ params * (bits + overhead).
std::vector<MckpClass> QuantLike(int items, double sigma, uint32_t seed) {
  std::mt19937 rng(seed);
  std::lognormal_distribution<double> sensitivity(0.0, sigma), noise(0.0, 0.1);
  const uint64_t sizes[] = {331776, 110592, 331776, 884736, 884736, 884736};
  std::vector<MckpClass> classes;
  for (int i = 0; i < items; ++i) {
    double s = 1e-3 * sensitivity(rng);
    uint64_t params = i == 0 ? 28311552 : sizes[rng() % 6];
    MckpClass c;
    for (int bits : {2, 3, 4, 5, 6, 8}) {
      for (int group : {32, 64, 128}) {
        double err = s * std::pow(4.0, 4 - bits) * std::pow(group / 64.0, 0.35) * noise(rng);
        c.push_back({params * bits / 8 + params / group * 4, err});
      }
    }
    classes.push_back(std::move(c));
  }
  return classes;
}

TEST(Mckp, EqualsBruteForceOnRandomInstances) {
  std::mt19937 rng(7);
  for (int round = 0; round < 3000; ++round) {
    int n = 1 + rng() % 6;
    int scale = round % 3 == 0 ? 1 : 1000;  // small weights: many ties in weight
    std::vector<MckpClass> classes(n);
    uint64_t most = 0;
    for (MckpClass& c : classes) {
      int k = 1 + rng() % 5;
      uint64_t heaviest = 0;
      for (int j = 0; j < k; ++j) {
        uint64_t w = rng() % (10 * scale);
        // Costs on a coarse grid now and then: ties in cost, and zeros.
        double cost = round % 2 ? rng() % 8 : std::uniform_real_distribution<double>(0, 1)(rng);
        c.push_back({w, cost});
        heaviest = std::max(heaviest, w);
      }
      most += heaviest;
    }
    for (int b = 0; b < 4; ++b) {
      uint64_t budget = rng() % (most + 2);
      double expected = BruteForce(classes, budget);
      std::optional<MckpSolution> got = SolveMckp(classes, budget);
      if (std::isinf(expected)) {
        EXPECT_FALSE(got.has_value());
        EXPECT_GT(MckpMinWeight(classes), budget);
        continue;
      }
      ASSERT_TRUE(got.has_value());
      ExpectConsistent(classes, budget, *got);
      EXPECT_TRUE(got->optimal);
      EXPECT_NEAR(got->cost, expected, 1e-12 * (1 + expected)) << "round " << round << " budget " << budget;
    }
  }
}

TEST(Mckp, EqualsBruteForceOnQuantizationLikeInstances) {
  for (uint32_t seed = 0; seed < 60; ++seed) {
    std::vector<MckpClass> classes = QuantLike(4, 1.5, seed);
    uint64_t low = MckpMinWeight(classes), high = 0;
    for (const MckpClass& c : classes) {
      uint64_t heaviest = 0;
      for (const MckpOption& o : c) heaviest = std::max(heaviest, o.weight);
      high += heaviest;
    }
    for (double share : {0.0, 0.1, 0.35, 0.6, 0.97}) {
      uint64_t budget = low + static_cast<uint64_t>(share * static_cast<double>(high - low));
      std::optional<MckpSolution> got = SolveMckp(classes, budget);
      ASSERT_TRUE(got.has_value());
      ExpectConsistent(classes, budget, *got);
      double expected = BruteForce(classes, budget);
      EXPECT_NEAR(got->cost, expected, 1e-12 * expected) << "seed " << seed << " share " << share;
    }
  }
}

TEST(Mckp, LargeInstancesAreNearTheBoundAndFast) {
  for (double sigma : {1.0, 2.0}) {
    for (int items : {211, 1000, 3000}) {
      std::vector<MckpClass> classes = QuantLike(items, sigma, 1000 + items);
      uint64_t low = MckpMinWeight(classes);
      for (double share : {0.15, 0.4, 0.7}) {
        uint64_t budget = low + static_cast<uint64_t>(share * 3.2 * static_cast<double>(low));
        auto start = std::chrono::steady_clock::now();
        std::optional<MckpSolution> got = SolveMckp(classes, budget);
        double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        ASSERT_TRUE(got.has_value());
        ExpectConsistent(classes, budget, *got);
        EXPECT_TRUE(got->optimal) << items << " items";
        // Few items and one of them huge (the embedding): the relaxation itself is loose, the choice is still proven
        // optimal.
        EXPECT_LT(got->cost / got->lower_bound - 1, items < 1000 ? 1e-2 : 1e-4) << items << " items";
        EXPECT_GE(static_cast<double>(got->weight), 0.995 * static_cast<double>(budget));
        EXPECT_LT(seconds, 10) << items << " items";  // loose: catches an explosion, not a slow machine
      }
    }
  }
}

TEST(Mckp, UnstructuredWeightsStayNearTheBound) {
  std::mt19937_64 rng(5);
  std::vector<MckpClass> classes(2000);
  for (MckpClass& c : classes) {
    double s = std::lognormal_distribution<double>(0, 1.5)(rng);
    uint64_t params = 100000 + rng() % 10000000;
    for (int bits : {2, 3, 4, 5, 6, 8}) c.push_back({params * bits / 8 + rng() % 1000, s * std::pow(4.0, -bits)});
  }
  uint64_t budget = MckpMinWeight(classes) * 2;
  std::optional<MckpSolution> got = SolveMckp(classes, budget);
  ASSERT_TRUE(got.has_value());
  ExpectConsistent(classes, budget, *got);
  EXPECT_LT(got->cost / got->lower_bound - 1, 1e-4);
  EXPECT_GE(static_cast<double>(got->weight), 0.995 * static_cast<double>(budget));
}

TEST(Mckp, MoreBudgetNeverCostsMore) {
  std::vector<MckpClass> classes = QuantLike(60, 1.5, 3);
  uint64_t low = MckpMinWeight(classes);
  double before = std::numeric_limits<double>::infinity();
  for (int i = 0; i <= 200; ++i) {
    uint64_t budget = low + low * 3 * i / 200;
    std::optional<MckpSolution> got = SolveMckp(classes, budget);
    ASSERT_TRUE(got.has_value());
    EXPECT_LE(got->cost, before * (1 + 1e-12));
    before = got->cost;
  }
}

TEST(Mckp, NoiseMayMakeAHeavierOptionWorse) {
  // The 8-bit option measured worse than the 4-bit one: nothing is bought with the spare budget.
  std::vector<MckpClass> classes = {{{10, 3.0}, {20, 1.0}, {40, 1.2}}};
  std::optional<MckpSolution> got = SolveMckp(classes, 100);
  ASSERT_TRUE(got.has_value());
  EXPECT_EQ(got->choice, std::vector<int>{1});
  EXPECT_EQ(got->weight, 20u);
  EXPECT_TRUE(got->optimal);
}

TEST(Mckp, TiesGoToTheFirstOption) {
  std::vector<MckpClass> classes = {{{10, 1.0}, {10, 1.0}}, {{5, 0.0}, {5, 0.0}, {7, 0.0}}};
  for (uint64_t budget : {15u, 16u, 17u, 1000u}) {
    std::optional<MckpSolution> got = SolveMckp(classes, budget);
    ASSERT_TRUE(got.has_value());
    EXPECT_EQ(got->choice, (std::vector<int>{0, 0}));
  }
}

TEST(Mckp, SameInputSameAnswer) {
  std::vector<MckpClass> classes = QuantLike(500, 1.0, 11);
  uint64_t budget = MckpMinWeight(classes) * 2;
  EXPECT_EQ(SolveMckp(classes, budget)->choice, SolveMckp(classes, budget)->choice);
}

TEST(Mckp, ACutSearchStillObeysTheBudget) {
  std::vector<MckpClass> classes = QuantLike(400, 2.0, 12);
  uint64_t budget = MckpMinWeight(classes) * 2;
  std::optional<MckpSolution> got = SolveMckp(classes, budget, /*max_work=*/1);
  ASSERT_TRUE(got.has_value());
  ExpectConsistent(classes, budget, *got);
  EXPECT_GE(got->cost, SolveMckp(classes, budget)->cost * (1 - 1e-12));
}

TEST(Mckp, NoClasses) {
  std::optional<MckpSolution> got = SolveMckp({}, 0);
  ASSERT_TRUE(got.has_value());
  EXPECT_EQ(got->weight, 0u);
  EXPECT_EQ(got->cost, 0.0);
}

}  // namespace
}  // namespace optiq
