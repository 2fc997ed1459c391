#include "ops/expert_linear.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "tensor/affine.h"

namespace optiq {
namespace {

struct Experts {
  std::vector<AffineMatrix> matrices;
  std::vector<WeightMatrix> views;
};

Experts MakeExperts(int count, int64_t rows, int64_t cols, AffineFormat format, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Experts out;
  for (int e = 0; e < count; ++e) {
    AffineMatrix m = MakeAffineMatrix(rows, cols, format, DType::kBF16);
    std::vector<float> row(cols);
    for (int64_t r = 0; r < rows; ++r) {
      for (float& v : row) v = normal(random);
      EncodeRowRtn(row.data(), r, &m);
    }
    out.matrices.push_back(std::move(m));
  }
  for (const AffineMatrix& m : out.matrices) out.views.push_back(ViewOf(m, "experts"));
  return out;
}

// Slots of `tokens` rows with `k` different experts each. With stored, a slot is an output row, else a token is.
std::vector<ExpertPair> Pairs(int64_t tokens, int k, int experts, bool stored, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> all(experts);
  for (int e = 0; e < experts; ++e) all[e] = e;
  std::vector<ExpertPair> out;
  for (int64_t t = 0; t < tokens; ++t) {
    std::shuffle(all.begin(), all.end(), random);
    for (int s = 0; s < k; ++s) {
      const int64_t slot = t * k + s;
      out.push_back({all[s], stored ? t : slot, stored ? slot : t});
    }
  }
  return out;
}

class ExpertLinearTest : public testing::TestWithParam<AffineFormat> {};

// The definition: one product per pair, in ascending order of expert.
TEST_P(ExpertLinearTest, FastEqualsOneProductPerPairBitForBit) {
  constexpr int kExperts = 9;
  for (const auto& [tokens, k, rows] : {std::tuple<int64_t, int, int64_t>{1, 1, 5}, {1, 8, 70}, {3, 2, 33}, {40, 4, 130}, {70, 9, 17}}) {
    for (const bool stored : {true, false}) {
      const int64_t cols = 256;
      const Experts experts = MakeExperts(kExperts, rows, cols, GetParam(), 7);
      std::vector<ExpertPair> pairs = Pairs(tokens, k, kExperts, stored, 11);
      const int64_t inputs = stored ? tokens : tokens * k, outputs = stored ? tokens * k : tokens, ldy = rows + 3;
      std::vector<float> x(inputs * cols);
      for (size_t i = 0; i < x.size(); ++i) x[i] = std::sin(0.731f * static_cast<float>(i));
      ThreadPool one(1), three(3);
      std::vector<float> want(outputs * ldy, 0.5f);
      std::vector<ExpertPair> sorted = pairs;
      std::stable_sort(sorted.begin(), sorted.end(), [](const ExpertPair& a, const ExpertPair& b) { return a.expert < b.expert; });
      std::vector<float> product(rows);
      for (const ExpertPair& p : sorted) {
        Linear(x.data() + p.in_row * cols, 1, cols, experts.views[p.expert], nullptr, product.data(), rows, &one, Products::kFast);
        for (int64_t r = 0; r < rows; ++r) {
          float& to = want[p.out_row * ldy + r];
          to = stored ? product[r] : to + product[r];
        }
      }
      for (ThreadPool* pool : {&one, &three}) {
        std::vector<float> got(outputs * ldy, 0.5f);
        ExpertLinear(x.data(), cols, pairs, experts.views, got.data(), ldy, pool,
                     {.products = Products::kFast, .output = stored ? ExpertOutput::kStore : ExpertOutput::kAccumulate});
        EXPECT_EQ(got, want) << tokens << " tokens, " << k << " experts each, " << (stored ? "stored" : "summed");
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, ExpertLinearTest,
                         testing::Values(AffineFormat{2, 64}, AffineFormat{3, 32}, AffineFormat{4, 64}, AffineFormat{4, 32},
                                         AffineFormat{5, 128}, AffineFormat{6, 64}, AffineFormat{8, 64}));

TEST(ExpertLinear, FastFallsBackWhenFormatsDiffer) {
  Experts experts = MakeExperts(2, 16, 64, {4, 64}, 1);
  Experts other = MakeExperts(1, 16, 64, {8, 64}, 2);
  experts.views[1] = other.views[0];
  const std::vector<ExpertPair> pairs = {{1, 0, 0}, {0, 0, 1}, {1, 1, 2}, {0, 1, 3}};
  std::vector<float> x(2 * 64, 0.25f), y(4 * 16), want(16);
  ThreadPool pool(2);
  ExpertLinear(x.data(), 64, pairs, experts.views, y.data(), 16, &pool, {.products = Products::kFast});
  for (const ExpertPair& p : pairs) {
    Linear(x.data() + p.in_row * 64, 1, 64, experts.views[p.expert], nullptr, want.data(), 16, &pool, Products::kFast);
    EXPECT_EQ(std::vector<float>(y.begin() + p.out_row * 16, y.begin() + (p.out_row + 1) * 16), want);
  }
}

}  // namespace
}  // namespace optiq
