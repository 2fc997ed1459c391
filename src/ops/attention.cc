#include "ops/attention.h"

#include <algorithm>
#include <cstring>

#include "base/aligned.h"
#include "base/checked.h"
#include "kernels/gemm.h"
#include "kernels/vector.h"

namespace optiq {
namespace {

// Below this many queries keys are read in place; above, keys and values are packed into panels first.
constexpr int64_t kPackRows = 8;
// Queries of one score tile.
constexpr int64_t kQueryTile = 48;

struct Scratch {
  AlignedBuffer<float> k_panels, v_panels, scores;
};

Scratch& ThreadScratch() {
  thread_local Scratch scratch;
  return scratch;
}

int64_t FirstVisible(int64_t position, int64_t window) {
  return window > 0 ? std::max<int64_t>(0, position - window + 1) : 0;
}

// Query by query, for one key-value head.
void AttendInPlace(const AttentionCall& c, const AttentionShape& s, int64_t kv_head) {
  const int64_t d = s.head_dim, kv_stride = s.num_kv_heads * d, q_stride = s.num_heads * d;
  const int64_t group = s.num_heads / s.num_kv_heads;
  float* scores = ThreadScratch().scores.Grow(c.start + c.rows);
  for (int64_t t = 0; t < c.rows; ++t) {
    const int64_t position = c.start + t, first = FirstVisible(position, s.window);
    for (int64_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
      const float* q = c.q + t * q_stride + h * d;
      for (int64_t j = first; j <= position; ++j) scores[j - first] = s.scale * Dot(q, c.k + j * kv_stride + kv_head * d, d);
      const int64_t n = position - first + 1;
      const float inv = 1.0f / ExpRow(scores, n);
      float* out = c.out + t * q_stride + h * d;
      std::memset(out, 0, d * sizeof(float));
      for (int64_t j = 0; j < n; ++j) AxpyRow(scores[j] * inv, c.v + (first + j) * kv_stride + kv_head * d, d, out);
    }
  }
}

// Tiles of queries against packed keys [panel][head_dim][nr] and values [panel][position][nr].
void AttendPacked(const AttentionCall& c, const AttentionShape& s, int64_t kv_head) {
  const int64_t d = s.head_dim, kv_stride = s.num_kv_heads * d, q_stride = s.num_heads * d;
  const int64_t group = s.num_heads / s.num_kv_heads, length = c.start + c.rows, nr = GemmPanelColumns();
  const int64_t base = FirstVisible(c.start, s.window) / nr * nr;  // nothing before it is visible from any query
  const int64_t span = length - base, key_panels = DivUp(span, nr), value_panels = DivUp(d, nr);
  Scratch& scratch = ThreadScratch();
  float* keys = scratch.k_panels.Grow(key_panels * d * nr);
  float* values = scratch.v_panels.Grow(value_panels * span * nr);
  for (int64_t p = 0; p < key_panels; ++p) {
    PackPanelF32(c.k + (base + p * nr) * kv_stride + kv_head * d, kv_stride, std::min(nr, span - p * nr), d,
                 keys + p * d * nr);
  }
  for (int64_t p = 0; p < value_panels; ++p) {
    const int64_t columns = std::min(nr, d - p * nr);
    float* panel = values + p * span * nr;
    for (int64_t j = 0; j < span; ++j) {
      std::memcpy(panel + j * nr, c.v + (base + j) * kv_stride + kv_head * d + p * nr, columns * sizeof(float));
      std::fill(panel + j * nr + columns, panel + (j + 1) * nr, 0.0f);
    }
  }
  const int64_t score_stride = key_panels * nr;
  float* scores = scratch.scores.Grow(kQueryTile * score_stride);
  for (int64_t t0 = 0; t0 < c.rows; t0 += kQueryTile) {
    const int64_t tile = std::min(kQueryTile, c.rows - t0);
    const int64_t begin = (FirstVisible(c.start + t0, s.window) - base) / nr;  // in panels
    const int64_t end = DivUp(c.start + t0 + tile - base, nr);
    const int64_t offset = begin * nr, n = std::min(span, end * nr) - offset;
    for (int64_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
      const float* q = c.q + t0 * q_stride + h * d;
      for (int64_t p = begin; p < end; ++p) {
        GemmPanelF32(q, q_stride, tile, keys + p * d * nr, d, scores + (p - begin) * nr, score_stride, nr, false);
      }
      float inv[kQueryTile];
      for (int64_t t = 0; t < tile; ++t) {
        const int64_t position = c.start + t0 + t - base - offset;  // within the tile's span
        const int64_t first = s.window > 0 ? std::max<int64_t>(0, position - s.window + 1) : 0;
        float* row = scores + t * score_stride;
        std::fill(row, row + first, 0.0f);
        ScaleRow(row + first, s.scale, position - first + 1, row + first);
        inv[t] = 1.0f / ExpRow(row + first, position - first + 1);
        std::fill(row + position + 1, row + n, 0.0f);
      }
      for (int64_t p = 0; p < value_panels; ++p) {
        float* out = c.out + t0 * q_stride + h * d + p * nr;
        GemmPanelF32(scores, score_stride, tile, values + (p * span + offset) * nr, n, out, q_stride,
                     std::min(nr, d - p * nr), false);
      }
      for (int64_t t = 0; t < tile; ++t) {
        float* out = c.out + (t0 + t) * q_stride + h * d;
        ScaleRow(out, inv[t], d, out);
      }
    }
  }
}

}  // namespace

void Attention(std::span<const AttentionCall> calls, const AttentionShape& shape, ThreadPool* pool) {
  pool->ParallelFor(static_cast<int64_t>(calls.size()) * shape.num_kv_heads, [&](int64_t task, int) {
    const AttentionCall& call = calls[task / shape.num_kv_heads];
    const int64_t kv_head = task % shape.num_kv_heads;
    if (call.rows < kPackRows) {
      AttendInPlace(call, shape, kv_head);
    } else {
      AttendPacked(call, shape, kv_head);
    }
  });
}

}  // namespace optiq
