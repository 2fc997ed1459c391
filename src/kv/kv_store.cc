#include "kv/kv_store.h"

#include <algorithm>
#include <cstring>

#include "base/checked.h"
#include "base/status.h"
#include "kernels/kv_write.h"

namespace optiq {

int64_t KvPageRowsFor(int64_t capacity) {
  if (capacity <= 0) return kKvPageRows;
  return RoundUp(DivUp(capacity, DivUp(capacity, kKvPageRows)), kKvBlock);
}

KvStore::KvStore(KvFormat keys, KvFormat values, int64_t heads, int64_t head_dim, int64_t page_rows)
    : keys_{keys, heads, head_dim, page_rows}, values_{values, heads, head_dim, page_rows} {
  OPTIQ_CHECK(page_rows > 0 && page_rows % kKvBlock == 0 && page_rows <= kKvPageRows);
  for (const KvFormat& f : {keys, values}) OPTIQ_CHECK(!f.quantized() || head_dim % f.group_size == 0);
}

void KvStore::Grow(int64_t slots) {
  while (this->slots() < slots) {
    page_list_.reserve(page_list_.size() + 1);
    AlignedBuffer<std::byte> page(page_bytes());
    std::memset(page.data(), 0, page_bytes());
    pages_.push_back(std::move(page));
    page_list_.push_back(pages_.back().data());
  }
}

std::byte* KvStore::part(KvSide side, int64_t slot) {
  return pages_[slot / keys_.rows].data() + (side == KvSide::kKeys ? 0 : keys_.bytes());
}
const std::byte* KvStore::part(KvSide side, int64_t slot) const { return const_cast<KvStore*>(this)->part(side, slot); }

void KvStore::Write(int64_t slot, int64_t n, const float* keys, const float* values, ThreadPool* pool) {
  OPTIQ_CHECK(slot >= 0 && slot + n <= slots());
  const int64_t heads = keys_.heads, d = keys_.head_dim;
  // A block is the unit: rows of one block of values share words.
  const auto write_block = [&](int64_t block, int64_t head) {
    const int64_t begin = std::max(slot, block * kKvBlock), end = std::min(slot + n, (block + 1) * kKvBlock);
    for (int64_t s = begin; s < end; ++s) {
      const int64_t at = (s - slot) * heads * d + head * d;
      WriteKvRow(keys_, KvSide::kKeys, part(KvSide::kKeys, s), head, row(s), keys + at);
      WriteKvRow(values_, KvSide::kValues, part(KvSide::kValues, s), head, row(s), values + at);
    }
  };
  const int64_t first = slot / kKvBlock, blocks = n > 0 ? (slot + n - 1) / kKvBlock - first + 1 : 0;
  if (pool == nullptr || blocks == 1) {
    for (int64_t b = 0; b < blocks; ++b) {
      for (int64_t h = 0; h < heads; ++h) write_block(first + b, h);
    }
    return;
  }
  pool->ParallelFor(blocks * heads, [&](int64_t task, int) { write_block(first + task / heads, task % heads); });
}

// A whole block: its chunks are contiguous.
void KvStore::CopyBlock(int64_t slot, const KvStore& from, int64_t from_slot) {
  for (KvSide side : {KvSide::kKeys, KvSide::kValues}) {
    const KvPageLayout &to_layout = layout(side), &from_layout = from.layout(side);
    const int64_t block = to_layout.format.bits * kKvBlock * 4;  // bytes of one chunk
    const size_t width = kKvBlock * DTypeBlockBytes(to_layout.format.scale_dtype);
    for (int64_t h = 0; h < to_layout.heads; ++h) {
      std::byte* to = part(side, slot) + h * to_layout.head_bytes() + row(slot) / kKvBlock * block;
      const std::byte* source = from.part(side, from_slot) + h * from_layout.head_bytes() + from.row(from_slot) / kKvBlock * block;
      for (int64_t c = 0; c < to_layout.dim() / kKvChunk; ++c) {
        std::memcpy(to + c * (to_layout.rows / kKvBlock) * block, source + c * (from_layout.rows / kKvBlock) * block, block);
      }
      for (int64_t g = 0; g < to_layout.groups(); ++g) {
        for (int which : {0, 1}) {
          std::memcpy(KvParameter(to_layout, part(side, slot), h, row(slot), g, which),
                      KvParameter(from_layout, from.part(side, from_slot), h, from.row(from_slot), g, which), width);
        }
      }
    }
  }
}

void KvStore::Copy(int64_t slot, int64_t n, const KvStore& from, int64_t from_slot) {
  OPTIQ_CHECK(slot + n <= slots() && from_slot + n <= from.slots());
  OPTIQ_CHECK(keys_.format == from.keys_.format && values_.format == from.values_.format);
  std::vector<uint32_t> codes(keys_.dim());
  for (int64_t i = 0; i < n;) {
    if ((slot + i) % kKvBlock == 0 && (from_slot + i) % kKvBlock == 0 && n - i >= kKvBlock) {
      CopyBlock(slot + i, from, from_slot + i);
      i += kKvBlock;
      continue;
    }
    for (KvSide side : {KvSide::kKeys, KvSide::kValues}) {
      const KvPageLayout &to_layout = layout(side), &from_layout = from.layout(side);
      std::byte* to = part(side, slot + i);
      const std::byte* source = from.part(side, from_slot + i);
      const size_t width = DTypeBlockBytes(to_layout.format.scale_dtype);
      for (int64_t h = 0; h < to_layout.heads; ++h) {
        GetKvCodes(from_layout, side, source, h, from.row(from_slot + i), codes.data());
        PutKvCodes(to_layout, side, to, h, row(slot + i), codes.data());
        for (int64_t g = 0; g < to_layout.groups(); ++g) {
          for (int which : {0, 1}) {
            std::memcpy(KvParameter(to_layout, to, h, row(slot + i), g, which),
                        KvParameter(from_layout, source, h, from.row(from_slot + i), g, which), width);
          }
        }
      }
    }
    ++i;
  }
}

void KvStore::Read(int64_t slot, float* keys, float* values) const {
  OPTIQ_CHECK(slot >= 0 && slot < slots());
  for (int64_t h = 0; h < keys_.heads; ++h) {
    DecodeKvRow(keys_, KvSide::kKeys, part(KvSide::kKeys, slot), h, row(slot), keys + h * keys_.head_dim);
    DecodeKvRow(values_, KvSide::kValues, part(KvSide::kValues, slot), h, row(slot), values + h * keys_.head_dim);
  }
}

}  // namespace optiq
