// The JSON header of a safetensors file as a stream of events: no tree is built, so a hostile header costs no more
// memory than the tensors it declares.
#ifndef OPTIQ_IO_SAFETENSORS_HEADER_H_
#define OPTIQ_IO_SAFETENSORS_HEADER_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "io/dtype.h"

namespace optiq {

struct HeaderEntry {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  uint64_t begin = 0, end = 0;  // from the start of the data
};

struct SafetensorsHeader {
  std::vector<HeaderEntry> entries;  // in the order of the header
  std::map<std::string, std::string> metadata;
};

// Syntax, types, names, ranks and dtypes; duplicate names and the offsets' sense are the caller's. Errors have no path.
StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view json);

}  // namespace optiq

#endif  // OPTIQ_IO_SAFETENSORS_HEADER_H_
