// Helpers of the tests of this folder: scratch directories and safetensors files built by hand, valid or not.
#ifndef OPTIQ_IO_TEST_UTIL_H_
#define OPTIQ_IO_TEST_UTIL_H_

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "base/status.h"

namespace optiq::test {

// A directory that is removed with all its content.
class ScratchDir {
 public:
  ScratchDir() {
    std::string name = (std::filesystem::temp_directory_path() / "optiq_io_XXXXXX").string();
    path_ = ::mkdtemp(name.data());
  }
  ~ScratchDir() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  const std::string& path() const { return path_; }
  std::string operator/(std::string_view name) const { return path_ + "/" + std::string(name); }

 private:
  std::string path_;
};

inline void Spit(const std::string& path, std::string_view contents) {
  std::ofstream(path, std::ios::binary).write(contents.data(), contents.size());
}

inline std::string Slurp(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// The 8 length bytes, the header as given, the data.
inline std::string RawSafetensors(std::string_view header, std::string_view data) {
  std::string out;
  for (int i = 0; i < 8; ++i) out.push_back(static_cast<char>(header.size() >> (8 * i) & 0xff));
  return out.append(header).append(data);
}

inline std::span<const std::byte> Bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// Fails unless `status` has the code and its message is one line that contains `part`.
inline void ExpectError(const Status& status, absl::StatusCode code, std::string_view part) {
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_NE(Message(status).find(part), std::string::npos) << status << "\nexpected: " << part;
  EXPECT_EQ(Message(status).find('\n'), std::string::npos) << status;
}

}  // namespace optiq::test

#endif  // OPTIQ_IO_TEST_UTIL_H_
