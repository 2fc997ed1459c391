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
// Positions between two visits of the running maximum of a call with many.
constexpr int64_t kPagePositions = 256;
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

// The pieces of which some query of positions first..last sees something. With `cut`, none goes over a multiple of it.
std::vector<Piece> PiecesOf(const std::vector<KvSpan>& spans, int64_t first, int64_t last, int64_t window, int64_t cut = 0) {
  std::vector<Piece> pieces;
  const int64_t oldest = window > 0 ? first - window + 1 : 0;  // no position is negative
  for (const KvSpan& span : spans) {
    const int64_t rows = span.store.keys->rows;
    const int64_t skip = std::max<int64_t>(0, std::min(span.count, oldest - span.position));
    const int64_t end = span.slot + std::min(span.count, std::max<int64_t>(0, last + 1 - span.position));
    for (int64_t slot = span.slot + skip; slot < end;) {
      const int64_t position = span.position + slot - span.slot;
      int64_t stop = std::min(end, (slot / rows + 1) * rows);
      if (cut > 0) stop = std::min(stop, slot + (position / cut + 1) * cut - position);
      pieces.push_back({.keys = span.store.keys, .values = span.store.values, .page = span.store.pages[slot / rows],
                        .begin = slot % rows, .end = slot % rows + stop - slot,
                        .position = position});
      slot = stop;
    }
  }
  return pieces;
}

// Whether two pieces lie between the same multiples of kPagePositions.
bool SamePage(const Piece& a, const Piece& b) { return a.position / kPagePositions == b.position / kPagePositions; }

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
  AlignedBuffer<float> q, scores, gathered, keys, values, piece, state;
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

// A piece with its place in the scratch of its page.
struct Panels {
  Piece piece;
  int64_t column = 0, keys = 0;
};

// The values of a page's pieces as one set of panels, so that one product adds them all: its order of additions is a page's.
void PageValues(std::span<const Panels> page, int64_t kv_head, int64_t rows, int64_t panels, int64_t nr, float* piece_values,
                float* values) {
  for (const Panels& p : page) {
    const int64_t width = p.piece.padded();
    float* to = page.size() == 1 ? values : piece_values;
    KvValuePanels(p.piece.value_tile(kv_head), p.piece.block_begin(), p.piece.block_end(), to);
    if (page.size() == 1) return;
    for (int64_t k = 0; k < panels; ++k) {
      std::copy(to + k * width * nr, to + (k + 1) * width * nr, values + (k * rows + p.column) * nr);
    }
  }
}

// What query `query` sees of a page: the scores of what it does not see become 0, the others softmax's numerators against a running
// maximum. `shrink` is told the factor for what was summed before.
struct RunningSoftmax {
  float* top;
  float* total;
  template <typename Shrink>
  void Add(std::span<const Panels> page, int64_t query, const AttentionShape& s, float* row, float* gathered, Shrink shrink) {
    float page_top = kNone;
    int64_t seen = 0, first = 0;
    for (const Panels& p : page) {
      const Visible visible = VisibleRows(p.piece, query, s.window);
      float* x = row + p.column;
      const int64_t begin = p.piece.lead() + visible.begin, end = p.piece.lead() + visible.end;
      std::fill(x, x + begin, 0.0f);
      std::fill(x + end, x + p.piece.padded(), 0.0f);
      if (begin == end) continue;
      ScaleRow(x + begin, s.scale, end - begin, x + begin);
      if (s.softcap > 0) SoftcapRow(x + begin, end - begin, s.softcap);
      page_top = std::max(page_top, MaxRow(x + begin, end - begin));
      if (seen == 0) first = p.column + begin;
      seen += end - begin;
    }
    if (seen == 0) return;
    if (page_top > *top) {
      const float factor = *top == kNone ? 0.0f : std::exp(*top - page_top);
      shrink(factor);
      *total *= factor;
      *top = page_top;
    }
    // The sum runs over the positions in one go, wherever the pieces begin.
    const float* numerators = row + first;
    int64_t n = 0;
    for (const Panels& p : page) {
      const Visible visible = VisibleRows(p.piece, query, s.window);
      if (visible.begin == visible.end) continue;
      float* x = row + p.column + p.piece.lead() + visible.begin;
      const int64_t count = visible.end - visible.begin;
      ExpShiftedRow(x, *top, count, x);
      if (count == seen) break;
      std::copy(x, x + count, gathered + n);
      n += count;
      numerators = gathered;
    }
    *total += SumRow(numerators, seen);
  }
};

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
  const std::vector<Piece> pieces = PiecesOf(c.spans, first, first + tile - 1, s.window, kPagePositions);
  std::vector<Panels> page;
  for (size_t begin = 0; begin < pieces.size(); begin += page.size()) {
    page.clear();
    int64_t stride = 0, key_size = 0;  // stride: rows of the page, padded
    for (size_t i = begin; i < pieces.size() && SamePage(pieces[i], pieces[begin]); ++i) {
      page.push_back({.piece = pieces[i], .column = stride, .keys = key_size});
      stride += pieces[i].padded();
      key_size += RoundUp(pieces[i].padded(), nr) * dim;
    }
    float* keys = scratch.keys.Grow(key_size);
    float* values = scratch.values.Grow(value_panels * nr * stride);
    float* scores = scratch.scores.Grow(tile * stride);
    float* gathered = scratch.gathered.Grow(stride);
    for (const Panels& p : page) {
      KvKeyPanels(p.piece.key_tile(kv_head), p.piece.block_begin(), p.piece.block_end(), keys + p.keys);
    }
    PageValues(page, kv_head, stride, value_panels, nr, scratch.piece.Grow(page.size() == 1 ? 0 : value_panels * nr * stride), values);
    for (int64_t h = 0; h < group; ++h) {
      const int64_t head = kv_head * group + h;
      const float* q = c.q + t0 * q_stride + head * d;
      float* out = c.out + t0 * q_stride + head * d;
      for (const Panels& p : page) {
        for (int64_t k = 0; k < p.piece.padded(); k += nr) {
          GemmPanelF32(q, q_stride, tile, keys + p.keys + k * dim, d, scores + p.column + k, stride,
                       std::min(nr, p.piece.padded() - k), false);
        }
      }
      for (int64_t t = 0; t < tile; ++t) {
        RunningSoftmax softmax{&tops[h * tile + t], &totals[h * tile + t]};
        float* sums = out + t * q_stride;
        softmax.Add(page, first + t, s, scores + t * stride, gathered, [&](float factor) { ScaleRow(sums, factor, d, sums); });
      }
      for (int64_t k = 0; k < value_panels; ++k) {
        const int64_t columns = std::min(nr, d - k * nr);
        if (columns <= 0) break;
        GemmPanelF32(scores, stride, tile, values + k * stride * nr, stride, out + k * nr, q_stride, columns, true);
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
    if (!c.tiles && c.rows * group <= kFewQueries) {
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
