// Rows of keys and values of one layer in pages: slots 0, 1, ..., growing a page at a time, so that nothing is ever copied.
#ifndef OPTIQ_KV_KV_STORE_H_
#define OPTIQ_KV_KV_STORE_H_

#include <cstdint>
#include <vector>

#include "base/aligned.h"
#include "base/thread_pool.h"
#include "ops/kv_attention.h"
#include "tensor/kv_page.h"

namespace optiq {

// Pages' rows for a store that never holds more than `capacity` slots (0: no bound).
int64_t KvPageRowsFor(int64_t capacity);

class KvStore {
 public:
  // head_dim must be a multiple of the group size of a quantized format.
  KvStore(KvFormat keys, KvFormat values, int64_t heads, int64_t head_dim, int64_t page_rows);

  // Makes slots [0, slots) exist. New pages are zero. Throws std::bad_alloc.
  void Grow(int64_t slots);
  int64_t slots() const { return static_cast<int64_t>(pages_.size()) * keys_.rows; }

  // keys, values: n rows of [heads * head_dim] for slots slot... pool may be null.
  void Write(int64_t slot, int64_t n, const float* keys, const float* values, ThreadPool* pool);
  // n rows of another store of the same formats, bit by bit.
  void Copy(int64_t slot, int64_t n, const KvStore& from, int64_t from_slot);
  // One row, widened: [heads * head_dim] each.
  void Read(int64_t slot, float* keys, float* values) const;

  const KvPageLayout& layout(KvSide side) const { return side == KvSide::kKeys ? keys_ : values_; }
  std::byte* part(KvSide side, int64_t slot);              // of the slot's page
  const std::byte* part(KvSide side, int64_t slot) const;
  int64_t row(int64_t slot) const { return slot % keys_.rows; }
  KvStoreView view() const { return {&keys_, &values_, page_list_.data()}; }
  int64_t bytes() const { return static_cast<int64_t>(pages_.size()) * page_bytes(); }
  int64_t page_bytes() const { return keys_.bytes() + values_.bytes(); }

 private:
  void CopyBlock(int64_t slot, const KvStore& from, int64_t from_slot);

  KvPageLayout keys_, values_;
  std::vector<AlignedBuffer<std::byte>> pages_;
  std::vector<const std::byte*> page_list_;
};

}  // namespace optiq

#endif  // OPTIQ_KV_KV_STORE_H_
