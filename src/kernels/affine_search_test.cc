#include "kernels/affine_search.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "tensor/affine.h"

namespace optiq {
namespace {

struct Case {
  std::vector<float> w, h;
};

// Student-like weights with a few inputs that matter far more than the others.
Case MakeCase(int64_t cols, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Case c;
  for (int64_t i = 0; i < cols; ++i) {
    const float x = normal(random);
    c.w.push_back(0.05f * x * (1 + 0.3f * x * x));
    c.h.push_back(std::exp(1.5f * normal(random)));
  }
  return c;
}

double WeightedError(const Case& c, int64_t g, const uint8_t* codes, const float* scales, const float* biases) {
  double sum = 0;
  for (size_t i = 0; i < c.w.size(); ++i) {
    const double e = c.w[i] - (double{scales[i / g]} * codes[i] + biases[i / g]);
    sum += c.h[i] * e * e;
  }
  return sum;
}

double StockError(const Case& c, AffineFormat f, DType dtype) {
  AffineMatrix m = MakeAffineMatrix(1, static_cast<int64_t>(c.w.size()), f, dtype);
  EncodeRowRtn(c.w.data(), 0, &m);
  std::vector<float> decoded(c.w.size());
  DecodeRow(m, 0, decoded.data());
  double sum = 0;
  for (size_t i = 0; i < c.w.size(); ++i) sum += c.h[i] * std::pow(double{c.w[i]} - decoded[i], 2);
  return sum;
}

class AffineSearchTest : public testing::TestWithParam<int> {};

TEST_P(AffineSearchTest, AsGoodAsTheDefinitionAndBetterThanStock) {
  const int bits = GetParam();
  for (int group : {32, 64, 128}) {
    for (DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
      const int64_t cols = 384;
      const Case c = MakeCase(cols, 7 * bits + group);
      std::vector<uint8_t> codes(cols), reference_codes(cols);
      std::vector<float> scales(cols / group), biases(cols / group), s(cols / group), b(cols / group);
      const double error = SearchAffineRow(c.w.data(), c.h.data(), cols, {bits, group}, dtype, codes.data(), scales.data(),
                                           biases.data());
      double reference = 0;
      for (int64_t k = 0; k < cols / group; ++k) {
        reference += SearchAffineGroupReference(&c.w[k * group], &c.h[k * group], group, bits, dtype,
                                                &reference_codes[k * group], &s[k], &b[k]);
      }
      const double real = WeightedError(c, group, codes.data(), scales.data(), biases.data());
      EXPECT_NEAR(error, real, 1e-3 * real);
      EXPECT_LT(error, 1.02 * reference);
      EXPECT_LT(reference, 1.02 * error);
      const double stock = StockError(c, {bits, group}, dtype);
      EXPECT_LT(real, 0.9 * stock) << bits << " bits, group " << group;
      for (int64_t k = 0; k < cols / group; ++k) {
        std::byte stored[4];
        StoreFloat(dtype, stored, 0, scales[k]);
        EXPECT_EQ(LoadFloat(dtype, stored, 0), scales[k]);
      }
      for (uint8_t code : codes) EXPECT_LT(code, 1 << bits);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Bits, AffineSearchTest, testing::Values(2, 3, 4, 5, 6, 8));

// Values that leave nothing to search: all equal, all zero, tiny, two values, a ramp that the grid hits exactly.
TEST(AffineSearch, Degenerate) {
  const int64_t g = 64;
  std::vector<float> h(g, 1.0f);
  const auto worst = [&](const std::vector<float>& w, DType dtype) {
    std::vector<uint8_t> codes(g);
    float scale, bias;
    SearchAffineRow(w.data(), h.data(), g, {4, 64}, dtype, codes.data(), &scale, &bias);
    double e = 0;
    for (int64_t i = 0; i < g; ++i) e = std::max(e, std::fabs(double{w[i]} - (double{scale} * codes[i] + bias)));
    return e;
  };
  for (DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    EXPECT_EQ(worst(std::vector<float>(g, 0.0f), dtype), 0);
    EXPECT_EQ(worst(std::vector<float>(g, 3.0f), dtype), 0);
    EXPECT_LE(worst(std::vector<float>(g, 1e-8f), dtype), 1e-7);
    std::vector<float> two(g, -1.0f);
    for (int64_t i = 0; i < g; i += 2) two[i] = 2.0f;
    EXPECT_LE(worst(two, dtype), 15 * 0.2 / 512);  // half a unit of a bf16 scale, times the largest code
    std::vector<float> ramp(g);
    for (int64_t i = 0; i < g; ++i) ramp[i] = 0.25f * static_cast<float>(i % 16) - 2;
    EXPECT_EQ(worst(ramp, dtype), 0);
  }
}

}  // namespace
}  // namespace optiq
