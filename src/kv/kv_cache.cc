#include "kv/kv_cache.h"

#include <algorithm>
#include <new>

#include "base/checked.h"

namespace optiq {

KvCache::KvCache(KvGeometry geometry, KvPlan plan) : geometry_(std::move(geometry)), plan_(std::move(plan)) {
  OPTIQ_CHECK(plan_.layers.size() == geometry_.size());
  const size_t n = geometry_.size();
  entries_.resize(n);
  states_.resize(n);
  readers_.assign(n, 0);
  pending_.assign(n, 0);
  borrowed_.assign(n, nullptr);
  converted_ = plan_.quantized_start <= 0;
  for (size_t i = 0; i < n; ++i) {
    const KvLayerGeometry& g = geometry_[i];
    states_[i].assign(g.state, 0.0f);
    has_state_ |= g.state > 0;
    if (g.donor >= 0) {
      OPTIQ_CHECK(g.donor < static_cast<int>(i) && geometry_[g.donor].donor < 0 && geometry_[g.donor].heads > 0);
      ++readers_[g.donor];
    } else if (g.heads > 0) {
      ++readers_[i];
      const bool wait = !converted_ && plan_.layers[i].quantized();
      entries_[i] = std::make_unique<KvEntry>(g, wait ? KvLayerPlan{} : plan_.layers[i]);
    }
  }
}

std::unique_ptr<KvCache> KvCache::Probe(const KvCache& base) {
  KvPlan plan = base.plan_;
  plan.quantized_start = 0;
  auto probe = std::make_unique<KvCache>(base.geometry_, plan);
  probe->probe_ = true;
  probe->length_ = base.length_;
  probe->states_ = base.states_;
  for (size_t i = 0; i < base.entries_.size(); ++i) {
    if (base.entries_[i] != nullptr) probe->entries_[i] = KvEntry::Probe(*base.entries_[i]);
  }
  return probe;
}

Status KvCache::Reserve(int64_t n) {
  try {
    for (auto& e : entries_) {
      if (e != nullptr) e->Reserve(length_ + n);
    }
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("KV cache: no memory for {} positions; use a shorter context or --kv-bits", length_ + n);
  }
  return OkStatus();
}

void KvCache::Append(int layer, int64_t n, const float* keys, const float* values, ThreadPool* pool) {
  OPTIQ_CHECK(entries_[layer] != nullptr);
  entries_[layer]->Append(n, keys, values, pool);
  pending_[layer] = readers_[layer];
}

void KvCache::Done(int layer) {
  if (borrowed_[layer] != nullptr) return;
  OPTIQ_CHECK(pending_[layer] > 0);
  if (--pending_[layer] == 0 && !(keep_shared_ && readers_[layer] > 1)) entries_[layer]->Commit();
}

void KvCache::Advance(int64_t n) {
  for (int p : pending_) OPTIQ_CHECK(p == 0);
  if (probe_) return;
  length_ += n;
  if (!converted_ && length_ >= plan_.quantized_start) Convert();
}

void KvCache::Convert() {
  for (size_t i = 0; i < entries_.size(); ++i) {
    if (entries_[i] == nullptr || entries_[i]->plan() == plan_.layers[i]) continue;
    auto quantized = std::make_unique<KvEntry>(geometry_[i], plan_.layers[i]);
    quantized->Encode(*entries_[i]);
    entries_[i] = std::move(quantized);  // one layer at a time: the dense rows of the others are still needed
  }
  converted_ = true;
}

int64_t KvCache::Trim(int64_t length) {
  length = std::max<int64_t>(0, length);
  std::fill(pending_.begin(), pending_.end(), 0);
  bool possible = length == 0 || length >= length_ || !has_state_;
  for (auto& e : entries_) {
    if (e != nullptr && possible) possible = e->Trim(length);
  }
  if (!possible) length = 0;
  if (length == 0) {
    const KvPlan plan = plan_;
    *this = KvCache(geometry_, plan);
    return 0;
  }
  length_ = std::min(length_, length);
  return length_;
}

void KvCache::Replace(int layer, std::unique_ptr<KvEntry> entry) {
  OPTIQ_CHECK(entries_[layer] != nullptr);
  plan_.layers[layer] = entry->plan();
  entries_[layer] = std::move(entry);
}

namespace {

// Pages for `slots` slots of a store.
int64_t PageBytes(const KvFormat& keys, const KvFormat& values, const KvLayerGeometry& g, int64_t rows, int64_t slots) {
  const KvPageLayout k{keys, g.heads, g.head_dim, rows}, v{values, g.heads, g.head_dim, rows};
  return DivUp(slots, rows) * (k.bytes() + v.bytes());
}

}  // namespace

int64_t KvAllocatedBytes(const KvGeometry& geometry, const KvPlan& plan, int64_t positions) {
  int64_t total = 0;
  const KvFormat dense;
  for (size_t i = 0; i < geometry.size(); ++i) {
    const KvLayerGeometry& g = geometry[i];
    const KvLayerPlan& p = plan.layers[i];
    total += g.state * static_cast<int64_t>(sizeof(float));
    if (g.heads == 0) continue;
    const int64_t rows = KvPageRowsFor(g.window), kept = KvPositionsKept(g, positions);
    total += PageBytes(p.keys, p.values, g, rows, kept);
    if (!p.quantized()) continue;
    if (plan.quantized_start > 0) {
      total += PageBytes(dense, dense, g, rows, KvPositionsKept(g, std::min(positions, plan.quantized_start)));
    }
    const int64_t recent = g.window > 0 ? std::min(p.dense_recent, g.window) : p.dense_recent;
    for (int64_t n : {p.dense_first, recent}) {
      if (n > 0) total += PageBytes(dense, dense, g, KvPageRowsFor(n), std::min(positions, n));
    }
  }
  return total;
}

int64_t KvCache::bytes() const {
  int64_t total = 0;
  for (const auto& e : entries_) total += e != nullptr ? e->bytes() : 0;
  for (const auto& s : states_) total += static_cast<int64_t>(s.size() * sizeof(float));
  return total;
}

}  // namespace optiq
