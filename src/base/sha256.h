// SHA-256 (FIPS 180-4): names the input of a resumable job and verifies finished files.
#ifndef OPTIQ_BASE_SHA256_H_
#define OPTIQ_BASE_SHA256_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace optiq {

class Sha256 {
 public:
  void Update(std::span<const std::byte> data);
  void Update(std::string_view text);
  // The digest as 64 lower-case hex digits. The object must not be used afterwards.
  std::string HexDigest();

 private:
  void Block(const std::byte* data);

  std::array<uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<std::byte, 64> buffer_;
  size_t buffered_ = 0;
  uint64_t total_ = 0;  // bytes
};

std::string Sha256Hex(std::string_view text);

}  // namespace optiq

#endif  // OPTIQ_BASE_SHA256_H_
