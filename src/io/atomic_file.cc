#include "io/atomic_file.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

namespace optiq {
namespace {

// 12.3 GB, 45.6 MB, 789 bytes.
std::string Human(uint64_t bytes) {
  if (bytes >= 1'000'000'000) return fmt::format("{:.2f} GB", bytes / 1e9);
  if (bytes >= 1'000'000) return fmt::format("{:.2f} MB", bytes / 1e6);
  return fmt::format("{} bytes", bytes);
}

StatusOr<uint64_t> FreeBytes(const std::string& dir) {
  struct statvfs st;
  if (::statvfs(dir.c_str(), &st) != 0) {
    if (errno == ENOENT || errno == ENOTDIR) return NotFound("{}: no such directory", dir);
    return InvalidArgument("{}: {}", dir, std::strerror(errno));
  }
  return static_cast<uint64_t>(st.f_bavail) * st.f_frsize;
}

Status WriteError(int error, const std::string& path, uint64_t needed) {
  const std::string dir = ParentDirectory(path);
  if (error == ENOSPC || error == EDQUOT) {
    auto have = FreeBytes(dir);
    return ResourceExhausted("no space: need {}, have {} at {}", Human(needed),
                             have.ok() ? Human(*have) : "an unknown amount", dir);
  }
  if (error == EFBIG) {
    return ResourceExhausted("{}: {} is above the size limit for files (ulimit -f, or the file system's)", path,
                             Human(needed));
  }
  if (error == EROFS || error == EACCES || error == EPERM) {
    return FailedPrecondition("{}: cannot write: {}", path, std::strerror(error));
  }
  if (error == ENOENT || error == ENOTDIR) return NotFound("{}: no such directory", dir);
  return Internal("{}: cannot write: {}", path, std::strerror(error));
}

}  // namespace

std::string ParentDirectory(const std::string& path) {
  const size_t slash = path.find_last_of('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

StatusOr<std::unique_ptr<OutputFile>> OutputFile::Create(const std::string& path, uint64_t expected_bytes) {
  struct rlimit limit;
  if (::getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && expected_bytes > limit.rlim_cur) {
    return WriteError(EFBIG, path, expected_bytes);  // the write itself would end the process by SIGXFSZ
  }
  std::unique_ptr<OutputFile> file(new OutputFile());
  file->path_ = path;
  file->temp_path_ = path + ".tmp";
  file->fd_ = ::open(file->temp_path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (file->fd_ < 0) return WriteError(errno, path, expected_bytes);
#ifdef __linux__
  if (expected_bytes > 0 && ::fallocate(file->fd_, FALLOC_FL_KEEP_SIZE, 0, static_cast<off_t>(expected_bytes)) != 0 &&
      (errno == ENOSPC || errno == EDQUOT || errno == EFBIG)) {  // other errors: the file system cannot reserve
    return WriteError(errno, path, expected_bytes);
  }
#endif
  return file;
}

OutputFile::~OutputFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(temp_path_.c_str());
}

Status OutputFile::WriteAt(uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    // Linux writes at most 2 GiB at a time; a short write is continued, so that the error shows on the next one.
    const size_t chunk = std::min<size_t>(bytes.size(), size_t{1} << 30);
    const ssize_t n = ::pwrite(fd_, bytes.data(), chunk, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return WriteError(n < 0 ? errno : ENOSPC, path_, bytes.size());
    bytes = bytes.subspan(n);
    offset += n;
  }
  return OkStatus();
}

Status OutputFile::Commit() {
  if (::fsync(fd_) != 0) return WriteError(errno, path_, 0);
  const int fd = fd_;
  fd_ = -1;
  if (::close(fd) != 0 && errno != EINTR) {
    const int error = errno;
    ::unlink(temp_path_.c_str());
    return WriteError(error, path_, 0);
  }
  if (::rename(temp_path_.c_str(), path_.c_str()) != 0) {
    const int error = errno;
    ::unlink(temp_path_.c_str());
    return WriteError(error, path_, 0);
  }
  return SyncDirectory(ParentDirectory(path_));
}

Status SyncDirectory(const std::string& dir) {
  const int fd = ::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return WriteError(errno, dir, 0);
  // Some network file systems cannot sync a directory and say EINVAL; there is nothing to be done about it.
  const int error = ::fsync(fd) != 0 && errno != EINVAL ? errno : 0;
  ::close(fd);
  return error == 0 ? OkStatus() : WriteError(error, dir, 0);
}

Status AtomicWriteFile(const std::string& path, std::string_view contents) {
  ASSIGN_OR_RETURN(auto file, OutputFile::Create(path));
  RETURN_IF_ERROR(file->WriteAt(0, std::as_bytes(std::span(contents.data(), contents.size()))));
  return file->Commit();
}

Status CheckFreeSpace(const std::string& dir, uint64_t bytes) {
  ASSIGN_OR_RETURN(uint64_t have, FreeBytes(dir));
  if (have < bytes) return ResourceExhausted("no space: need {}, have {} at {}", Human(bytes), Human(have), dir);
  return OkStatus();
}

}  // namespace optiq
