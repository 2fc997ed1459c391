#include "io/dtype.h"

#include "base/checked.h"

namespace optiq {
namespace {

struct Row {
  DType dtype;
  int elements;
  int bytes;
  std::string_view name;
};

constexpr Row kRows[] = {
    {DType::kF32, 1, 4, "F32"},      {DType::kF16, 1, 2, "F16"},      {DType::kBF16, 1, 2, "BF16"},
    {DType::kF64, 1, 8, "F64"},      {DType::kI8, 1, 1, "I8"},        {DType::kI16, 1, 2, "I16"},
    {DType::kI32, 1, 4, "I32"},      {DType::kI64, 1, 8, "I64"},      {DType::kU8, 1, 1, "U8"},
    {DType::kU16, 1, 2, "U16"},      {DType::kU32, 1, 4, "U32"},      {DType::kU64, 1, 8, "U64"},
    {DType::kBool, 1, 1, "BOOL"},    {DType::kF8E4M3, 1, 1, "F8_E4M3"}, {DType::kF8E5M2, 1, 1, "F8_E5M2"},
    {DType::kQ4_0, 32, 18, "Q4_0"},  {DType::kQ4_1, 32, 20, "Q4_1"},  {DType::kQ5_0, 32, 22, "Q5_0"},
    {DType::kQ5_1, 32, 24, "Q5_1"},  {DType::kQ8_0, 32, 34, "Q8_0"},  {DType::kQ2_K, 256, 84, "Q2_K"},
    {DType::kQ3_K, 256, 110, "Q3_K"}, {DType::kQ4_K, 256, 144, "Q4_K"}, {DType::kQ5_K, 256, 176, "Q5_K"},
    {DType::kQ6_K, 256, 210, "Q6_K"},
};

const Row& At(DType d) { return kRows[static_cast<int>(d)]; }

}  // namespace

int DTypeBlockElements(DType dtype) { return At(dtype).elements; }
int DTypeBlockBytes(DType dtype) { return At(dtype).bytes; }
std::string_view DTypeName(DType dtype) { return At(dtype).name; }

std::optional<DType> DTypeFromSafetensors(std::string_view name) {
  for (const Row& r : kRows) {
    if (r.elements == 1 && r.name == name) return r.dtype;
  }
  return std::nullopt;
}

std::optional<uint64_t> TensorBytes(DType dtype, std::span<const int64_t> shape) {
  std::optional<uint64_t> n = CheckedProduct(shape);
  if (!n) return std::nullopt;
  const uint64_t unit = At(dtype).elements;
  if (unit > 1 && (shape.empty() || static_cast<uint64_t>(shape.back()) % unit != 0)) return std::nullopt;
  return CheckedMul(*n / unit, At(dtype).bytes);
}

}  // namespace optiq
