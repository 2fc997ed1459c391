// The GGUF container, versions 2 and 3, little endian: metadata and tensor table of one file in memory (usually
// mapped). Format: the ggml project's docs/gguf.md. Nothing is copied: keys, strings and tensors are views on the
// file's bytes.
//
// Parse checks everything a later access relies on, so the accessors never read outside the file: counts against the
// bytes that are left before anything is allocated, lengths, types, booleans, duplicate keys and names, dimensions,
// alignment, tensor ranges (inside the file, aligned, not overlapping). No allocation is larger than the file plus 1
// MB.
#ifndef OPTIQ_IO_GGUF_H_
#define OPTIQ_IO_GGUF_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "io/dtype.h"

namespace optiq {

enum class GgufType : uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};

struct GgufTensor {
  std::string_view name;             // as stored, "blk.0.attn_q.weight"
  std::span<const std::byte> bytes;  // exactly TensorBytes(dtype, Shape())
  const std::byte* dims = nullptr;   // rank u64, innermost first
  uint8_t rank = 0;                  // 1 to 4
  DType dtype = DType::kF32;

  std::vector<int64_t> Shape() const;  // outermost first
};

class GgufFile {
 public:
  // `bytes` must outlive the result. `name` stands for the file in errors. kDataLoss when the file is damaged or lies,
  // kUnimplemented for versions, byte orders and tensor types that are not read, kResourceExhausted above
  // base/limits.h.
  static StatusOr<GgufFile> Parse(std::span<const std::byte> bytes, std::string_view name);

  const std::string& name() const { return name_; }
  uint32_t version() const { return version_; }
  uint64_t alignment() const { return alignment_; }
  uint64_t data_offset() const { return data_offset_; }
  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  // The part of the file that lists the tensors.
  std::span<const std::byte> tensor_table() const { return bytes_.subspan(table_offset_, table_bytes_); }

  size_t key_count() const { return keys_.size(); }
  bool Has(std::string_view key) const { return FindValue(key) != nullptr; }
  // True for a key that starts with `prefix`.
  bool HasPrefix(std::string_view prefix) const;

  // Scalars. nullopt when the key is absent; kDataLoss when the value has another type (GetInt takes every integer type
  // and fails above int64; GetDouble takes floats and integers and fails on NaN and infinity).
  StatusOr<std::optional<int64_t>> GetInt(std::string_view key) const;
  StatusOr<std::optional<double>> GetDouble(std::string_view key) const;
  StatusOr<std::optional<bool>> GetBool(std::string_view key) const;
  StatusOr<std::optional<std::string_view>> GetString(std::string_view key) const;  // any bytes; UTF-8 is not checked

  // An integer in [min, max], or an error that names the key and the range.
  StatusOr<int64_t> RequireInt(std::string_view key, int64_t min, int64_t max) const;
  StatusOr<std::string_view> RequireString(std::string_view key) const;

  // Items of an array; nullopt when the key is absent or no array.
  std::optional<uint64_t> ArraySize(std::string_view key) const;
  // Whole arrays. An error when the key is absent or the items have another type (GetInts takes integers and booleans).
  StatusOr<std::vector<std::string_view>> GetStrings(std::string_view key) const;
  StatusOr<std::vector<int64_t>> GetInts(std::string_view key) const;
  StatusOr<std::vector<float>> GetFloats(std::string_view key) const;

 private:
  struct Key {
    std::string_view name;
    const std::byte* value = nullptr;  // the u32 type tag, then the value
  };
  GgufFile() = default;
  const std::byte* FindValue(std::string_view key) const;
  Status WrongType(std::string_view key, std::string_view wanted) const;
  StatusOr<const std::byte*> RequireArray(std::string_view key, std::string_view wanted) const;

  friend class GgufParser;
  std::string name_;
  std::span<const std::byte> bytes_;
  uint32_t version_ = 0;
  uint64_t alignment_ = 32;
  uint64_t table_offset_ = 0, table_bytes_ = 0;
  uint64_t data_offset_ = 0;
  std::vector<Key> keys_;  // sorted by name
  std::vector<GgufTensor> tensors_;
};

// Text from a file, made fit for an error message: quotes around it, control and non-ASCII bytes as \xNN, at most 80
// bytes.
std::string QuoteForError(std::string_view text);

}  // namespace optiq

#endif  // OPTIQ_IO_GGUF_H_
