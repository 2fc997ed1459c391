// Lines from a file descriptor, with interruption.
#ifndef OPTIQ_CLI_LINE_READER_H_
#define OPTIQ_CLI_LINE_READER_H_

#include <atomic>
#include <optional>
#include <string>

#include "base/status.h"

namespace optiq {

class LineReader {
 public:
  explicit LineReader(int fd) : fd_(fd) {}

  // The next line without its end; nullopt at the end of the input. kCancelled when a signal handler interrupted the
  // wait, kResourceExhausted for a line above limits::kConfigBytes.
  // `interrupted`, when given, is looked at while waiting: a signal that comes just before the read would not end it.
  StatusOr<std::optional<std::string>> Next(const std::atomic<bool>* interrupted = nullptr);

 private:
  int fd_;
  std::string buffer_;
  bool at_end_ = false;
};

}  // namespace optiq

#endif  // OPTIQ_CLI_LINE_READER_H_
