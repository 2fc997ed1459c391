// A read-only memory map of a regular file.
#ifndef OPTIQ_IO_MAPPED_FILE_H_
#define OPTIQ_IO_MAPPED_FILE_H_

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "base/status.h"

namespace optiq {

class MappedFile {
 public:
  // kNotFound, kInvalidArgument (directory, FIFO), kDataLoss (empty).
  static StatusOr<std::unique_ptr<MappedFile>> Open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }

  // madvise(WILLNEED) on the pages that `range` touches / madvise(DONTNEED) on the whole pages inside it. `range` must lie in
  // bytes().
  void Prefetch(std::span<const std::byte> range) const;
  void Release(std::span<const std::byte> range) const;

 private:
  MappedFile() = default;
  std::string path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// Turns a SIGBUS (a mapped file became shorter while in use) into one clear line and exit code 4. Called once by main.
void InstallMappedFileFaultHandler();

}  // namespace optiq

#endif  // OPTIQ_IO_MAPPED_FILE_H_
