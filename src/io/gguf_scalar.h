// Scalars of GGUF metadata, read in place.
#ifndef OPTIQ_IO_GGUF_SCALAR_H_
#define OPTIQ_IO_GGUF_SCALAR_H_

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>

#include "io/gguf.h"

namespace optiq {

static_assert(std::endian::native == std::endian::little, "GGUF values are read in place");

// A little-endian value at any alignment.
template <typename T>
T LoadScalar(const std::byte* p) {
  T value;
  std::memcpy(&value, p, sizeof(T));
  return value;
}

// Bytes of one scalar; 0 for strings, arrays and unknown types.
inline uint64_t ScalarBytes(GgufType type) {
  switch (type) {
    case GgufType::kUint8:
    case GgufType::kInt8:
    case GgufType::kBool:
      return 1;
    case GgufType::kUint16:
    case GgufType::kInt16:
      return 2;
    case GgufType::kUint32:
    case GgufType::kInt32:
    case GgufType::kFloat32:
      return 4;
    case GgufType::kUint64:
    case GgufType::kInt64:
    case GgufType::kFloat64:
      return 8;
    case GgufType::kString:
    case GgufType::kArray:
      break;
  }
  return 0;
}

// An integer scalar at p, or nullopt when the type is no integer or the value does not fit.
inline std::optional<int64_t> IntAt(GgufType type, const std::byte* p) {
  switch (type) {
    case GgufType::kUint8:
      return LoadScalar<uint8_t>(p);
    case GgufType::kInt8:
      return LoadScalar<int8_t>(p);
    case GgufType::kUint16:
      return LoadScalar<uint16_t>(p);
    case GgufType::kInt16:
      return LoadScalar<int16_t>(p);
    case GgufType::kUint32:
      return LoadScalar<uint32_t>(p);
    case GgufType::kInt32:
      return LoadScalar<int32_t>(p);
    case GgufType::kInt64:
      return LoadScalar<int64_t>(p);
    case GgufType::kUint64: {
      const uint64_t v = LoadScalar<uint64_t>(p);
      if (v > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
      return static_cast<int64_t>(v);
    }
    default:
      return std::nullopt;
  }
}

}  // namespace optiq

#endif  // OPTIQ_IO_GGUF_SCALAR_H_
