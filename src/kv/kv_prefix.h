// Copies of what a cache holds, bit by bit, for other caches to begin with: the rows of layers that keep every position, a range at a
// time, and apart from them what changes with the length: rings, states, and rows that are dense while they are recent.
#ifndef OPTIQ_KV_KV_PREFIX_H_
#define OPTIQ_KV_KV_PREFIX_H_

#include <cstdint>
#include <vector>

#include "kv/kv_cache.h"

namespace optiq {

struct KvRows {
  std::vector<std::vector<KvPiece>> layers;
  int64_t bytes = 0;
};

// A cache's changing part at one length.
struct KvTail {
  int64_t length = 0;
  std::vector<std::vector<KvPiece>> layers;
  std::vector<std::vector<float>> states;
  int64_t bytes = 0;
};

// Whether a cache of this plan can be taken apart at all: not when layers change their format at a length.
bool HasPrefixes(const KvPlan& plan);
// Whether there is such a part: without, rows alone make a cache.
bool HasTail(const KvGeometry& geometry, const KvPlan& plan);
// Of `length` positions those whose rows are in their last place in every layer that keeps them.
int64_t KvSettled(const KvGeometry& geometry, const KvPlan& plan, int64_t length);
// About what a tail takes, for lengths beyond all windows.
int64_t KvTailBytes(const KvGeometry& geometry, const KvPlan& plan);

// Rows [begin, end), which must be settled. Throws std::bad_alloc.
KvRows CopyKvRows(const KvCache& cache, int64_t begin, int64_t end);
// The rest at the cache's length; rows from `begin` on, which is not above what is settled. Throws std::bad_alloc.
KvTail CopyKvTail(const KvCache& cache, int64_t begin);

// An empty cache becomes one of `length` positions: makes the places, then all rows below (the tail's beginning) and the tail are put
// in. Throws std::bad_alloc.
void BeginKvRestore(KvCache* cache, int64_t length);
void RestoreKvRows(KvCache* cache, const KvRows& rows);
void RestoreKvTail(KvCache* cache, const KvTail& tail);

}  // namespace optiq

#endif  // OPTIQ_KV_KV_PREFIX_H_
