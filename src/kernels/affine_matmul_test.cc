// Every instruction set of the fast path gives the bits of the scalar definition, and the definition is close to plain arithmetic.
#include "kernels/affine_matmul.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "base/aligned.h"
#include "tensor/affine.h"

namespace optiq {
namespace {

std::vector<float> Random(int64_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 1);
  std::vector<float> out(n);
  for (float& v : out) v = normal(random);
  return out;
}

// Random codes, all values of them, at an odd address that ends where its page does not.
struct Weights {
  AffineMatrix matrix;
  std::vector<std::byte> bytes;
  AffineRows view;
};

Weights MakeWeights(int64_t rows, int64_t cols, AffineFormat format, DType dtype, uint32_t seed) {
  Weights w;
  w.matrix = MakeAffineMatrix(rows, cols, format, dtype);
  std::mt19937 random(seed);
  for (uint32_t& word : w.matrix.packed) word = random();
  std::normal_distribution<float> normal(0, 0.1f);
  for (int64_t i = 0; i < rows * w.matrix.groups_per_row(); ++i) {
    StoreFloat(dtype, w.matrix.scales.data(), i, i % 7 == 0 ? 0 : normal(random));
    StoreFloat(dtype, w.matrix.biases.data(), i, normal(random));
  }
  const size_t codes = w.matrix.packed.size() * 4, scales = w.matrix.scales.size();
  w.bytes.resize(1 + codes + 2 * scales);
  std::memcpy(w.bytes.data() + 1, w.matrix.packed.data(), codes);
  std::memcpy(w.bytes.data() + 1 + codes, w.matrix.scales.data(), scales);
  std::memcpy(w.bytes.data() + 1 + codes + scales, w.matrix.biases.data(), scales);
  w.view = {.codes = w.bytes.data() + 1,
            .scales = w.bytes.data() + 1 + codes,
            .biases = w.bytes.data() + 1 + codes + scales,
            .scale_dtype = dtype,
            .format = format,
            .cols = cols};
  return w;
}

struct Quantized {
  AlignedBuffer<std::byte> codes;
  std::vector<float> d, ds;
  QuantizedRows rows;
};

Quantized QuantizeAll(const AffineKernels& k, const std::vector<float>& x, int64_t m, int64_t cols, ActivationFormat format) {
  Quantized q;
  const int64_t blocks = cols / format.block, row_bytes = k.row_bytes(cols, format.bits);
  q.d.resize(m * blocks);
  q.ds.resize(m * blocks);
  std::byte* codes = q.codes.Grow(m * row_bytes);
  for (int64_t i = 0; i < m; ++i) {
    k.quantize(x.data() + i * cols, cols, format, codes + i * row_bytes, q.d.data() + i * blocks, q.ds.data() + i * blocks);
  }
  q.rows = {.codes = codes, .d = q.d.data(), .ds = q.ds.data(), .m = m, .row_bytes = row_bytes, .blocks = blocks,
            .bits = format.bits};
  return q;
}

std::vector<float> Product(const AffineKernels& k, const AffineRows& w, int64_t begin, int64_t end,
                           const std::vector<float>& x, int64_t m, ActivationBits bits) {
  Quantized q = QuantizeAll(k, x, m, w.cols, ActivationFormatFor(w, bits));
  AlignedBuffer<std::byte> packed_codes(m * q.rows.row_bytes);
  std::vector<float> d(q.d.size()), ds(q.ds.size());
  if (k.pack != nullptr) {
    QuantizedRows packed = q.rows;
    packed.codes = packed_codes.data();
    packed.d = d.data();
    packed.ds = ds.data();
    for (int64_t tile = 0; tile < k.pack_tiles(m); ++tile) k.pack(q.rows, tile, packed);
    q.rows = packed;
  }
  AlignedBuffer<std::byte> scratch(k.scratch_bytes(w.cols, m) + 64);
  std::vector<float> y(m * (end - begin), 1e30f);
  k.gemm(w, begin, end, q.rows, y.data(), end - begin, scratch.data());
  return y;
}

// Behind the strips lies memory that must not be read for a result.
AffineRows InStrips(const AffineKernels& k, const AffineRows& w, int64_t rows, AlignedBuffer<std::byte>* memory) {
  const int64_t strips = (rows + 15) / 16;
  AffineRows out = w;
  std::byte* to = memory->Grow(strips * k.strip_bytes(w) + 64);
  std::memset(to, 0xff, strips * k.strip_bytes(w) + 64);
  k.pack_strips(w, rows, strips / 2, strips, to);
  k.pack_strips(w, rows, 0, strips / 2, to);
  out.strips = to;
  out.codes = out.scales = out.biases = nullptr;
  return out;
}

class AffineMatmulTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    kernels_ = AffineKernelsNamed(GetParam());
    if (kernels_ == nullptr) GTEST_SKIP() << "not on this CPU";
  }
  const AffineKernels& scalar_ = *AffineKernelsNamed("scalar");
  const AffineKernels* kernels_ = nullptr;
};

