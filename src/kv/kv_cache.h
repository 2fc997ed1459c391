// Keys and values of one sequence, for all layers.
//
// One forward pass over n tokens: Reserve(n); for every layer that has keys of its own Append, then Spans and Done for it and for each
// layer that reads it; Advance(n).
#ifndef OPTIQ_KV_KV_CACHE_H_
#define OPTIQ_KV_KV_CACHE_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "base/status.h"
#include "base/thread_pool.h"
#include "kv/kv_entry.h"
#include "kv/kv_plan.h"

namespace optiq {

class KvCache {
 public:
  // plan: checked (CheckKvPlan).
  KvCache(KvGeometry geometry, KvPlan plan);
  // A cache that sees `base` and adds rows of its own for one forward pass, which are then forgotten. base must outlive it and must not
  // change meanwhile.
  static std::unique_ptr<KvCache> Probe(const KvCache& base);

  int64_t length() const { return length_; }
  const KvPlan& plan() const { return plan_; }
  const KvGeometry& geometry() const { return geometry_; }

  // Makes room for n further positions in every layer. kResourceExhausted when memory is short.
  Status Reserve(int64_t n);
  // Rows for positions length()..length()+n-1 of one layer. Throws std::bad_alloc.
  void Append(int layer, int64_t n, const float* keys, const float* values, ThreadPool* pool = nullptr);
  // What this pass's queries of a layer see, appended rows included. `layer` has keys of its own; readers name their donor.
  std::vector<KvSpan> Spans(int layer) const {
    return borrowed_[layer] != nullptr ? borrowed_[layer]->Spans() : entries_[layer]->Spans();
  }
  // Told by each reader of a layer, its own queries included, when it is done: the last one frees what only this pass needs.
  void Done(int layer);
  // Called once per forward, after every layer. Converts layers whose quantized_start is reached; throws std::bad_alloc.
  void Advance(int64_t n);
  // Drops all positions >= length and returns the new length: 0 when a ring has overwritten rows that would be needed, or a layer
  // carries a state, which cannot go back.
  int64_t Trim(int64_t length);

  // The values of a layer that carries a state, zeros at first.
  float* State(int layer) { return states_[layer].data(); }
  const std::vector<float>& state(int layer) const { return states_[layer]; }

  // The entry of a layer with keys of its own, else nullptr.
  const KvEntry* entry(int layer) const { return entries_[layer].get(); }
  KvEntry* mutable_entry(int layer) { return entries_[layer].get(); }
  // Replaces an entry by another of the same length: a probe of one layer, or what was loaded.
  void Replace(int layer, std::unique_ptr<KvEntry> entry);
  // For probes that begin behind a layer which later ones read: `from` keeps that layer's rows of its pass when told to, and the probe
  // reads them there.
  void KeepShared() { keep_shared_ = true; }
  void Borrow(int layer, const KvCache& from) { borrowed_[layer] = from.entry(layer); }
  // Frees an entry that no later layer of this pass reads. For probes.
  void Drop(int layer) { entries_[layer].reset(); }
  // For loading: all entries have `length` positions.
  void SetLength(int64_t length) { length_ = length; }

  // Allocated bytes.
  int64_t bytes() const;

 private:
  void Convert();

  KvGeometry geometry_;
  KvPlan plan_;
  std::vector<std::unique_ptr<KvEntry>> entries_;
  std::vector<std::vector<float>> states_;
  std::vector<int> readers_, pending_;  // per layer: how many Done calls end a pass; how many are to come in this one
  std::vector<const KvEntry*> borrowed_;
  int64_t length_ = 0;
  bool probe_ = false, has_state_ = false, keep_shared_ = false;
  bool converted_ = false;  // entries have the formats of plan_
};

// What bytes() of a cache is once there was room for `positions` of them: whole pages. With quantized_start, an upper bound.
int64_t KvAllocatedBytes(const KvGeometry& geometry, const KvPlan& plan, int64_t positions);

}  // namespace optiq

#endif  // OPTIQ_KV_KV_CACHE_H_
