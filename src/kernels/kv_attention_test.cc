// The cache kernels against the scalar definition of a page, for every format, odd page sizes and partial ranges of blocks.
#include "kernels/kv_attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "base/checked.h"
#include "kernels/gemm.h"
#include "kernels/kv_write.h"

namespace optiq {
namespace {

struct Case {
  KvFormat format;
  int64_t heads, head_dim, rows;
};

std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (int bits : {2, 3, 4, 5, 6, 8}) {
    for (int group : {32, 64, 128}) {
      cases.push_back({{bits, group, DType::kBF16}, 2, 128, 48});
      cases.push_back({{bits, group, DType::kF32}, 1, 3 * group, 16});
    }
    cases.push_back({{bits, 64, DType::kBF16}, 1, 64, 256});
  }
  for (int bits : {16, 32}) {
    cases.push_back({{bits}, 2, 64, 48});
    cases.push_back({{bits}, 1, 24, 16});
    cases.push_back({{bits}, 1, 80, 256});
    cases.push_back({{bits}, 1, 256, 32});
  }
  return cases;
}

class Page {
 public:
  Page(const Case& c, KvSide side, uint32_t seed) : layout_{c.format, c.heads, c.head_dim, c.rows}, side_(side) {
    bytes_.assign(layout_.bytes() / sizeof(uint64_t), 0xa5a5a5a5a5a5a5a5u);  // rows are overwritten, as in a ring
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    values_.resize(c.heads * c.rows * c.head_dim);
    for (float& v : values_) v = normal(random) + 0.5f;
    for (int64_t h = 0; h < c.heads; ++h) {
      for (int64_t r = 0; r < c.rows; ++r) {
        float* x = &values_[(h * c.rows + r) * c.head_dim];
        WriteKvRow(layout_, side, page(), h, r, x);
        DecodeKvRow(layout_, side, page(), h, r, x);
      }
    }
  }
  std::byte* page() { return reinterpret_cast<std::byte*>(bytes_.data()); }
  const float* row(int64_t head, int64_t r) const { return &values_[(head * layout_.rows + r) * layout_.head_dim]; }
  KvTile tile(int64_t head) { return TileOf(layout_, page(), head); }
  const KvPageLayout& layout() const { return layout_; }

