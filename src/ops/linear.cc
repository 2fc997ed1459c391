#include "ops/linear.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/aligned.h"
#include "base/checked.h"
#include "kernels/affine_decode.h"
#include "kernels/gemm.h"
#include "kernels/vector.h"
#include "ops/linear_fast.h"

namespace optiq {
namespace {

// Output rows of one task (their panels stay in the second-level cache) and steps of the inner dimension between two
// visits of the output.
constexpr int64_t kBlockRows = 128;
constexpr int64_t kBlockDepth = 768;
// Rows of x per register tile.
constexpr int64_t kTileRows = 12;

struct Scratch {
  AlignedBuffer<float> rows, panel, block;
  AlignedBuffer<uint16_t> panel_bf16;
};

Scratch& ThreadScratch() {
  thread_local Scratch scratch;
  return scratch;
}

const std::byte* RowBytes(const StoredTensor& t, int64_t row) {
  return t.bytes.data() + row * (t.bytes.size() / t.rows());
}

void FewRows(const float* x, int64_t m, int64_t ldx, const WeightMatrix& w, const float* bias, float* y, int64_t ldy,
             ThreadPool* pool) {
  constexpr int64_t kChunk = 32;
  // Files of mlx do not pad their headers: rows may lie at any address, and only aligned ones are read in place.
  const bool direct = !w.affine && w.weight.is_plain() &&
                      reinterpret_cast<uintptr_t>(w.weight.bytes.data()) % DTypeBlockBytes(w.weight.dtype) == 0;
  pool->ParallelFor(DivUp(w.rows, kChunk), [&](int64_t task, int) {
    const int64_t begin = task * kChunk, end = std::min(w.rows, begin + kChunk);
    float* row = direct ? nullptr : ThreadScratch().rows.Grow(w.cols);
    for (int64_t j = begin; j < end; ++j) {
      if (!direct) DecodeRows(w, j, j + 1, row);
      for (int64_t i = 0; i < m; ++i) {
        const float* xi = x + i * ldx;
        const float sum =
            direct ? DotStored(w.weight.dtype, RowBytes(w.weight, j), xi, w.cols) : Dot(row, xi, w.cols);
        y[i * ldy + j] = bias != nullptr ? sum + bias[j] : sum;
      }
    }
  });
}

// x in bf16 with an even row stride, padded with a zero.
struct BF16Rows {
  AlignedBuffer<uint16_t> data;
  int64_t ld = 0;
};

BF16Rows ToBF16Rows(const float* x, int64_t m, int64_t ldx, int64_t cols, ThreadPool* pool) {
  BF16Rows out;
  out.ld = RoundUp(cols, 2);
  out.data.Grow(m * out.ld);
  constexpr int64_t kRows = 64;
  pool->ParallelFor(DivUp(m, kRows), [&](int64_t task, int) {
    for (int64_t i = task * kRows; i < std::min(m, (task + 1) * kRows); ++i) {
      uint16_t* row = out.data.data() + i * out.ld;
      ConvertToBF16(x + i * ldx, cols, row);
      if (out.ld > cols) row[cols] = 0;
    }
  });
  return out;
}

// Output rows [begin, end) (at most kBlockRows) into y[.., 0..end-begin).
void BlockProduct(const float* x, const BF16Rows* xb, int64_t m, int64_t ldx, const WeightMatrix& w, int64_t begin,
                  int64_t end, float* y, int64_t ldy) {
  Scratch& s = ThreadScratch();
  const int64_t nr = GemmPanelColumns(), n = end - begin, panels = DivUp(n, nr);
  const bool stored = xb != nullptr && !w.affine && w.weight.is_plain() && w.weight.dtype == DType::kBF16;
  float* rows = stored ? nullptr : s.rows.Grow(n * w.cols);
  if (!stored) DecodeRows(w, begin, end, rows);
  for (int64_t k0 = 0; k0 < w.cols; k0 += kBlockDepth) {
    const int64_t k = std::min(kBlockDepth, w.cols - k0);
    float* panel = nullptr;
    uint16_t* panel_bf16 = nullptr;
    const int64_t panel_size = RoundUp(k, 2) * nr;
    if (xb != nullptr) {
      panel_bf16 = s.panel_bf16.Grow(panels * panel_size);
    } else {
      panel = s.panel.Grow(panels * panel_size);
    }
    for (int64_t p = 0; p < panels; ++p) {
      const int64_t columns = std::min(nr, n - p * nr);
      if (stored) {
        const int64_t stride = w.cols * 2;
        const std::byte* source = RowBytes(w.weight, begin + p * nr) + k0 * 2;
        const bool more = p + 1 < panels && n - (p + 1) * nr >= nr;
        PackPanelStoredBF16(source, stride, columns, k, more ? source + nr * stride : nullptr, panel_bf16 + p * panel_size);
        continue;
      }
      const float* source = rows + p * nr * w.cols + k0;
      if (xb != nullptr) {
        PackPanelBF16(source, w.cols, columns, k, panel_bf16 + p * panel_size);
      } else {
        PackPanelF32(source, w.cols, columns, k, panel + p * panel_size);
      }
    }
    for (int64_t i = 0; i < m; i += kTileRows) {
      const int64_t tile = std::min(kTileRows, m - i);
      for (int64_t p = 0; p < panels; ++p) {
        const int64_t columns = std::min(nr, n - p * nr);
        float* out = y + i * ldy + p * nr;
        if (xb != nullptr) {
          GemmPanelBF16(xb->data.data() + i * xb->ld + k0, xb->ld, tile, panel_bf16 + p * panel_size, k, out, ldy,
                        columns, k0 > 0);
        } else {
          GemmPanelF32(x + i * ldx + k0, ldx, tile, panel + p * panel_size, k, out, ldy, columns, k0 > 0);
        }
      }
    }
  }
}

}  // namespace

void DecodeRows(const WeightMatrix& w, int64_t begin, int64_t end, float* out) {
  if (!w.affine) return ReadRows(w.weight, begin, end, out);
  for (int64_t row = begin; row < end; ++row) {
    DecodeAffineRow(RowBytes(w.weight, row), RowBytes(w.scales, row), RowBytes(w.biases, row), w.scales.dtype,
                    *w.affine, w.cols, out + (row - begin) * w.cols);
  }
}

void Linear(const float* x, int64_t m, int64_t ldx, const WeightMatrix& w, const float* bias, float* y, int64_t ldy,
            ThreadPool* pool, Products products) {
  if (IsFast(products) && w.affine) {
    const LinearProduct product = {.w = &w, .bias = bias, .y = y, .ldy = ldy};
    return LinearAffine(x, m, ldx, {&product, 1}, ActivationBits::k15, pool);
  }
  const bool fast = IsFast(products) && w.weight.is_plain() && HasBF16Gemm();
  const bool fixed = products == Products::kF32Fixed || products == Products::kFastFixed;
  if (m <= kFewRows && !fast && !fixed) return FewRows(x, m, ldx, w, bias, y, ldy, pool);
  const bool bf16 = fast || (products == Products::kBF16 && HasBF16Gemm());
  BF16Rows xb;
  if (bf16) xb = ToBF16Rows(x, m, ldx, w.cols, pool);
  // Smaller blocks when there would not be enough of them to keep every thread busy to the end.
  int64_t block = kBlockRows;
  while (block > GemmPanelColumns() && DivUp(w.rows, block) < 4 * pool->num_threads()) block /= 2;
  pool->ParallelFor(DivUp(w.rows, block), [&](int64_t task, int) {
    const int64_t begin = task * block, end = std::min(w.rows, begin + block);
    BlockProduct(x, bf16 ? &xb : nullptr, m, ldx, w, begin, end, y + begin, ldy);
    if (bias != nullptr) {
      for (int64_t i = 0; i < m; ++i) AddRow(y + i * ldy + begin, bias + begin, end - begin, y + i * ldy + begin);
    }
  });
}

void LinearMany(const float* x, int64_t m, int64_t ldx, std::span<const LinearProduct> all, ThreadPool* pool,
                Products products) {
  const bool affine = std::all_of(all.begin(), all.end(), [](const LinearProduct& p) { return p.w->affine.has_value(); });
  if (IsFast(products) && affine) return LinearAffine(x, m, ldx, all, ActivationBits::k15, pool);
  for (const LinearProduct& p : all) Linear(x, m, ldx, *p.w, p.bias, p.y, p.ldy, pool, products);
}

void LinearBlocks(const float* x, int64_t m, int64_t ldx, const WeightMatrix& w, int64_t row_begin, int64_t row_end,
                  ThreadPool* pool, Products products,
                  const std::function<void(int64_t, int64_t, const float*, int)>& consume) {
  const bool bf16 = products == Products::kBF16 && HasBF16Gemm();
  BF16Rows xb;
  if (bf16) xb = ToBF16Rows(x, m, ldx, w.cols, pool);
  const int64_t rows = row_end - row_begin;
  pool->ParallelFor(DivUp(rows, kBlockRows), [&](int64_t task, int thread) {
    const int64_t begin = row_begin + task * kBlockRows, end = std::min(row_end, begin + kBlockRows);
    float* block = ThreadScratch().block.Grow(m * (end - begin));
    BlockProduct(x, bf16 ? &xb : nullptr, m, ldx, w, begin, end, block, end - begin);
    consume(begin, end - begin, block, thread);
  });
}

}  // namespace optiq
