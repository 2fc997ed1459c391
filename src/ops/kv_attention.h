// Causal grouped-query attention over cache pages of any format, without a dense copy of the cache and without the scores of the
// whole context.
//
// What a call sees is a list of spans: consecutive slots of a store that hold consecutive positions. Query i of the call stands at
// position start + i and sees a key of position p when p <= start + i and, with a window, start + i - p < window. A ring's sink
// tokens come as a span whose positions are shifted so that this rule gives mlx-lm's mask.
#ifndef OPTIQ_OPS_KV_ATTENTION_H_
#define OPTIQ_OPS_KV_ATTENTION_H_

#include <cstdint>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "ops/attention.h"
#include "tensor/kv_page.h"

namespace optiq {

// A store of keys and values: slot s is row s % rows of page s / rows; a page holds the keys, then the values.
struct KvStoreView {
  const KvPageLayout* keys = nullptr;
  const KvPageLayout* values = nullptr;
  const std::byte* const* pages = nullptr;
};

struct KvSpan {
  KvStoreView store;
  int64_t slot = 0, count = 0;
  int64_t position = 0;  // of `slot`
};

// q, out: [rows, num_heads * head_dim], queries at positions start.. .
struct KvAttentionCall {
  const float* q = nullptr;
  float* out = nullptr;
  int64_t rows = 0, start = 0;
  std::vector<KvSpan> spans;
  bool tiles = false;  // few queries, too, are computed as they would be among many
};

// Few queries: every 512 keys or so are one task per key-value head, merged in the order of the spans. Many: tasks are tiles of
// queries, which walk the keys with a running maximum, 256 positions at a time. The split depends on the shapes only, so results do
// not depend on threads. Among many, a query's result depends on its position and on what it sees alone: not on the queries beside
// it, on how a prompt was cut, or on where the rows lie.
void KvAttention(std::span<const KvAttentionCall> calls, const AttentionShape& shape, ThreadPool* pool);

}  // namespace optiq

#endif  // OPTIQ_OPS_KV_ATTENTION_H_
