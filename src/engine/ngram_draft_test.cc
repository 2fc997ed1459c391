#include "engine/ngram_draft.h"

#include <gtest/gtest.h>

namespace optiq {
namespace {

TEST(NgramIndexTest, DraftsWhatFollowedTheLatestEqualRun) {
  NgramIndex index;
  const std::vector<int32_t> text = {1, 2, 3, 4, 5, 6, 1, 2, 3, 9, 8};
  index.Append(text);
  EXPECT_TRUE(index.Draft(4).empty());  // "3 9 8" was never seen before
  index.Append(std::vector<int32_t>{1, 2, 3});
  EXPECT_EQ(index.Draft(3), (std::vector<int32_t>{9, 8, 1}));
  EXPECT_EQ(index.Draft(100), (std::vector<int32_t>{9, 8, 1, 2, 3}));
  EXPECT_TRUE(index.Draft(0).empty());
  NgramIndex longer;
  longer.Append(std::vector<int32_t>{7, 1, 2, 3, 4, 0, 1, 2, 3, 5, 7, 1, 2, 3});
  EXPECT_EQ(longer.Draft(1), (std::vector<int32_t>{4}));  // four equal tokens go before three
}

TEST(NgramIndexTest, ShortTexts) {
  NgramIndex index;
  EXPECT_TRUE(index.Draft(5).empty());
  index.Append(1);
  index.Append(1);
  EXPECT_TRUE(index.Draft(5).empty());
  index.Append(1);
  index.Append(1);
  EXPECT_EQ(index.Draft(5), (std::vector<int32_t>{1}));
}

TEST(DraftGateTest, GrowsWhileDraftsAreRightAndStopsWhenTheyAreNot) {
  DraftGate gate;
  EXPECT_EQ(gate.Size(), 0);  // what a plain step costs is not known yet
  gate.Record(0, 0, 1.0);
  gate.Record(0, 0, 1.0);
  int64_t n = 0;
  for (int i = 0; i < 20; ++i) {
    n = gate.Size();
    gate.Record(n, n, 1.0 + 0.1 * static_cast<double>(n));
  }
  EXPECT_EQ(n, DraftGate::kMost);
  int drafted = 0;
  for (int i = 0; i < 200; ++i) {
    n = gate.Size();
    gate.Record(n, 0, 1.0 + 0.1 * static_cast<double>(n));
    drafted += n > 0;
  }
  EXPECT_LT(drafted, 20);
}

TEST(DraftGateTest, StopsWhenPassesCostMoreThanTheyBring) {
  DraftGate gate;
  int drafted = 0;
  for (int i = 0; i < 200; ++i) {
    const int64_t n = gate.Size();
    gate.Record(n, n, 1.0 + 1.5 * static_cast<double>(n));
    drafted += n > 0;
  }
  EXPECT_LT(drafted, 20);
}

}  // namespace
}  // namespace optiq
