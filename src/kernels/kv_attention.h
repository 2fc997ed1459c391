// Attention's inner loops over cache pages (tensor/kv_page.h), for every format: codes are widened in registers, one constant shift
// and one mask each, to 1 + code / 2^bits; scale and bias are applied to the sums. f32 sums in a fixed order.
#ifndef OPTIQ_KERNELS_KV_ATTENTION_H_
#define OPTIQ_KERNELS_KV_ATTENTION_H_

#include <cstdint>

#include "tensor/kv_page.h"

namespace optiq {

// Query vectors that one pass serves: a caller with more calls again while the tile is in the cache.
inline constexpr int kKvQueries = 4;

// scores[h * score_stride + i] = q_h . key of row 16 * block_begin + i, for all rows of blocks [block_begin, block_end) and
// h < queries <= kKvQueries. q: [queries][tile.dim], padded with zeros.
void KvKeyScores(const KvTile& tile, const float* q, int queries, int64_t block_begin, int64_t block_end, float* scores,
                 int64_t score_stride);

// out[h * tile.dim + e] += sum_i p[h * p_stride + i] * value of row 16 * block_begin + i, element e.
void KvAddValues(const KvTile& tile, const float* p, int64_t p_stride, int queries, int64_t block_begin,
                 int64_t block_end, float* out);

// Blocks as f32 panels for GemmPanelF32, nr = GemmPanelColumns():
//   keys:   [row / nr][tile.dim][nr], rows counted from 16 * block_begin; rows that fill the last panel are zero
//   values: [element / nr][row][nr], (block_end - block_begin) * 16 rows; elements that fill the last panel are zero
void KvKeyPanels(const KvTile& tile, int64_t block_begin, int64_t block_end, float* panels);
void KvValuePanels(const KvTile& tile, int64_t block_begin, int64_t block_end, float* panels);

}  // namespace optiq

#endif  // OPTIQ_KERNELS_KV_ATTENTION_H_
