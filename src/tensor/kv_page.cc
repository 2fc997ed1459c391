#include "tensor/kv_page.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

#include "base/half.h"
#include "base/status.h"
#include "tensor/affine.h"

namespace optiq {
namespace {

uint32_t CodeMask(int bits) { return bits == 32 ? 0xffffffffu : (1u << bits) - 1; }

// Where code n of a lane's bit stream begins: words are kKvBlock apart.
struct Place {
  int64_t word;  // index of the first word that holds it
  int shift;
};

Place PlaceOf(const KvPageLayout& l, KvSide side, int64_t row, int64_t element) {
  const int64_t chunk = element / kKvChunk, block = row / kKvBlock, e = element % kKvChunk, r = row % kKvBlock;
  const bool keys = side == KvSide::kKeys;
  const int64_t lane = keys ? r : e % kKvBlock, n = keys ? e : e / kKvBlock * kKvBlock + r;
  const int64_t first = (chunk * (l.rows / kKvBlock) + block) * l.format.bits, bit = n * l.format.bits;
  return {(first + bit / 32) * kKvBlock + lane, static_cast<int>(bit % 32)};
}

}  // namespace

int64_t KvRowBytes(const KvFormat& format, int64_t heads, int64_t head_dim) {
  const KvPageLayout l{format, heads, head_dim, kKvBlock};
  return heads * (l.code_bytes() + 2 * l.scale_bytes()) / kKvBlock;
}

KvTile TileOf(const KvPageLayout& l, const std::byte* page, int64_t head) {
  const std::byte* base = page + head * l.head_bytes();
  KvTile tile;
  tile.words = reinterpret_cast<const uint32_t*>(base);
  tile.scales = base + l.code_bytes();
  tile.biases = tile.scales + l.scale_bytes();
  tile.bits = l.format.bits;
  tile.scale_dtype = l.format.scale_dtype;
  tile.dim = l.dim();
  tile.group_size = l.format.quantized() ? l.format.group_size : tile.dim;
  tile.rows = l.rows;
  return tile;
}

void PutKvCodes(const KvPageLayout& l, KvSide side, std::byte* page, int64_t head, int64_t row, const uint32_t* codes) {
  uint32_t* words = reinterpret_cast<uint32_t*>(page + head * l.head_bytes());
  const int bits = l.format.bits;
  const uint32_t mask = CodeMask(bits);
  for (int64_t e = 0; e < l.dim(); ++e) {
    const Place p = PlaceOf(l, side, row, e);
    const uint32_t code = codes[e] & mask;
    words[p.word] = (words[p.word] & ~(mask << p.shift)) | code << p.shift;
    if (p.shift + bits > 32) {
      uint32_t& next = words[p.word + kKvBlock];
      next = (next & ~(mask >> (32 - p.shift))) | code >> (32 - p.shift);
    }
  }
}

void GetKvCodes(const KvPageLayout& l, KvSide side, const std::byte* page, int64_t head, int64_t row, uint32_t* codes) {
  const uint32_t* words = reinterpret_cast<const uint32_t*>(page + head * l.head_bytes());
  const int bits = l.format.bits;
  for (int64_t e = 0; e < l.dim(); ++e) {
    const Place p = PlaceOf(l, side, row, e);
    uint32_t code = words[p.word] >> p.shift;
    if (p.shift + bits > 32) code |= words[p.word + kKvBlock] << (32 - p.shift);
    codes[e] = code & CodeMask(bits);
  }
}

const std::byte* KvParameter(const KvPageLayout& l, const std::byte* page, int64_t head, int64_t row, int64_t group,
                             int which) {
  return page + head * l.head_bytes() + l.code_bytes() + which * l.scale_bytes() +
         (group * l.rows + row) * static_cast<int64_t>(DTypeBlockBytes(l.format.scale_dtype));
}

std::byte* KvParameter(const KvPageLayout& l, std::byte* page, int64_t head, int64_t row, int64_t group, int which) {
  return const_cast<std::byte*>(KvParameter(l, static_cast<const std::byte*>(page), head, row, group, which));
}

void EncodeKvRow(const KvPageLayout& l, KvSide side, std::byte* page, int64_t head, int64_t row, const float* x) {
  std::vector<uint32_t> codes(l.dim(), 0);
  if (l.format.bits == 32) {
    for (int64_t e = 0; e < l.head_dim; ++e) codes[e] = std::bit_cast<uint32_t>(x[e]);
  } else if (l.format.bits == 16) {
    for (int64_t e = 0; e < l.head_dim; ++e) codes[e] = F32ToBF16(x[e]);
  } else {
    std::vector<float> rounded(x, x + l.head_dim);
    if (l.format.scale_dtype == DType::kBF16) {
      for (float& v : rounded) v = BF16ToF32(F32ToBF16(v));
    }
    const int64_t g = l.format.group_size;
    uint8_t bytes[128];
    for (int64_t k = 0; k < l.groups(); ++k) {
      const AffineGroup group = FitGroupRtn(rounded.data() + k * g, g, l.format.bits);
      CodesOf(rounded.data() + k * g, g, group, l.format.bits, bytes);
      std::copy(bytes, bytes + g, codes.begin() + k * g);
      StoreFloat(l.format.scale_dtype, KvParameter(l, page, head, row, k, 0), 0, group.scale);
      StoreFloat(l.format.scale_dtype, KvParameter(l, page, head, row, k, 1), 0, group.bias);
    }
  }
  PutKvCodes(l, side, page, head, row, codes.data());
}

void DecodeKvRow(const KvPageLayout& l, KvSide side, const std::byte* page, int64_t head, int64_t row, float* out) {
  std::vector<uint32_t> codes(l.dim());
  GetKvCodes(l, side, page, head, row, codes.data());
  for (int64_t e = 0; e < l.head_dim; ++e) {
    if (l.format.bits == 32) {
      out[e] = std::bit_cast<float>(codes[e]);
    } else if (l.format.bits == 16) {
      out[e] = BF16ToF32(static_cast<uint16_t>(codes[e]));
    } else {
      const int64_t k = e / l.format.group_size;
      const float scale = LoadFloat(l.format.scale_dtype, KvParameter(l, page, head, row, k, 0), 0);
      const float bias = LoadFloat(l.format.scale_dtype, KvParameter(l, page, head, row, k, 1), 0);
      out[e] = static_cast<float>(codes[e]) * scale + bias;
    }
  }
}

}  // namespace optiq
