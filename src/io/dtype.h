// Element and block types of stored tensors: the safetensors dtypes and the GGUF block formats we read.
#ifndef OPTIQ_IO_DTYPE_H_
#define OPTIQ_IO_DTYPE_H_

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace optiq {

enum class DType : uint8_t {
  kF32, kF16, kBF16, kF64, kI8, kI16, kI32, kI64, kU8, kU16, kU32, kU64, kBool, kF8E4M3, kF8E5M2,
  // GGUF block formats: source only, read through ReadRows.
  kQ4_0, kQ4_1, kQ5_0, kQ5_1, kQ8_0, kQ2_K, kQ3_K, kQ4_K, kQ5_K, kQ6_K,
};

// Elements in one storage unit: 1 for plain types, 32 or 256 for block formats.
int DTypeBlockElements(DType dtype);
// Bytes of one storage unit (of one element for plain types).
int DTypeBlockBytes(DType dtype);

// The safetensors or GGUF spelling ("BF16", "Q4_K").
std::string_view DTypeName(DType dtype);
// A safetensors dtype by name; nullopt if it is none (block formats are none).
std::optional<DType> DTypeFromSafetensors(std::string_view name);

// Bytes of a tensor; nullopt when the product overflows or a row is not whole blocks.
std::optional<uint64_t> TensorBytes(DType dtype, std::span<const int64_t> shape);

inline bool IsFloat(DType d) { return d == DType::kF32 || d == DType::kF16 || d == DType::kBF16; }
inline bool IsBlock(DType d) { return d >= DType::kQ4_0; }

}  // namespace optiq

#endif  // OPTIQ_IO_DTYPE_H_
