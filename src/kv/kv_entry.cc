#include "kv/kv_entry.h"

#include <algorithm>

#include "base/status.h"

namespace optiq {

KvEntry::KvEntry(const KvLayerGeometry& geometry, const KvLayerPlan& plan)
    : geometry_(geometry),
      plan_(plan),
      main_(plan.keys, plan.values, geometry.heads, geometry.head_dim, KvPageRowsFor(geometry.window)) {
  OPTIQ_CHECK(geometry.keep == 0 || geometry.keep < geometry.window);
  if (!plan_.quantized()) plan_.dense_first = plan_.dense_recent = 0;
  // In a ring no more than the window is ever seen.
  if (ring()) plan_.dense_recent = std::min(plan_.dense_recent, geometry.window);
  const KvFormat dense;
  if (plan_.dense_first > 0) {
    first_ = std::make_unique<KvStore>(dense, dense, geometry.heads, geometry.head_dim, KvPageRowsFor(plan_.dense_first));
  }
  if (plan_.dense_recent > 0) {
    recent_ = std::make_unique<KvStore>(dense, dense, geometry.heads, geometry.head_dim, KvPageRowsFor(plan_.dense_recent));
  }
}

KvEntry::KvEntry(const KvEntry* base) : KvEntry(base->geometry_, base->plan_) {
  base_ = base;
  length_ = base->length_;
}

std::unique_ptr<KvEntry> KvEntry::Probe(const KvEntry& base) { return std::unique_ptr<KvEntry>(new KvEntry(&base)); }

int64_t KvEntry::Slot(int64_t position) const {
  const int64_t keep = geometry_.keep;
  if (!ring() || position < keep) return position;
  return keep + (position - keep) % (geometry_.window - keep);
}

int64_t KvEntry::Oldest() const {
  if (!ring()) return 0;
  return std::max(std::min(geometry_.keep, high_), high_ - (geometry_.window - geometry_.keep));
}

KvStore KvEntry::NewStage() const {
  const KvFormat dense;
  // Rows that will be recent stay dense until they are not.
  const bool recent = plan_.dense_recent > 0;
  return KvStore(recent ? dense : plan_.keys, recent ? dense : plan_.values, geometry_.heads, geometry_.head_dim,
                 kKvPageRows);
}

void KvEntry::Reserve(int64_t length) {
  if (base_ != nullptr) return;
  main_.Grow(ring() ? std::min(length, geometry_.window) : length);
  if (first_ != nullptr) first_->Grow(std::min(length, plan_.dense_first));
  if (recent_ != nullptr) recent_->Grow(std::min(length, plan_.dense_recent));
}

void KvEntry::Append(int64_t n, const float* keys, const float* values, ThreadPool* pool) {
  OPTIQ_CHECK(appended_ == 0 && n > 0);
  const int64_t width = geometry_.heads * geometry_.head_dim;
  if (base_ == nullptr) Reserve(length_ + n);
  appended_ = n;
  stage_begin_ = length_;
  int64_t done = 0;
  if (base_ == nullptr && length_ < plan_.dense_first) {
    done = std::min(n, plan_.dense_first - length_);
    first_->Write(length_, done, keys, values, pool);
  }
  stage_begin_ += done;
  in_place_ = false;
  if (done == n) return;
  keys += done * width;
  values += done * width;
  if (base_ != nullptr || plan_.dense_recent > 0 || (ring() && n > 1)) {
    staged_ = std::make_unique<KvStore>(NewStage());
    stage_slot_ = ring() ? Slot(stage_begin_) % kKvBlock : 0;  // blocks that can be moved whole
    staged_->Grow(stage_slot_ + n - done);
    staged_->Write(stage_slot_, n - done, keys, values, pool);
    return;
  }
  if (ring()) {
    main_.Write(Slot(stage_begin_), 1, keys, values, nullptr);
    in_place_ = true;
  } else {
    main_.Write(stage_begin_, n - done, keys, values, pool);
  }
  high_ = std::max(high_, length_ + n);
}

void KvEntry::AddStoreSpans(const KvStore& store, int64_t capacity, int64_t begin, int64_t end, int64_t shift,
                            std::vector<KvSpan>* out) const {
  const bool main = &store == &main_;
  while (begin < end) {
    const int64_t slot = main ? Slot(begin) : capacity > 0 ? begin % capacity : begin;
    // Up to the place where the ring closes.
    const int64_t room = capacity > 0 ? capacity - slot : end - begin;
    const int64_t n = std::min(end - begin, room);
    out->push_back({.store = store.view(), .slot = slot, .count = n, .position = begin + shift});
    begin += n;
  }
}

// Committed positions [begin, end), each where it lies.
void KvEntry::AddSpans(int64_t begin, int64_t end, int64_t shift, std::vector<KvSpan>* out) const {
  if (first_ != nullptr && begin < plan_.dense_first) {
    const int64_t stop = std::min(end, plan_.dense_first);
    AddStoreSpans(*first_, 0, begin, stop, shift, out);
    begin = stop;
  }
  const int64_t recent = recent_ != nullptr ? std::clamp(RecentBegin(), begin, std::max(begin, end)) : end;
  AddStoreSpans(main_, ring() ? geometry_.window : 0, begin, std::min(end, recent), shift, out);
  if (recent_ != nullptr) AddStoreSpans(*recent_, plan_.dense_recent, recent, end, shift, out);
}

void KvEntry::HeldSpans(bool chunk, std::vector<KvSpan>* out) const {
  // Rows written in place by this pass (not staged) are part of it.
  const int64_t end = staged_ != nullptr ? stage_begin_ : length_ + appended_;
  if (!ring()) return AddSpans(0, end, 0, out);
  // A chunk sees window - 1 old rows, sinks among them; a single step sees the ring as it is after it.
  int64_t oldest = Oldest();
  if (chunk) oldest = std::max(oldest, std::min(length_, std::max(geometry_.keep, length_ - (geometry_.window - 1 - geometry_.keep))));
  const int64_t sinks = std::min(geometry_.keep, end);
  // mlx-lm masks by places in the ring, where the sinks stand right before the oldest row.
  const int64_t shift = length_ - std::min(length_, geometry_.window - 1);
  AddSpans(0, std::min(sinks, oldest), shift, out);
  AddSpans(oldest, end, 0, out);
}

std::vector<KvSpan> KvEntry::Spans() const {
  std::vector<KvSpan> out;
  if (base_ != nullptr) {
    base_->HeldSpans(/*chunk=*/true, &out);
  } else {
    HeldSpans(/*chunk=*/!in_place_, &out);
  }
  if (staged_ != nullptr) {
    out.push_back({.store = staged_->view(), .slot = stage_slot_, .count = length_ + appended_ - stage_begin_,
                   .position = stage_begin_});
  }
  return out;
}

// Rows of positions position.. into their places, given a committed length that includes them.
void KvEntry::Place(int64_t position, int64_t n, const float* keys, const float* values, ThreadPool* pool) {
  const int64_t width = geometry_.heads * geometry_.head_dim;
  for (int64_t i = 0; i < n;) {
    const int64_t p = position + i;
    KvStore* store = &main_;
    int64_t slot = Slot(p), stop = n;
    if (p < plan_.dense_first) {
      store = first_.get();
      slot = p;
      stop = std::min(n, plan_.dense_first - position);
    } else if (recent_ != nullptr && p >= RecentBegin()) {
      store = recent_.get();
      slot = p % plan_.dense_recent;
      stop = std::min(n, i + plan_.dense_recent - slot);
    } else {
      if (recent_ != nullptr) stop = std::min(n, RecentBegin() - position);
      if (ring()) stop = std::min(stop, i + (p < geometry_.keep ? geometry_.keep - p : geometry_.window - slot));
    }
    store->Write(slot, stop - i, keys + i * width, values + i * width, pool);
    i = stop;
  }
}

void KvEntry::CommitStaged() {
  const int64_t end = length_ + appended_, width = geometry_.heads * geometry_.head_dim;
  // What a ring keeps of them.
  const int64_t oldest = ring() ? end - (geometry_.window - geometry_.keep) : 0;
  if (recent_ == nullptr) {
    for (int64_t p = stage_begin_; p < end;) {
      if (p >= geometry_.keep && p < oldest) {
        p = oldest;
        continue;
      }
      const int64_t slot = Slot(p), room = !ring() ? end - p : p < geometry_.keep ? geometry_.keep - p : geometry_.window - slot;
      const int64_t n = std::min(end - p, room);
      main_.Copy(slot, n, *staged_, stage_slot_ + p - stage_begin_);
      p += n;
    }
  } else {
    // Rows that leave the recent ones are quantized, then the new ones take their places.
    std::vector<float> keys(width), values(width);
    const int64_t old_begin = std::max({int64_t{0}, RecentBegin(), plan_.dense_first}), old_end = length_;
    const int64_t begin = end - plan_.dense_recent;
    for (int64_t p = old_begin; p < std::min(end, begin); ++p) {
      if (p < plan_.dense_first || (p < oldest && p >= geometry_.keep)) continue;
      if (p < old_end) {
        recent_->Read(p % plan_.dense_recent, keys.data(), values.data());
      } else {
        staged_->Read(stage_slot_ + p - stage_begin_, keys.data(), values.data());
      }
      main_.Write(Slot(p), 1, keys.data(), values.data(), nullptr);
    }
    for (int64_t p = std::max(stage_begin_, begin); p < end; ++p) {
      recent_->Copy(p % plan_.dense_recent, 1, *staged_, stage_slot_ + p - stage_begin_);
    }
  }
}

void KvEntry::Commit() {
  if (appended_ == 0) return;
  if (base_ == nullptr) {
    if (staged_ != nullptr) CommitStaged();
    length_ += appended_;
    high_ = std::max(high_, length_);
  }
  staged_.reset();
  appended_ = 0;
}

bool KvEntry::Trim(int64_t length) {
  OPTIQ_CHECK(base_ == nullptr);
  staged_.reset();
  appended_ = 0;
  if (length >= length_) return true;
  if (length <= 0) {
    Clear();
    return true;
  }
  // The next query, at position `length`, sees window - 1 rows before it.
  if (ring() && Oldest() > std::max(geometry_.keep, length - (geometry_.window - 1 - geometry_.keep))) return false;
  dense_from_ = recent_ != nullptr ? std::clamp<int64_t>(RecentBegin(), 0, length) : 0;
  length_ = length;
  return true;
}

void KvEntry::Clear() {
  // Pages go too: a failed pass may have left values that are not finite.
  const KvLayerPlan plan = plan_;
  *this = KvEntry(geometry_, plan);
}

std::vector<KvEntry::Range> KvEntry::Held() const {
  const int64_t oldest = std::min(Oldest(), length_), sinks = std::min({geometry_.keep, oldest, length_});
  std::vector<Range> out;
  if (sinks > 0) out.push_back({0, sinks});
  if (oldest < length_) out.push_back({oldest, length_});
  return out;
}

KvEntry::Location KvEntry::Locate(int64_t p) const {
  if (p < plan_.dense_first) return {first_.get(), p, Part::kFirst};
  if (recent_ != nullptr && p >= RecentBegin()) return {recent_.get(), p % plan_.dense_recent, Part::kRecent};
  return {&main_, Slot(p)};
}

void KvEntry::Read(int64_t position, float* keys, float* values) const {
  const Location at = Locate(position);
  at.store->Read(at.slot, keys, values);
}

std::vector<KvPiece> KvEntry::CopyOut(int64_t begin, int64_t end) const {
  std::vector<KvPiece> out;
  const KvFormat dense;
  for (int64_t p = begin; p < end;) {
    const Location first = Locate(p);
    int64_t n = 1;
    for (; p + n < end; ++n) {
      const Location next = Locate(p + n);
      if (next.part != first.part || next.slot != first.slot + n) break;
    }
    const bool main = first.part == Part::kMain;
    const int64_t lead = first.slot % kKvBlock;  // whole blocks are moved at once
    KvStore store(main ? plan_.keys : dense, main ? plan_.values : dense, geometry_.heads, geometry_.head_dim,
                  KvPageRowsFor(lead + n));
    store.Grow(lead + n);
    store.Copy(lead, n, *first.store, first.slot);
    out.push_back({.part = first.part, .begin = p, .end = p + n, .slot = lead, .store = std::move(store)});
    p += n;
  }
  return out;
}

void KvEntry::CopyIn(const std::vector<KvPiece>& pieces) {
  for (const KvPiece& piece : pieces) {
    for (int64_t p = piece.begin; p < piece.end;) {
      const Location first = Locate(p);
      OPTIQ_CHECK(first.part == piece.part);
      int64_t n = 1;
      for (; p + n < piece.end; ++n) {
        const Location next = Locate(p + n);
        if (next.part != first.part || next.slot != first.slot + n) break;
      }
      KvStore* store = first.part == Part::kMain ? &main_ : first.part == Part::kFirst ? first_.get() : recent_.get();
      store->Copy(first.slot, n, piece.store, piece.slot + p - piece.begin);
      p += n;
    }
  }
}

void KvEntry::Encode(const KvEntry& other) {
  OPTIQ_CHECK(length_ == 0 && appended_ == 0 && base_ == nullptr);
  const int64_t width = geometry_.heads * geometry_.head_dim;
  SetLength(other.length_);
  std::vector<float> keys(width), values(width);
  for (const Range& range : other.Held()) {
    for (int64_t p = range.begin; p < range.end; ++p) {
      other.Read(p, keys.data(), values.data());
      Place(p, 1, keys.data(), values.data(), nullptr);
    }
  }
  high_ = other.high_;
}

void KvEntry::SetPlaces(int64_t length, int64_t high, int64_t dense_from) {
  Reserve(length);
  length_ = length;
  high_ = high;
  dense_from_ = dense_from;
}

int64_t KvEntry::bytes() const {
  int64_t total = main_.bytes();
  for (const KvStore* s : {first_.get(), recent_.get(), staged_.get()}) total += s != nullptr ? s->bytes() : 0;
  return total;
}

}  // namespace optiq
