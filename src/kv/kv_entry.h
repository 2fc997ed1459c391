// The keys and values of one layer: all positions, or a ring of the window's, dense or quantized, behind one interface.
//
// A ring has the meaning of mlx-lm's RotatingKVCache(max_size = window, keep), but a position's slot is a function of the position
// alone: the contents after a given sequence do not depend on how it was cut into chunks and single steps. A chunk of a ring is
// staged beside it (queries still see rows that the chunk pushes out) and moves in when the last reader of this forward pass is done.
#ifndef OPTIQ_KV_KV_ENTRY_H_
#define OPTIQ_KV_KV_ENTRY_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "kv/kv_plan.h"
#include "kv/kv_store.h"

namespace optiq {

struct KvPiece;

class KvEntry {
 public:
  // plan: checked against the geometry.
  KvEntry(const KvLayerGeometry& geometry, const KvLayerPlan& plan);

  // A probe of `base`: sees base's rows and its own, in base's formats, and never changes base, which must outlive it.
  static std::unique_ptr<KvEntry> Probe(const KvEntry& base);

  int64_t length() const { return length_; }
  const KvLayerPlan& plan() const { return plan_; }
  const KvLayerGeometry& geometry() const { return geometry_; }

  // Makes room for positions up to `length`. Throws std::bad_alloc.
  void Reserve(int64_t length);
  // Rows [heads * head_dim] of n positions from length(): what Spans shows includes them.
  void Append(int64_t n, const float* keys, const float* values, ThreadPool* pool);
  // What queries at positions length().. of the rows last appended see.
  std::vector<KvSpan> Spans() const;
  // The pass is over: the appended rows belong to the past, length() moves on.
  void Commit();
  // Forgets positions >= length. False, and unchanged, when rows that would be seen again are overwritten.
  bool Trim(int64_t length);
  void Clear();

  // The positions that are held, as ranges [first, last), oldest first: the sinks and the others.
  struct Range {
    int64_t begin, end;
  };
  std::vector<Range> Held() const;
  // A held position's row, widened: [heads * head_dim] each.
  void Read(int64_t position, float* keys, float* values) const;
  // Where a held position lies.
  enum class Part { kMain, kFirst, kRecent };
  struct Location {
    const KvStore* store;
    int64_t slot;
    Part part = Part::kMain;
  };
  Location Locate(int64_t position) const;
  // Held positions [begin, end) as they are stored, and back: an entry of the same formats whose places are set (SetPlaces).
  std::vector<KvPiece> CopyOut(int64_t begin, int64_t end) const;
  void CopyIn(const std::vector<KvPiece>& pieces);
  // Takes over the rows of `other`, encoded by this entry's plan. This entry must be empty.
  void Encode(const KvEntry& other);
  // What a saved cache needs besides its rows; for loading they are set first and the rows written where Locate says.
  int64_t high() const { return high_; }
  int64_t dense_from() const { return dense_from_; }
  void SetPlaces(int64_t length, int64_t high, int64_t dense_from);

  int64_t bytes() const;

 private:
  explicit KvEntry(const KvEntry* base);
  void SetLength(int64_t length) { SetPlaces(length, length, 0); }
  bool ring() const { return geometry_.window > 0; }
  int64_t Slot(int64_t position) const;
  int64_t Oldest() const;  // of the positions of a ring's body that are held
  int64_t RecentBegin() const { return std::max(length_ - plan_.dense_recent, dense_from_); }
  void AddSpans(int64_t begin, int64_t end, int64_t shift, std::vector<KvSpan>* out) const;
  void AddStoreSpans(const KvStore& store, int64_t capacity, int64_t begin, int64_t end, int64_t shift,
                     std::vector<KvSpan>* out) const;
  void HeldSpans(bool chunk, std::vector<KvSpan>* out) const;
  void Place(int64_t position, int64_t n, const float* keys, const float* values, ThreadPool* pool);
  void CommitStaged();
  KvStore NewStage() const;

  KvLayerGeometry geometry_;
  KvLayerPlan plan_;
  const KvEntry* base_ = nullptr;
  KvStore main_;
  std::unique_ptr<KvStore> first_, recent_;  // bf16; slots: position; position % dense_recent
  std::unique_ptr<KvStore> staged_;          // rows of this pass from stage_begin_
  int64_t stage_begin_ = 0, stage_slot_ = 0;
  int64_t length_ = 0;    // positions committed
  int64_t appended_ = 0;  // rows of this pass
  bool in_place_ = false;  // its one row went into the ring at once
  int64_t dense_from_ = 0;  // recent rows before it were quantized before a Trim made them recent again
  int64_t high_ = 0;      // the longest length the ring was written to: older rows are gone
};

// A copy of consecutive positions from one part of an entry: position p is in slot `slot` + p - begin of the store.
struct KvPiece {
  KvEntry::Part part;
  int64_t begin, end, slot;
  KvStore store;
};

}  // namespace optiq

#endif  // OPTIQ_KV_KV_ENTRY_H_
