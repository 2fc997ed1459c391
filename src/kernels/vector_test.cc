// Row kernels against plain double arithmetic on awkward sizes.
#include "kernels/vector.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "base/half.h"
#include "kernels/affine_decode.h"
#include "kernels/gemm.h"
#include "tensor/affine.h"

namespace optiq {
namespace {

const int64_t kSizes[] = {1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 576};

std::vector<float> Random(int64_t n, uint32_t seed, float scale = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> out(n);
  for (float& v : out) v = normal(random);
  return out;
}

TEST(VectorTest, DotProducts) {
  for (int64_t n : kSizes) {
    const std::vector<float> a = Random(n, 1), b = Random(n, 2);
    std::vector<uint16_t> bf16(n), f16(n);
    double want = 0, want_bf16 = 0, want_f16 = 0;
    for (int64_t i = 0; i < n; ++i) {
      bf16[i] = F32ToBF16(a[i]);
      f16[i] = F32ToF16(a[i]);
      want += double{a[i]} * b[i];
      want_bf16 += double{BF16ToF32(bf16[i])} * b[i];
      want_f16 += double{F16ToF32(f16[i])} * b[i];
    }
    const double tolerance = 1e-6 * n;
    EXPECT_NEAR(Dot(a.data(), b.data(), n), want, tolerance) << n;
    EXPECT_NEAR(DotStored(DType::kBF16, bf16.data(), b.data(), n), want_bf16, tolerance) << n;
    EXPECT_NEAR(DotStored(DType::kF16, f16.data(), b.data(), n), want_f16, tolerance) << n;
  }
}

TEST(VectorTest, Activations) {
  for (int64_t n : kSizes) for (float scale : {4.0f, 60.0f, 5000.0f}) {  // powers beyond f32's range too
    const std::vector<float> g = Random(n, 3, scale), u = Random(n, 4);
    std::vector<float> out(n);
    SiluMulRow(g.data(), u.data(), n, out.data());
    for (int64_t i = 0; i < n; ++i) {
      const double want = g[i] / (1 + std::exp(-double{g[i]})) * u[i];
      EXPECT_NEAR(out[i], want, 1e-6 * std::fabs(want) + 1e-9);
    }
    GeluTanhMulRow(g.data(), u.data(), n, out.data());
    for (int64_t i = 0; i < n; ++i) {
      const double x = g[i];
      const double want = 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))) * u[i];
      EXPECT_NEAR(out[i], want, 5e-6 * std::fabs(want) + 1e-7);
    }
  }
}

TEST(VectorTest, RmsNormRopeSoftmax) {
  for (int64_t n : kSizes) {
    const std::vector<float> x = Random(n, 5), w = Random(n, 6);
    std::vector<float> out(n);
    RmsNormRow(x.data(), w.data(), n, 1e-6f, out.data());
    double squares = 0;
    for (float v : x) squares += double{v} * v;
    const double inv = 1 / std::sqrt(squares / n + 1e-6);
    for (int64_t i = 0; i < n; ++i) EXPECT_NEAR(out[i], x[i] * inv * w[i], 2e-6 * (1 + std::fabs(x[i] * inv * w[i])));

    const std::vector<float> two = Random(2 * n, 7), c = Random(n, 8), s = Random(n, 9);
    std::vector<float> turned(2 * n);
    RopeRow(two.data(), c.data(), s.data(), n, turned.data());
    for (int64_t i = 0; i < n; ++i) {
      EXPECT_NEAR(turned[i], double{two[i]} * c[i] - double{two[n + i]} * s[i], 2e-6);
      EXPECT_NEAR(turned[n + i], double{two[n + i]} * c[i] + double{two[i]} * s[i], 2e-6);
    }

    std::vector<float> e = Random(n, 10, 5);
    const std::vector<float> before = e;
    const double sum = ExpRow(e.data(), n);
    double want = 0, max = -1e30;
    for (float v : before) max = std::max<double>(max, v);
    for (float v : before) want += std::exp(v - max);
    EXPECT_NEAR(sum, want, 1e-6 * want);
  }
}

