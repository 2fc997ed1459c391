// Writes rows into cache pages, fast. Same bytes as tensor/kv_page.h's EncodeKvRow.
#ifndef OPTIQ_KERNELS_KV_WRITE_H_
#define OPTIQ_KERNELS_KV_WRITE_H_

#include "tensor/kv_page.h"

namespace optiq {

// x: [layout.head_dim].
void WriteKvRow(const KvPageLayout& layout, KvSide side, std::byte* page, int64_t head, int64_t row, const float* x);

}  // namespace optiq

#endif  // OPTIQ_KERNELS_KV_WRITE_H_