 private:
  KvPageLayout layout_;
  KvSide side_;
  std::vector<uint64_t> bytes_;
  std::vector<float> values_;  // decoded
};

TEST(KvWrite, SameBytesAsTheScalarDefinition) {
  std::mt19937 random(7);
  for (const Case& c : Cases()) {
    for (KvSide side : {KvSide::kKeys, KvSide::kValues}) {
      const KvPageLayout l{c.format, c.heads, c.head_dim, c.rows};
      std::vector<uint64_t> fast(l.bytes() / 8, 0x123456789abcdef0u), slow = fast;
      for (int64_t r = 0; r < c.rows; ++r) {
        std::vector<float> x(c.head_dim);
        std::normal_distribution<float> normal(r % 3 == 0 ? 0.0f : 40.0f, r % 5 == 0 ? 1e-4f : 3.0f);
        for (float& v : x) v = r == 7 ? 0.0f : r == 11 ? -3.5f : normal(random);
        if (r == 9) x[3] = 1e4f;
        WriteKvRow(l, side, reinterpret_cast<std::byte*>(fast.data()), c.heads - 1, r, x.data());
        EncodeKvRow(l, side, reinterpret_cast<std::byte*>(slow.data()), c.heads - 1, r, x.data());
      }
      EXPECT_EQ(fast, slow) << c.format.bits << " bits, group " << c.format.group_size << ", head " << c.head_dim;
    }
  }
}

TEST(KvPage, OverwritingARowLeavesItsNeighbours) {
  for (const Case& c : Cases()) {
    for (KvSide side : {KvSide::kKeys, KvSide::kValues}) {
      Page page(c, side, 3);
      std::vector<float> zero(c.head_dim, 0.0f), got(c.head_dim);
      WriteKvRow(page.layout(), side, page.page(), c.heads - 1, 5, zero.data());
      for (int64_t r = 0; r < c.rows; ++r) {
        DecodeKvRow(page.layout(), side, page.page(), c.heads - 1, r, got.data());
        for (int64_t e = 0; e < c.head_dim; ++e) {
          ASSERT_EQ(got[e], r == 5 ? 0.0f : page.row(c.heads - 1, r)[e]) << c.format.bits << " row " << r;
        }
      }
    }
  }
}

TEST(KvKeys, ScoresEqualDotProducts) {
  for (const Case& c : Cases()) {
    Page page(c, KvSide::kKeys, 1);
    const KvTile tile = page.tile(c.heads - 1);
    const int64_t blocks = c.rows / kKvBlock;
    for (int queries = 1; queries <= kKvQueries; ++queries) {
      std::vector<float> q(queries * tile.dim, 0.0f);
      for (int h = 0; h < queries; ++h) {
        for (int64_t e = 0; e < c.head_dim; ++e) q[h * tile.dim + e] = std::sin(0.7f * e + h);
      }
      for (int64_t begin = 0; begin < std::min<int64_t>(blocks, 2); ++begin) {
        const int64_t stride = c.rows + 5;
        std::vector<float> scores(queries * stride, -1.0f);
        KvKeyScores(tile, q.data(), queries, begin, blocks, scores.data(), stride);
        for (int h = 0; h < queries; ++h) {
          for (int64_t r = begin * kKvBlock; r < c.rows; ++r) {
            double want = 0, size = 0;
            for (int64_t e = 0; e < c.head_dim; ++e) {
              const double term = double{q[h * tile.dim + e]} * page.row(c.heads - 1, r)[e];
              want += term;
              size += std::fabs(term);
            }
            ASSERT_NEAR(scores[h * stride + r - begin * kKvBlock], want, 3e-6 * size + 1e-6)
                << c.format.bits << " bits, head " << c.head_dim << " row " << r << " queries " << queries;
          }
        }
      }
    }
  }
}

TEST(KvValues, WeightedSums) {
  for (const Case& c : Cases()) {
    Page page(c, KvSide::kValues, 2);
    const KvTile tile = page.tile(c.heads - 1);
    const int64_t blocks = c.rows / kKvBlock;
    for (int queries = 1; queries <= kKvQueries; ++queries) {
      for (int64_t begin = 0; begin < std::min<int64_t>(blocks, 2); ++begin) {
        const int64_t stride = c.rows + 3;
        std::vector<float> p(queries * stride), out(queries * tile.dim, 1.0f);
        for (size_t i = 0; i < p.size(); ++i) p[i] = i % 7 == 0 ? 0.0f : 0.01f * (i % 13);
        KvAddValues(tile, p.data(), stride, queries, begin, blocks, out.data());
        for (int h = 0; h < queries; ++h) {
          for (int64_t e = 0; e < c.head_dim; ++e) {
            double want = 1, size = 1;
            for (int64_t r = begin * kKvBlock; r < c.rows; ++r) {
              const double term = double{p[h * stride + r - begin * kKvBlock]} * page.row(c.heads - 1, r)[e];
              want += term;
              // The kernel sums weight * scale * (2^bits + code) and takes the offset off at the end: its rounding is that of terms of
              // up to four times the range of the values.
              const float* row = page.row(c.heads - 1, r);
              const auto [low, high] = std::minmax_element(row, row + c.head_dim);
              size += std::fabs(term) + (c.format.quantized() ? 4 * std::fabs(p[h * stride + r - begin * kKvBlock]) * (*high - *low) : 0);
            }
            ASSERT_NEAR(out[h * tile.dim + e], want, 3e-6 * size) << c.format.bits << " head " << c.head_dim << " e " << e;
          }
        }
      }
    }
  }
}

TEST(KvPanels, HoldTheValues) {
  const int64_t nr = GemmPanelColumns();
  for (const Case& c : Cases()) {
    for (KvSide side : {KvSide::kKeys, KvSide::kValues}) {
      Page page(c, side, 5);
      const KvTile tile = page.tile(c.heads - 1);
      const int64_t blocks = c.rows / kKvBlock;
      for (int64_t begin = 0; begin < std::min<int64_t>(blocks, 2); ++begin) {
        const int64_t rows = (blocks - begin) * kKvBlock;
        std::vector<float> panels(RoundUp(std::max(rows, tile.dim), nr) * std::max(rows, tile.dim), NAN);
        if (side == KvSide::kKeys) {
          KvKeyPanels(tile, begin, blocks, panels.data());
        } else {
          KvValuePanels(tile, begin, blocks, panels.data());
        }
        const int64_t columns = side == KvSide::kKeys ? rows : tile.dim, depth = side == KvSide::kKeys ? tile.dim : rows;
        for (int64_t column = 0; column < RoundUp(columns, nr); ++column) {
          for (int64_t k = 0; k < depth; ++k) {
            const int64_t r = side == KvSide::kKeys ? column : k, e = side == KvSide::kKeys ? k : column;
            const bool inside = r < rows && e < c.head_dim;
            const float want = inside ? page.row(c.heads - 1, begin * kKvBlock + r)[e] : 0.0f;
            ASSERT_NEAR(panels[(column / nr * depth + k) * nr + column % nr], want, 4e-6 * (1 + std::fabs(want)));
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace optiq