// Real models reach gates of thousands: exponentials far beyond the range of f32 must come out as limits, not as garbage.
TEST(VectorTest, GatesOfAnySize) {
  std::vector<float> g, u, out;
  for (float v : {0.5f, 20.0f, 87.0f, 89.0f, 100.0f, 200.0f, 1e3f, 5e3f, 1e5f, 1e12f}) {
    for (float sign : {1.0f, -1.0f}) {
      g.push_back(sign * v);
      u.push_back(1.0f);
    }
  }
  const int64_t n = static_cast<int64_t>(g.size());
  out.resize(n);
  SiluMulRow(g.data(), u.data(), n, out.data());
  for (int64_t i = 0; i < n; ++i) EXPECT_NEAR(out[i], g[i] / (1 + std::exp(-double{g[i]})), 1e-6 * std::fabs(g[i]) + 1e-9) << g[i];
  GeluTanhMulRow(g.data(), u.data(), n, out.data());
  for (int64_t i = 0; i < n; ++i) {
    const double x = g[i], want = 0.5 * x * (1 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
    EXPECT_NEAR(out[i], want, 1e-6 * std::fabs(x) + 1e-7) << g[i];
  }
  const std::vector<float> p(64, 1.0f / 64), dz(64, 300.0f);
  double curvature = 0, mean = 0;
  KlPartialRow(p.data(), dz.data(), 64, &curvature, &mean);
  EXPECT_TRUE(std::isfinite(curvature) && curvature > 1e30);
}

TEST(VectorTest, KlPartsAreExactForTinyAndLargeDifferences) {
  for (float scale : {1e-7f, 1e-4f, 1e-2f, 0.5f, 3.0f}) {
    const int64_t n = 1003;
    std::vector<float> z = Random(n, 11, 3), dz = Random(n, 12, scale), p(n);
    double sum = 0;
    for (float v : z) sum += std::exp(double{v});
    ExpShiftedRow(z.data(), static_cast<float>(std::log(sum)), n, p.data());
    double curvature = 0, mean = 0;
    KlPartialRow(p.data(), dz.data(), n, &curvature, &mean);
    const double kl = std::log1p(curvature + mean) - mean;
    // The definition in long double.
    long double total = 0, moved = 0;
    for (int64_t i = 0; i < n; ++i) {
      total += p[i];
      moved += p[i] * std::exp(static_cast<long double>(dz[i]));
    }
    long double want = 0;
    for (int64_t i = 0; i < n; ++i) want += p[i] / total * (std::log(moved / total) - dz[i]);
    EXPECT_NEAR(kl / static_cast<double>(want), 1, 2e-3) << scale;
  }
  double curvature = 0, mean = 0;
  const std::vector<float> p(64, 1.0f / 64), zero(64, 0.0f);
  KlPartialRow(p.data(), zero.data(), 64, &curvature, &mean);
  EXPECT_EQ(curvature, 0);
  EXPECT_EQ(mean, 0);
}

TEST(AffineDecodeTest, EqualsTheScalarDefinitionBitForBit) {
  for (int bits : {2, 3, 4, 5, 6, 8}) {
    for (int group : {32, 64, 128}) {
      for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
        const int64_t cols = 3 * 128;
        AffineMatrix m = MakeAffineMatrix(2, cols, {bits, group}, dtype);
        for (int64_t r = 0; r < 2; ++r) EncodeRowRtn(Random(cols, 20 + r).data(), r, &m);
        std::vector<float> want(cols), got(cols);
        DecodeRow(m, 1, want.data());
        const int64_t scale_bytes = cols / group * DTypeBlockBytes(dtype);
        DecodeAffineRow(reinterpret_cast<const std::byte*>(m.packed.data() + m.words_per_row()), m.scales.data() + scale_bytes,
                        m.biases.data() + scale_bytes, dtype, {bits, group}, cols, got.data());
        EXPECT_EQ(want, got) << bits << " " << group;
      }
    }
  }
}

TEST(GemmTest, EveryShapeEqualsTheDefinition) {
  const int64_t nr = GemmPanelColumns();
  for (int64_t m : {1, 3, 4, 5, 11, 12, 13, 25}) {
    for (int64_t n : {int64_t{1}, nr - 1, nr}) {
      for (int64_t k : {1, 2, 7, 64, 65}) {
        const std::vector<float> a = Random(m * k, 30), b = Random(n * k, 31), before = Random(m * n, 32);
        float* panel = static_cast<float*>(std::aligned_alloc(64, (k + 1) * nr * 4));
        for (bool accumulate : {false, true}) {
          std::vector<float> c = before;
          PackPanelF32(b.data(), k, n, k, panel);
          GemmPanelF32(a.data(), k, m, panel, k, c.data(), n, n, accumulate);
          for (int64_t i = 0; i < m; ++i) {
            for (int64_t j = 0; j < n; ++j) {
              double want = accumulate ? before[i * n + j] : 0;
              for (int64_t t = 0; t < k; ++t) want += double{a[i * k + t]} * b[j * k + t];
              ASSERT_NEAR(c[i * n + j], want, 1e-5 * k) << m << " " << n << " " << k;
            }
          }
        }
        if (HasBF16Gemm()) {
          const int64_t ld = (k + 1) / 2 * 2;
          std::vector<uint16_t> a16(m * ld, 0);
          for (int64_t i = 0; i < m; ++i) ConvertToBF16(a.data() + i * k, k, a16.data() + i * ld);
          PackPanelBF16(b.data(), k, n, k, reinterpret_cast<uint16_t*>(panel));
          std::vector<float> c(m * n);
          GemmPanelBF16(a16.data(), ld, m, reinterpret_cast<uint16_t*>(panel), k, c.data(), n, n, false);
          for (int64_t i = 0; i < m; ++i) {
            for (int64_t j = 0; j < n; ++j) {
              double want = 0;
              for (int64_t t = 0; t < k; ++t) {
                want += double{BF16ToF32(a16[i * ld + t])} * BF16ToF32(F32ToBF16(b[j * k + t]));
              }
              ASSERT_NEAR(c[i * n + j], want, 1e-5 * k) << m << " " << n << " " << k;
            }
          }
        }
        std::free(panel);
      }
    }
  }
}

}  // namespace
}  // namespace optiq
