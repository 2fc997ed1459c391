// Writing safetensors files: the tensors are declared first, so the header is final, and their data follow in any order
// and in any pieces. The header is padded with spaces to a multiple of 8 bytes and tensors of wider elements come
// first, so every element is aligned in a mapped file.
#ifndef OPTIQ_IO_SAFETENSORS_WRITER_H_
#define OPTIQ_IO_SAFETENSORS_WRITER_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/status.h"
#include "io/atomic_file.h"
#include "io/dtype.h"

namespace optiq {

using SafetensorsMetadata = std::map<std::string, std::string>;

// A tensor to be written. Plain dtypes only.
struct TensorSpec {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
};

struct TensorData {
  TensorSpec spec;
  std::span<const std::byte> bytes;  // exactly TensorBytes(spec.dtype, spec.shape)
};

// One file. Appears under its name in Finish, not before.
class SafetensorsWriter {
 public:
  // kInvalidArgument for a duplicate or empty name, a block dtype or an impossible shape; kResourceExhausted when the
  // disk has no room for the whole file.
  static StatusOr<std::unique_ptr<SafetensorsWriter>> Create(const std::string& path,
                                                             const std::vector<TensorSpec>& tensors,
                                                             const SafetensorsMetadata& metadata);

  // Appends to the data of one tensor. kInvalidArgument for an unknown name or more bytes than its shape has.
  Status Append(std::string_view name, std::span<const std::byte> bytes);
  // Bytes still to come, over all tensors.
  uint64_t missing_bytes() const { return missing_bytes_; }
  // Closes the file and gives it its name. kFailedPrecondition, naming a tensor, if data are missing.
  Status Finish();

 private:
  struct Entry {
    uint64_t next = 0, end = 0;  // file offsets
  };
  SafetensorsWriter() = default;
  std::string path_;
  std::unique_ptr<OutputFile> file_;
  std::unordered_map<std::string, Entry> entries_;
  uint64_t missing_bytes_ = 0;
};

// The size a file with these tensors has, header included.
StatusOr<uint64_t> SafetensorsFileBytes(const std::vector<TensorSpec>& tensors, const SafetensorsMetadata& metadata);

// A whole small file.
Status WriteSafetensors(const std::string& path, const std::vector<TensorData>& tensors,
                        const SafetensorsMetadata& metadata);

}  // namespace optiq

#endif  // OPTIQ_IO_SAFETENSORS_WRITER_H_
