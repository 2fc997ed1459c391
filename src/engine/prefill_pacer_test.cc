#include "engine/prefill_pacer.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>

namespace optiq {
namespace {

TEST(PrefillPacerTest, StaysWithinTheStallTime) {
  PrefillPacer pacer(512, 0.25);
  EXPECT_EQ(pacer.Budget(false), 512);
  EXPECT_EQ(pacer.Budget(true), 64);  // nothing is known
  pacer.Record(64, 0.064);            // 1,000 tokens per second
  EXPECT_EQ(pacer.Budget(true), 250);
  EXPECT_EQ(pacer.Budget(false), 512);
  pacer.Record(250, 2.5);  // once slow
  EXPECT_GT(pacer.Budget(true), 230);
  for (int i = 0; i < 100; ++i) pacer.Record(100, 1);  // slow for good
  EXPECT_EQ(pacer.Budget(true), PrefillPacer::kLeast);
  pacer.Record(100000, 0.001);
  EXPECT_EQ(pacer.Budget(true), 512);
  EXPECT_EQ(PrefillPacer(7, 0.25).Budget(true), 7);
}

TEST(PrefillPacerTest, SharesAreFairAndComplete) {
  EXPECT_EQ(SharePrefill(std::vector<int64_t>{1000, 10}, 100), (std::vector<int64_t>{90, 10}));
  EXPECT_EQ(SharePrefill(std::vector<int64_t>{10, 1000}, 100), (std::vector<int64_t>{10, 90}));
  EXPECT_EQ(SharePrefill(std::vector<int64_t>{1000, 1000, 1000}, 90), (std::vector<int64_t>{30, 30, 30}));
  EXPECT_TRUE(SharePrefill({}, 90).empty());
  std::mt19937 random(1);
  for (int i = 0; i < 1000; ++i) {
    std::vector<int64_t> left(1 + random() % 6);
    for (int64_t& n : left) n = 1 + random() % 500;
    const int64_t budget = 1 + random() % 600, sum = std::accumulate(left.begin(), left.end(), int64_t{0});
    const std::vector<int64_t> shares = SharePrefill(left, budget);
    EXPECT_EQ(std::accumulate(shares.begin(), shares.end(), int64_t{0}), std::min(budget, sum));
    for (size_t k = 0; k < left.size(); ++k) {
      EXPECT_LE(shares[k], left[k]);
      EXPECT_GE(shares[k], std::min<int64_t>(left[k], budget / static_cast<int64_t>(left.size())));
    }
  }
}

}  // namespace
}  // namespace optiq
