// How keys and values lie in memory: the scalar definition of a cache page.
//
// A page holds `rows` positions (a multiple of 16) of one layer, keys or values, all heads one after the other. The elements of a
// row are cut into chunks of 32, the rows into blocks of 16. A chunk of a block is `bits` vectors of 16 little-endian words of 32
// bits; every lane of these vectors is a bit stream of 32 codes, code n in bits [n * bits, (n + 1) * bits):
//
//   keys:    lane = row within the block,      code n = element 32 * chunk + n
//   values:  lane = element within 16,         code n = element 32 * chunk + 16 * (n / 16) + lane of row n % 16
//
// So 16 scores, or 16 output elements, come out of one vector with constant shifts and without a horizontal sum, for any number of
// bits; a key's lane is MLX's packing of the row, word by word. 16-bit codes are bf16 values, 32-bit codes f32 values. Chunks of a
// head: [chunk][block][bits][16]. After them scales [group][rows] and biases [group][rows] of scale_dtype.
#ifndef OPTIQ_TENSOR_KV_PAGE_H_
#define OPTIQ_TENSOR_KV_PAGE_H_

#include <cstddef>
#include <cstdint>

#include "io/dtype.h"

namespace optiq {

inline constexpr int64_t kKvChunk = 32;     // elements
inline constexpr int64_t kKvBlock = 16;     // rows
inline constexpr int64_t kKvPageRows = 256;  // rows of a large page

// The format of keys or of values. Quantized rows follow mx.quantize along the head, each row and head for itself.
struct KvFormat {
  int bits = 16;        // 2 3 4 5 6 8: MLX affine; 16: bf16; 32: f32 (the exact path)
  int group_size = 64;  // of quantized formats
  DType scale_dtype = DType::kBF16;

  bool quantized() const { return bits <= 8; }
  friend bool operator==(const KvFormat& a, const KvFormat& b) {
    return a.bits == b.bits && (!a.quantized() || (a.group_size == b.group_size && a.scale_dtype == b.scale_dtype));
  }
};

enum class KvSide { kKeys, kValues };

struct KvPageLayout {
  KvFormat format;
  int64_t heads = 0, head_dim = 0, rows = 0;

  int64_t dim() const { return (head_dim + kKvChunk - 1) / kKvChunk * kKvChunk; }  // padded with zeros
  int64_t groups() const { return format.quantized() ? head_dim / format.group_size : 0; }
  int64_t scale_bytes() const { return groups() * rows * static_cast<int64_t>(DTypeBlockBytes(format.scale_dtype)); }
  int64_t code_bytes() const { return dim() * rows * format.bits / 8; }
  int64_t head_bytes() const { return (code_bytes() + 2 * scale_bytes() + 63) / 64 * 64; }
  int64_t bytes() const { return heads * head_bytes(); }
};

// Bytes of one position in one layer, keys or values, without padding.
int64_t KvRowBytes(const KvFormat& format, int64_t heads, int64_t head_dim);

// One head of a page, for the kernels.
struct KvTile {
  const uint32_t* words = nullptr;
  const std::byte* scales = nullptr;  // [groups][rows]
  const std::byte* biases = nullptr;
  int bits = 16;
  DType scale_dtype = DType::kBF16;
  int64_t dim = 0;         // elements, a multiple of 32
  int64_t group_size = 0;  // dim for dense formats
  int64_t rows = 0;
};
KvTile TileOf(const KvPageLayout& layout, const std::byte* page, int64_t head);

// The codes of one row, [layout.dim()].
void PutKvCodes(const KvPageLayout& layout, KvSide side, std::byte* page, int64_t head, int64_t row, const uint32_t* codes);
void GetKvCodes(const KvPageLayout& layout, KvSide side, const std::byte* page, int64_t head, int64_t row, uint32_t* codes);

// Scale (which = 0) and bias (which = 1) of a row and group, as stored.
std::byte* KvParameter(const KvPageLayout& layout, std::byte* page, int64_t head, int64_t row, int64_t group, int which);
const std::byte* KvParameter(const KvPageLayout& layout, const std::byte* page, int64_t head, int64_t row, int64_t group,
                             int which);

// The reference of the kernel that writes rows: x [layout.head_dim], rounded to bf16 first where the format stores bf16 (mlx
// quantizes the bf16 keys it is given), then mx.quantize's rule.
void EncodeKvRow(const KvPageLayout& layout, KvSide side, std::byte* page, int64_t head, int64_t row, const float* x);
// code * scale + bias, [layout.head_dim].
void DecodeKvRow(const KvPageLayout& layout, KvSide side, const std::byte* page, int64_t head, int64_t row, float* out);

}  // namespace optiq

#endif  // OPTIQ_TENSOR_KV_PAGE_H_