TEST_P(AffineMatmulTest, BitsOfTheDefinition) {
  for (int bits : {2, 3, 4, 5, 6, 8}) {
    for (int group : {32, 64, 128}) {
      for (int64_t cols : {int64_t{group}, int64_t{3 * group}, int64_t{576} / group * group + group, int64_t{1152}, int64_t{2176}}) {
        if (cols % group != 0) continue;
        const DType dtype = group == 32 ? DType::kF16 : group == 64 ? DType::kBF16 : DType::kF32;
        const int64_t rows = 45;
        const Weights w = MakeWeights(rows, cols, {bits, group}, dtype, static_cast<uint32_t>(bits * group + cols));
        for (ActivationBits precision : {ActivationBits::k8, ActivationBits::k15}) {
          const std::vector<float> x = Random(29 * cols, 7);
          for (int64_t m : {1, 2, 5, 29}) {
            for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 45}, {7, 8}, {3, 36}}) {
              const std::vector<float> want = Product(scalar_, w.view, begin, end, x, m, precision);
              ASSERT_EQ(Product(*kernels_, w.view, begin, end, x, m, precision), want)
                  << bits << " " << group << " " << cols << " " << m;
              if (m > 1) continue;
              Quantized q = QuantizeAll(*kernels_, x, 1, cols, ActivationFormatFor(w.view, precision));
              std::vector<float> y(end - begin, 1e30f);
              kernels_->gemv(w.view, begin, end, end, q.rows, y.data());
              ASSERT_EQ(y, want) << bits << " " << group << " " << cols;
            }
          }
        }
      }
    }
  }
}

TEST_P(AffineMatmulTest, StripsGiveTheSameBits) {
  if (kernels_->pack_strips == nullptr) GTEST_SKIP() << "reads weights as they are stored";
  for (int bits : {2, 3, 4, 5, 6, 8}) {
    for (int group : {32, 64, 128}) {
      for (int64_t cols : {int64_t{group}, int64_t{3 * group}, int64_t{1152}, int64_t{2176}}) {
        if (cols % group != 0) continue;
        const DType dtype = group == 32 ? DType::kF16 : group == 64 ? DType::kBF16 : DType::kF32;
        const int64_t rows = 77;
        const Weights w = MakeWeights(rows, cols, {bits, group}, dtype, static_cast<uint32_t>(bits * group + cols));
        AlignedBuffer<std::byte> memory;
        const AffineRows strips = InStrips(*kernels_, w.view, rows, &memory);
        for (ActivationBits precision : {ActivationBits::k8, ActivationBits::k15}) {
          const std::vector<float> x = Random(29 * cols, 7);
          for (int64_t m : {1, 2, 3, 4, 5, 6, 7, 29}) {
            for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 77}, {16, 32}, {32, 77}, {16, 41}}) {
              const std::vector<float> want = Product(scalar_, w.view, begin, end, x, m, precision);
              ASSERT_EQ(Product(*kernels_, strips, begin, end, x, m, precision), want)
                  << bits << " " << group << " " << cols << " " << m;
              if (m > 1) continue;
              Quantized q = QuantizeAll(*kernels_, x, 1, cols, ActivationFormatFor(strips, precision));
              std::vector<float> y(end - begin, 1e30f);
              kernels_->gemv(strips, begin, end, end, q.rows, y.data());
              ASSERT_EQ(y, want) << bits << " " << group << " " << cols;
            }
          }
        }
      }
    }
  }
}

