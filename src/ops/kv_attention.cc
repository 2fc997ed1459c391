#include "ops/kv_attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/aligned.h"
#include "base/checked.h"
#include "base/status.h"
#include "kernels/gemm.h"
#include "kernels/kv_attention.h"
#include "kernels/vector.h"

namespace optiq {
namespace {

// Up to this many query vectors (rows times heads of a group) the pages are read by the few-query kernels.
constexpr int64_t kFewQueries = 16;
// Keys of one task of a call with few queries.
constexpr int64_t kRangeKeys = 512;
// Rows of one task of a call with many.
constexpr int64_t kQueryTile = 48;
constexpr float kNone = -std::numeric_limits<float>::infinity();

// Rows [begin, end) of one page, with consecutive positions.
struct Piece {
  const KvPageLayout* keys = nullptr;
  const KvPageLayout* values = nullptr;
  const std::byte* page = nullptr;
  int64_t begin = 0, end = 0;
  int64_t position = 0;  // of row `begin`

  int64_t block_begin() const { return begin / kKvBlock; }
  int64_t block_end() const { return DivUp(end, kKvBlock); }
  int64_t padded() const { return (block_end() - block_begin()) * kKvBlock; }
  int64_t lead() const { return begin - block_begin() * kKvBlock; }  // rows of the first block before `begin`
  KvTile key_tile(int64_t head) const { return TileOf(*keys, page, head); }
  KvTile value_tile(int64_t head) const { return TileOf(*values, page + keys->bytes(), head); }
};

// The pieces of which some query of positions first..last sees something.
std::vector<Piece> PiecesOf(const std::vector<KvSpan>& spans, int64_t first, int64_t last, int64_t window) {
  std::vector<Piece> pieces;
  const int64_t oldest = window > 0 ? first - window + 1 : 0;  // no position is negative
  for (const KvSpan& span : spans) {
    const int64_t rows = span.store.keys->rows;
    const int64_t skip = std::max<int64_t>(0, std::min(span.count, oldest - span.position));
    const int64_t end = span.slot + std::min(span.count, std::max<int64_t>(0, last + 1 - span.position));
    for (int64_t slot = span.slot + skip; slot < end;) {
      const int64_t stop = std::min(end, (slot / rows + 1) * rows);
      pieces.push_back({.keys = span.store.keys, .values = span.store.values, .page = span.store.pages[slot / rows],
                        .begin = slot % rows, .end = slot % rows + stop - slot,
                        .position = span.position + slot - span.slot});
      slot = stop;
    }
  }
  return pieces;
}

struct Visible {
  int64_t begin, end;  // rows of the piece, counted from piece.begin
};
Visible VisibleRows(const Piece& piece, int64_t query, int64_t window) {
  const int64_t n = piece.end - piece.begin;
  const int64_t end = std::clamp<int64_t>(query - piece.position + 1, 0, n);
  const int64_t begin = window > 0 ? std::clamp<int64_t>(query - window + 1 - piece.position, 0, end) : 0;
  return {begin, end};
}

// In place over n scores: exponentials of their differences from the maximum, which is returned, and their sum.
float SoftmaxRow(float* x, int64_t n, float* sum) {
  const float top = n > 0 ? MaxRow(x, n) : kNone;
  if (top == kNone) {
    std::fill(x, x + n, 0.0f);
    *sum = 0;
    return kNone;
  }
  *sum = ExpRow(x, n);
  return top;
}

struct Scratch {
  AlignedBuffer<float> q, scores, out, keys, values, state;
};
Scratch& ThreadScratch() {
  thread_local Scratch scratch;
  return scratch;
}

// ---- few queries ----

// What one task leaves for the merge, per query vector: maximum, sum, weighted sum of values.
struct Partials {
  int64_t queries = 0, dim = 0;
  int64_t size() const { return queries * (dim + 2); }
};

// Pieces [first, last) of a call for one key-value head.
void AttendRange(const KvAttentionCall& c, const AttentionShape& s, int64_t kv_head, const Piece* first, const Piece* last,
                 float* partial) {
  const int64_t d = s.head_dim, dim = RoundUp(d, kKvChunk), group = s.num_heads / s.num_kv_heads;
  const int64_t queries = c.rows * group;
  Scratch& scratch = ThreadScratch();
  float* q = scratch.q.Grow(queries * dim);
  for (int64_t t = 0; t < c.rows; ++t) {
    for (int64_t h = 0; h < group; ++h) {
      float* row = q + (t * group + h) * dim;
      ScaleRow(c.q + (t * s.num_heads + kv_head * group + h) * d, s.scale, d, row);
      std::fill(row + d, row + dim, 0.0f);
    }
  }
  int64_t width = 0;
  for (const Piece* p = first; p != last; ++p) width += p->padded();
  float* scores = scratch.scores.Grow(queries * width);
  int64_t column = 0;
  for (const Piece* p = first; p != last; column += p->padded(), ++p) {
    const KvTile tile = p->key_tile(kv_head);
    for (int64_t i = 0; i < queries; i += kKvQueries) {
      KvKeyScores(tile, q + i * dim, static_cast<int>(std::min<int64_t>(kKvQueries, queries - i)), p->block_begin(),
                  p->block_end(), scores + i * width + column, width);
    }
  }
  float* sums = partial + 2 * queries;
  std::fill(sums, sums + queries * dim, 0.0f);
  for (int64_t i = 0; i < queries; ++i) {
    float* row = scores + i * width;
    if (s.softcap > 0) SoftcapRow(row, width, s.softcap);
    const int64_t query = c.start + i / group;
    column = 0;
    for (const Piece* p = first; p != last; column += p->padded(), ++p) {
      const Visible visible = VisibleRows(*p, query, s.window);
      std::fill(row + column, row + column + p->lead() + visible.begin, kNone);
      std::fill(row + column + p->lead() + visible.end, row + column + p->padded(), kNone);
    }
    partial[2 * i] = SoftmaxRow(row, width, &partial[2 * i + 1]);
  }
  column = 0;
  for (const Piece* p = first; p != last; column += p->padded(), ++p) {
    const KvTile tile = p->value_tile(kv_head);
    for (int64_t i = 0; i < queries; i += kKvQueries) {
      KvAddValues(tile, scores + i * width + column, width, static_cast<int>(std::min<int64_t>(kKvQueries, queries - i)),
                  p->block_begin(), p->block_end(), sums + i * dim);
    }
  }
}

// One query vector over all ranges, in their order.
void Merge(const float* partials, int64_t ranges, int64_t stride, int64_t queries, int64_t i, int64_t dim, int64_t d,
           const float* sink, float* out) {
  float top = sink != nullptr ? *sink : kNone;
  for (int64_t r = 0; r < ranges; ++r) top = std::max(top, partials[r * stride + 2 * i]);
  std::fill(out, out + d, 0.0f);
  if (top == kNone) return;
  float total = sink != nullptr ? std::exp(*sink - top) : 0.0f;
  for (int64_t r = 0; r < ranges; ++r) {
    const float* p = partials + r * stride;
    if (p[2 * i] == kNone) continue;
    const float factor = std::exp(p[2 * i] - top);
    total += factor * p[2 * i + 1];
    AxpyRow(factor, p + 2 * queries + i * dim, d, out);
  }
  ScaleRow(out, 1.0f / total, d, out);
}

void AttendFew(const KvAttentionCall& c, const AttentionShape& s, ThreadPool* pool) {
  const std::vector<Piece> pieces = PiecesOf(c.spans, c.start, c.start + c.rows - 1, s.window);
  std::vector<size_t> bounds = {0};  // of ranges, in pieces
  int64_t keys = 0;
  for (size_t i = 0; i < pieces.size(); ++i) {
    if (keys > 0 && keys + pieces[i].padded() > kRangeKeys) {
      bounds.push_back(i);
      keys = 0;
    }
    keys += pieces[i].padded();
  }
  bounds.push_back(pieces.size());
  const int64_t ranges = static_cast<int64_t>(bounds.size()) - 1, group = s.num_heads / s.num_kv_heads;
  const Partials shape{c.rows * group, RoundUp(s.head_dim, kKvChunk)};
  static thread_local AlignedBuffer<float> buffer;  // the caller's
  float* partials = buffer.Grow(s.num_kv_heads * ranges * shape.size());
  pool->ParallelFor(s.num_kv_heads * ranges, [&](int64_t task, int) {
    const int64_t kv_head = task / ranges, r = task % ranges;
    AttendRange(c, s, kv_head, pieces.data() + bounds[r], pieces.data() + bounds[r + 1], partials + task * shape.size());
  });
  for (int64_t kv_head = 0; kv_head < s.num_kv_heads; ++kv_head) {
    for (int64_t i = 0; i < shape.queries; ++i) {
      const int64_t head = kv_head * group + i % group;
      Merge(partials + kv_head * ranges * shape.size(), ranges, shape.size(), shape.queries, i, shape.dim, s.head_dim,
            s.sinks != nullptr ? s.sinks + head : nullptr, c.out + (i / group * s.num_heads + head) * s.head_dim);
    }
  }
}

// ---- many queries ----

// Rows [t0, t0 + tile) of a call for one key-value head: every piece is widened once for all heads of the group.
void AttendTile(const KvAttentionCall& c, const AttentionShape& s, int64_t kv_head, int64_t t0, int64_t tile) {
  const int64_t d = s.head_dim, dim = RoundUp(d, kKvChunk), q_stride = s.num_heads * d, nr = GemmPanelColumns();
  const int64_t group = s.num_heads / s.num_kv_heads, value_panels = DivUp(dim, nr);
  Scratch& scratch = ThreadScratch();
  float* tops = scratch.state.Grow(2 * group * tile);
  float* totals = tops + group * tile;
  std::fill(tops, tops + group * tile, kNone);
  std::fill(totals, totals + group * tile, 0.0f);
  for (int64_t t = 0; t < tile; ++t) std::memset(c.out + (t0 + t) * q_stride + kv_head * group * d, 0, group * d * sizeof(float));

  const int64_t first = c.start + t0;
  for (const Piece& p : PiecesOf(c.spans, first, first + tile - 1, s.window)) {
    const int64_t width = p.padded(), key_panels = DivUp(width, nr), stride = key_panels * nr;
    const KvTile key_tile = p.key_tile(kv_head);
    float* keys = scratch.keys.Grow(stride * dim);
    float* values = scratch.values.Grow(value_panels * nr * width);
    float* scores = scratch.scores.Grow(tile * stride);
    KvKeyPanels(key_tile, p.block_begin(), p.block_end(), keys);
    KvValuePanels(p.value_tile(kv_head), p.block_begin(), p.block_end(), values);
    for (int64_t h = 0; h < group; ++h) {
      const int64_t head = kv_head * group + h;
      const float* q = c.q + t0 * q_stride + head * d;
      float* out = c.out + t0 * q_stride + head * d;
      for (int64_t k = 0; k < key_panels; ++k) {
        GemmPanelF32(q, q_stride, tile, keys + k * dim * nr, d, scores + k * nr, stride, nr, false);
      }
      for (int64_t t = 0; t < tile; ++t) {
        float* row = scores + t * stride;
        const Visible visible = VisibleRows(p, first + t, s.window);
        const int64_t begin = p.lead() + visible.begin, end = p.lead() + visible.end;
        std::fill(row, row + begin, 0.0f);
        std::fill(row + end, row + width, 0.0f);
        if (begin == end) continue;
        ScaleRow(row + begin, s.scale, end - begin, row + begin);
        if (s.softcap > 0) SoftcapRow(row + begin, end - begin, s.softcap);
        float& top = tops[h * tile + t];
        float& total = totals[h * tile + t];
        const float piece_top = MaxRow(row + begin, end - begin);
        if (piece_top > top) {
          const float factor = top == kNone ? 0.0f : std::exp(top - piece_top);
          ScaleRow(out + t * q_stride, factor, d, out + t * q_stride);
          total *= factor;
          top = piece_top;
        }
        ExpShiftedRow(row + begin, top, end - begin, row + begin);
        total += SumRow(row + begin, end - begin);
      }
      for (int64_t k = 0; k < value_panels; ++k) {
        const int64_t columns = std::min(nr, d - k * nr);
        if (columns <= 0) break;
        GemmPanelF32(scores, stride, tile, values + k * width * nr, width, out + k * nr, q_stride, columns, true);
      }
    }
  }
  for (int64_t h = 0; h < group; ++h) {
    const int64_t head = kv_head * group + h;
    for (int64_t t = 0; t < tile; ++t) {
      float* out = c.out + (t0 + t) * q_stride + head * d;
      const float top = tops[h * tile + t];
      float total = totals[h * tile + t], factor = 1;
      if (s.sinks != nullptr) {  // one more column of the softmax, without a value
        const float most = std::max(top, s.sinks[head]);
        factor = top == kNone ? 0.0f : std::exp(top - most);
        total = total * factor + std::exp(s.sinks[head] - most);
      }
      if (total > 0) ScaleRow(out, factor / total, d, out);
    }
  }
}

}  // namespace

void KvAttention(std::span<const KvAttentionCall> calls, const AttentionShape& shape, ThreadPool* pool) {
  const int64_t group = shape.num_heads / shape.num_kv_heads;
  struct Task {
    const KvAttentionCall* call;
    int64_t kv_head, t0, rows;
  };
  std::vector<Task> tasks;
  for (const KvAttentionCall& c : calls) {
    if (c.rows * group <= kFewQueries) {
      AttendFew(c, shape, pool);
      continue;
    }
    // The longest reads come first: the last rows see the most keys.
    for (int64_t t0 = (c.rows - 1) / kQueryTile * kQueryTile; t0 >= 0; t0 -= kQueryTile) {
      for (int64_t h = 0; h < shape.num_kv_heads; ++h) tasks.push_back({&c, h, t0, std::min(kQueryTile, c.rows - t0)});
    }
  }
  pool->ParallelFor(static_cast<int64_t>(tasks.size()), [&](int64_t i, int) {
    const Task& t = tasks[i];
    AttendTile(*t.call, shape, t.kv_head, t.t0, t.rows);
  });
}

}  // namespace optiq
