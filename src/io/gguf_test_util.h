// Writes GGUF bytes for tests, well-formed or not.
#ifndef OPTIQ_IO_GGUF_TEST_UTIL_H_
#define OPTIQ_IO_GGUF_TEST_UTIL_H_

#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/gguf.h"

namespace optiq {

class GgufBytes {
 public:
  template <typename T>
  static std::string Raw(T value) {
    std::string out(sizeof(T), '\0');
    std::memcpy(out.data(), &value, sizeof(T));
    return out;
  }
  static std::string String(std::string_view text) { return Raw<uint64_t>(text.size()) + std::string(text); }

  // One key with its type tag and value as given.
  GgufBytes& Key(std::string_view name, GgufType type, std::string_view value) {
    keys_ += String(name) + Raw(static_cast<uint32_t>(type)) + std::string(value);
    ++key_count;
    return *this;
  }
  GgufBytes& Int(std::string_view name, uint32_t v) { return Key(name, GgufType::kUint32, Raw(v)); }
  GgufBytes& Float(std::string_view name, float v) { return Key(name, GgufType::kFloat32, Raw(v)); }
  GgufBytes& Bool(std::string_view name, bool v) { return Key(name, GgufType::kBool, Raw(static_cast<uint8_t>(v))); }
  GgufBytes& Text(std::string_view name, std::string_view v) { return Key(name, GgufType::kString, String(v)); }
  GgufBytes& Array(std::string_view name, GgufType item, uint64_t count, std::string_view items) {
    return Key(name, GgufType::kArray, Raw(static_cast<uint32_t>(item)) + Raw(count) + std::string(items));
  }
  GgufBytes& Texts(std::string_view name, const std::vector<std::string>& v) {
    std::string items;
    for (const std::string& s : v) items += String(s);
    return Array(name, GgufType::kString, v.size(), items);
  }
  template <typename T>
  GgufBytes& Numbers(std::string_view name, GgufType item, const std::vector<T>& v) {
    std::string items;
    for (const T x : v) items += Raw(x);
    return Array(name, item, v.size(), items);
  }

  // dims: innermost first. Data is `size` zero bytes unless `data` is given; `offset` overrides its place.
  GgufBytes& Tensor(std::string_view name, const std::vector<uint64_t>& dims, uint32_t type, size_t size,
                    std::optional<uint64_t> offset = {}, std::string_view data = {}) {
    table_ += String(name) + Raw(static_cast<uint32_t>(dims.size()));
    for (const uint64_t d : dims) table_ += Raw(d);
    table_ += Raw(type) + Raw<uint64_t>(offset.value_or(data_.size()));
    data_ += data.empty() ? std::string(size, '\0') : std::string(data);
    data_.resize((data_.size() + alignment - 1) / alignment * alignment);
    ++tensor_count;
    return *this;
  }

  std::string Build() const {
    std::string out = magic + Raw(version) + Raw(tensor_count) + Raw(key_count) + keys_ + table_;
    if (data_.empty()) return out;
    out.resize((out.size() + alignment - 1) / alignment * alignment);
    return out + data_;
  }

  std::string magic = "GGUF";
  uint32_t version = 3;
  uint64_t alignment = 32;  // of the data as written; the key is written by the caller
  uint64_t key_count = 0, tensor_count = 0;

 private:
  std::string keys_, table_, data_;
};

inline std::span<const std::byte> BytesOf(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

}  // namespace optiq

#endif  // OPTIQ_IO_GGUF_TEST_UTIL_H_
