#include "kv/kv_prefix.h"

#include <algorithm>

namespace optiq {
namespace {

bool IsRing(const KvLayerGeometry& g) { return g.heads > 0 && g.window > 0; }
bool KeepsAll(const KvLayerGeometry& g) { return g.heads > 0 && g.window == 0; }
int64_t RecentOf(const KvLayerGeometry& g, const KvLayerPlan& plan) {
  return KeepsAll(g) && plan.quantized() ? plan.dense_recent : 0;
}

int64_t BytesOf(const std::vector<KvPiece>& pieces) {
  int64_t bytes = 0;
  for (const KvPiece& p : pieces) bytes += p.store.bytes() + static_cast<int64_t>(sizeof(KvPiece));
  return bytes;
}

}  // namespace

bool HasPrefixes(const KvPlan& plan) { return plan.quantized_start <= 0; }

bool HasTail(const KvGeometry& geometry, const KvPlan& plan) {
  for (size_t i = 0; i < geometry.size(); ++i) {
    if (IsRing(geometry[i]) || geometry[i].state > 0 || RecentOf(geometry[i], plan.layers[i]) > 0) return true;
  }
  return false;
}

int64_t KvSettled(const KvGeometry& geometry, const KvPlan& plan, int64_t length) {
  int64_t recent = 0;
  for (size_t i = 0; i < geometry.size(); ++i) recent = std::max(recent, RecentOf(geometry[i], plan.layers[i]));
  return std::max<int64_t>(0, length - recent);
}

int64_t KvTailBytes(const KvGeometry& geometry, const KvPlan& plan) {
  int64_t bytes = 0;
  for (size_t i = 0; i < geometry.size(); ++i) {
    const KvLayerGeometry& g = geometry[i];
    if (IsRing(g)) bytes += KvLayerBytes(g, plan.layers[i], g.window);
    bytes += g.state * 4 + 2 * RecentOf(g, plan.layers[i]) * KvRowBytes(KvFormat{}, g.heads, g.head_dim);
  }
  return bytes;
}

KvRows CopyKvRows(const KvCache& cache, int64_t begin, int64_t end) {
  OPTIQ_CHECK(end <= KvSettled(cache.geometry(), cache.plan(), cache.length()));
  KvRows rows;
  rows.layers.resize(cache.geometry().size());
  for (size_t i = 0; i < rows.layers.size(); ++i) {
    if (!KeepsAll(cache.geometry()[i])) continue;
    rows.layers[i] = cache.entry(static_cast<int>(i))->CopyOut(begin, end);
    rows.bytes += BytesOf(rows.layers[i]);
  }
  return rows;
}

KvTail CopyKvTail(const KvCache& cache, int64_t begin) {
  KvTail tail{.length = cache.length(), .layers = {}, .states = {}};
  tail.layers.resize(cache.geometry().size());
  tail.states.resize(cache.geometry().size());
  for (size_t i = 0; i < tail.layers.size(); ++i) {
    const int layer = static_cast<int>(i);
    const KvLayerGeometry& g = cache.geometry()[i];
    if (IsRing(g)) {
      for (const KvEntry::Range& range : cache.entry(layer)->Held()) {
        for (KvPiece& piece : cache.entry(layer)->CopyOut(range.begin, range.end)) tail.layers[i].push_back(std::move(piece));
      }
    } else if (KeepsAll(g)) {
      tail.layers[i] = cache.entry(layer)->CopyOut(begin, cache.length());
    }
    tail.states[i] = cache.state(layer);
    tail.bytes += BytesOf(tail.layers[i]) + static_cast<int64_t>(tail.states[i].size() * sizeof(float));
  }
  return tail;
}

void BeginKvRestore(KvCache* cache, int64_t length) {
  OPTIQ_CHECK(cache->length() == 0 && HasPrefixes(cache->plan()));
  for (size_t i = 0; i < cache->geometry().size(); ++i) {
    if (KvEntry* entry = cache->mutable_entry(static_cast<int>(i))) entry->SetPlaces(length, length, 0);
  }
  cache->SetLength(length);
}

void RestoreKvRows(KvCache* cache, const KvRows& rows) {
  for (size_t i = 0; i < rows.layers.size(); ++i) {
    if (!rows.layers[i].empty()) cache->mutable_entry(static_cast<int>(i))->CopyIn(rows.layers[i]);
  }
}

void RestoreKvTail(KvCache* cache, const KvTail& tail) {
  OPTIQ_CHECK(cache->length() == tail.length);
  for (size_t i = 0; i < tail.layers.size(); ++i) {
    const int layer = static_cast<int>(i);
    if (!tail.layers[i].empty()) cache->mutable_entry(layer)->CopyIn(tail.layers[i]);
    std::copy(tail.states[i].begin(), tail.states[i].end(), cache->State(layer));
  }
}

}  // namespace optiq
