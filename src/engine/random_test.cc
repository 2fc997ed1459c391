#include "engine/random.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace optiq {
namespace {

using Block = std::array<uint32_t, 4>;

// The known-answer vectors that the authors publish with Random123 (kat_vectors, philox4x32 10).
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}), (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(RandomStream, WordsComeFromConsecutiveBlocks) {
  RandomStream stream(0, 0);
  const Block first = Philox4x32({0, 0, 0, 0}, {0, 0});
  const Block second = Philox4x32({1, 0, 0, 0}, {0, 0});
  for (uint32_t w : first) EXPECT_EQ(stream.NextU32(), w);
  for (uint32_t w : second) EXPECT_EQ(stream.NextU32(), w);
}

TEST(RandomStream, SeedsAndStreamsDiffer) {
  RandomStream a(1), b(2), c(1, 1), again(1);
  const uint32_t first = a.NextU32();
  EXPECT_EQ(first, again.NextU32());
  EXPECT_NE(first, b.NextU32());
  EXPECT_NE(first, c.NextU32());
}

TEST(RandomStream, DoublesAreUniform) {
  RandomStream stream(7);
  constexpr int kDraws = 200000, kBins = 20;
  std::vector<int> bins(kBins);
  for (int i = 0; i < kDraws; ++i) {
    const double u = stream.NextDouble();
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    ++bins[static_cast<int>(u * kBins)];
  }
  double chi2 = 0;
  const double expected = static_cast<double>(kDraws) / kBins;
  for (int count : bins) chi2 += (count - expected) * (count - expected) / expected;
  EXPECT_LT(chi2, 43.8);  // 19 degrees of freedom, p = 0.001
}

}  // namespace
}  // namespace optiq
