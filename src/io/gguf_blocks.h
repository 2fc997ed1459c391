// Dequantization of the GGUF block formats to f32.
#ifndef OPTIQ_IO_GGUF_BLOCKS_H_
#define OPTIQ_IO_GGUF_BLOCKS_H_

#include <cstddef>
#include <cstdint>

#include "io/dtype.h"

namespace optiq {

// Widens `elements` consecutive weights, a multiple of DTypeBlockElements(dtype), from their blocks at `src` (any
// alignment, little endian) into out[elements]. Block formats only (IsBlock(dtype)). The order of the f32 operations is
// that of gguf-py's quants.py, so the values are those of its dequantize, bit for bit.
void DequantizeBlocks(DType dtype, const std::byte* src, int64_t elements, float* out);

}  // namespace optiq

#endif  // OPTIQ_IO_GGUF_BLOCKS_H_
