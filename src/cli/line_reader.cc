#include "cli/line_reader.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/limits.h"

namespace optiq {
namespace {

constexpr int kWaitMilliseconds = 100;

}  // namespace

StatusOr<std::optional<std::string>> LineReader::Next(const std::atomic<bool>* interrupted) {
  size_t searched = 0;
  for (;;) {
    const size_t end = buffer_.find('\n', searched);
    if (end != std::string::npos || (at_end_ && !buffer_.empty())) {
      std::string line = buffer_.substr(0, end);
      buffer_.erase(0, end == std::string::npos ? end : end + 1);
      if (!line.empty() && line.back() == '\r') line.pop_back();
      return std::optional(std::move(line));
    }
    if (at_end_) return std::nullopt;
    if (buffer_.size() > limits::kConfigBytes) {
      return ResourceExhausted("standard input: a line has more than {} bytes", limits::kConfigBytes);
    }
    searched = buffer_.size();
    if (interrupted != nullptr) {
      pollfd waiting{.fd = fd_, .events = POLLIN, .revents = 0};
      while (::poll(&waiting, 1, kWaitMilliseconds) == 0 && !*interrupted) {
      }
      if (*interrupted) return Cancelled("interrupted");
    }
    char chunk[4096];
    const ssize_t n = ::read(fd_, chunk, sizeof(chunk));
    if (n < 0 && errno == EINTR) return Cancelled("interrupted");
    if (n < 0) return InvalidArgument("standard input: cannot read: {}", std::strerror(errno));
    if (n == 0) at_end_ = true;
    buffer_.append(chunk, n);
  }
}

}  // namespace optiq