TEST_P(AffineMatmulTest, ExtremeCodes) {
  // All codes 255 times all activations at the edge: the largest sums there are.
  for (int group : {32, 64, 128}) {
    const int64_t cols = 4 * group;
    Weights w = MakeWeights(16, cols, {8, group}, DType::kF32, 1);
    for (size_t i = 1; i <= w.matrix.packed.size() * 4; ++i) w.bytes[i] = std::byte{255};
    for (float sign : {1.0f, -1.0f}) {
      const std::vector<float> x(2 * cols, sign * 3.7f);
      for (ActivationBits precision : {ActivationBits::k8, ActivationBits::k15}) {
        EXPECT_EQ(Product(*kernels_, w.view, 0, 16, x, 2, precision), Product(scalar_, w.view, 0, 16, x, 2, precision));
      }
    }
  }
}

TEST_P(AffineMatmulTest, ZeroTinyAndNonFiniteActivations) {
  const int64_t cols = 256;
  const Weights w = MakeWeights(16, cols, {4, 64}, DType::kBF16, 2);
  for (ActivationBits precision : {ActivationBits::k8, ActivationBits::k15}) {
    EXPECT_EQ(Product(*kernels_, w.view, 0, 16, std::vector<float>(cols, 0.0f), 1, precision), std::vector<float>(16, 0.0f));
    EXPECT_EQ(Product(*kernels_, w.view, 0, 16, std::vector<float>(cols, 1e-42f), 1, precision), std::vector<float>(16, 0.0f));
    for (float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
      std::vector<float> x = Random(cols, 3);
      x[130] = bad;
      for (float v : Product(*kernels_, w.view, 0, 16, x, 1, precision)) EXPECT_FALSE(std::isfinite(v));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, AffineMatmulTest, testing::Values("scalar", "avx2", "avx512vnni", "neon"),
                         [](const auto& info) { return std::string(info.param); });

TEST(AffineMatmulDefinitionTest, IsCloseToRealArithmetic) {
  const AffineKernels& k = *AffineKernelsNamed("scalar");
  for (int bits : {2, 4, 8}) {
    const int64_t cols = 1024, rows = 8;
    const Weights w = MakeWeights(rows, cols, {bits, 64}, DType::kF32, 4);
    const std::vector<float> x = Random(cols, 5);
    std::vector<float> row(cols);
    for (ActivationBits precision : {ActivationBits::k8, ActivationBits::k15}) {
      const std::vector<float> y = Product(k, w.view, 0, rows, x, 1, precision);
      for (int64_t r = 0; r < rows; ++r) {
        DecodeRow(w.matrix, r, row.data());
        double want = 0, squares = 0;
        for (int64_t i = 0; i < cols; ++i) {
          want += double{row[i]} * x[i];
          squares += double{row[i]} * row[i];
        }
        // Rounding noise: independent errors of d / sqrt(12), d = max / top, with max about 3 here.
        const double step = 3.5 / (precision == ActivationBits::k8 ? 127 : 127 * 128);
        EXPECT_NEAR(y[r], want, 5 * step / std::sqrt(12.0) * std::sqrt(squares) + 1e-4) << bits;
      }
    }
  }
}

}  // namespace
}  // namespace optiq
