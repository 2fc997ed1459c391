// Writing files so that a file under its final name is complete: write beside it, fsync, rename, fsync the directory.
#ifndef OPTIQ_IO_ATOMIC_FILE_H_
#define OPTIQ_IO_ATOMIC_FILE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/status.h"

namespace optiq {

// A file being written as `<path>.tmp`. It becomes `path` in Commit and is deleted if it never does.
class OutputFile {
 public:
  // A leftover `.tmp` of a killed run is overwritten. With expected_bytes > 0 the room is reserved at once where the
  // file system can, so that a full disk shows here and not after an hour.
  static StatusOr<std::unique_ptr<OutputFile>> Create(const std::string& path, uint64_t expected_bytes = 0);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  // Writes all bytes at `offset`. kResourceExhausted when the disk, quota or file size limit is reached.
  Status WriteAt(uint64_t offset, std::span<const std::byte> bytes);
  // fsync, rename, fsync of the directory. The object is done then.
  Status Commit();

 private:
  OutputFile() = default;
  std::string path_, temp_path_;
  int fd_ = -1;
};

// Replaces `path` by `contents` in one step.
Status AtomicWriteFile(const std::string& path, std::string_view contents);

// kResourceExhausted "no space: need X, have Y at DIR" when the file system of `dir` has less than `bytes` free for
// this user.
Status CheckFreeSpace(const std::string& dir, uint64_t bytes);

// Makes a directory's entries durable.
Status SyncDirectory(const std::string& dir);

// The directory part of a path; "." for a plain name.
std::string ParentDirectory(const std::string& path);

}  // namespace optiq

#endif  // OPTIQ_IO_ATOMIC_FILE_H_
