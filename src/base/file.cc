#include "base/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace optiq {

StatusOr<std::string> ReadTextFile(const std::string& path, uint64_t max_bytes) {
  int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    if (errno == ENOENT || errno == ENOTDIR) return NotFound("{}: no such file", path);
    return InvalidArgument("{}: cannot open: {}", path, std::strerror(errno));
  }
  struct stat st;
  std::string out;
  Status status = OkStatus();
  if (::fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
    status = InvalidArgument("{}: not a regular file", path);
  } else if (static_cast<uint64_t>(st.st_size) > max_bytes) {
    status = ResourceExhausted("{}: {} bytes, more than the limit of {}", path, st.st_size, max_bytes);
  } else {
    out.resize(st.st_size);
    size_t done = 0;
    while (done < out.size()) {
      ssize_t n = ::read(fd, out.data() + done, out.size() - done);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) {
        status = DataLoss("{}: cannot read: {}", path, n < 0 ? std::strerror(errno) : "the file became shorter");
        break;
      }
      done += n;
    }
  }
  ::close(fd);
  if (!status.ok()) return status;
  return out;
}

bool FileExists(const std::string& path) {
  struct stat st;
  return ::stat(path.c_str(), &st) == 0 && S_ISREG(st.st_mode);
}

bool DirExists(const std::string& path) {
  struct stat st;
  return ::stat(path.c_str(), &st) == 0 && S_ISDIR(st.st_mode);
}

}  // namespace optiq
