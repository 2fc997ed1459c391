#include "base/status.h"

#include <cstdio>
#include <cstdlib>

namespace optiq {

int ExitCodeFor(const Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk: return 0;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange: return 2;
    case absl::StatusCode::kNotFound: return 3;
    case absl::StatusCode::kDataLoss: return 4;
    case absl::StatusCode::kResourceExhausted: return 5;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded: return 6;
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kFailedPrecondition: return 7;
    case absl::StatusCode::kUnimplemented: return 8;
    case absl::StatusCode::kCancelled: return 130;
    default: return 1;
  }
}

Status Annotate(const Status& status, std::string_view prefix) {
  if (status.ok()) return status;
  return Status(status.code(), fmt::format("{}: {}", prefix, Message(status)));
}

void CheckFailed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "optiq: internal error: %s does not hold at %s:%d; please report this\n", condition, file, line);
  std::abort();
}

}  // namespace optiq
