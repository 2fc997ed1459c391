// Reading the safetensors format: https://github.com/huggingface/safetensors, section "Format".
//
// 8 bytes little-endian N, N bytes of JSON {"name": {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__":
// {..}}, then the data. Stricter than mlx, as strict as the Rust crate: no duplicate names, and the tensors cover the
// data exactly, without holes or overlaps, up to the last byte.
#ifndef OPTIQ_IO_SAFETENSORS_H_
#define OPTIQ_IO_SAFETENSORS_H_

#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "io/stored_tensor.h"

namespace optiq {

// Checks the whole header and gives the tensors as views on `file`, in the order of their data. `path` names the file
// in errors; `metadata` (may be null) receives __metadata__. Errors: kDataLoss for a file that breaks a rule,
// kUnimplemented for a dtype of the format that this program does not read.
StatusOr<std::vector<StoredTensor>> ParseSafetensors(std::span<const std::byte> file, const std::string& path,
                                                     std::map<std::string, std::string>* metadata);

// A name from a file as it may stand in a one-line message: control characters replaced, cut after 80 bytes.
std::string PrintableName(std::string_view name);

}  // namespace optiq

#endif  // OPTIQ_IO_SAFETENSORS_H_
