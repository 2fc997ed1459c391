// Status conventions of the project: every failure a user, a file or a request can cause is an absl::Status.
//
// A message reads "<subject>: <what is wrong>; <what to do>", where the subject names the file, and inside it the
// tensor or field: `model.safetensors: tensor 'x': 4096 bytes past the end of the file; is the download complete?`
//
// Codes map to exit codes in one table (ExitCodeFor): see docs/exit-codes.md.
#ifndef OPTIQ_BASE_STATUS_H_
#define OPTIQ_BASE_STATUS_H_

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace optiq {

using absl::Status;
using absl::StatusOr;

inline Status OkStatus() { return absl::OkStatus(); }

// Error makers: the message is a fmt format string.
#define OPTIQ_DEFINE_ERROR(Name, kCode)                                                       \
  template <typename... Args>                                                                 \
  Status Name(fmt::format_string<Args...> format, Args&&... args) {                           \
    return Status(absl::StatusCode::kCode, fmt::format(format, std::forward<Args>(args)...)); \
  }
OPTIQ_DEFINE_ERROR(InvalidArgument, kInvalidArgument)      // bad flag, field or request: exit 2
OPTIQ_DEFINE_ERROR(NotFound, kNotFound)                    // a file or name is missing: exit 3
OPTIQ_DEFINE_ERROR(DataLoss, kDataLoss)                    // a file is damaged or lies: exit 4
OPTIQ_DEFINE_ERROR(ResourceExhausted, kResourceExhausted)  // memory, disk or a limit: exit 5
OPTIQ_DEFINE_ERROR(Unavailable, kUnavailable)              // network: exit 6
OPTIQ_DEFINE_ERROR(AlreadyExists, kAlreadyExists)          // the output is there already: exit 7
OPTIQ_DEFINE_ERROR(FailedPrecondition, kFailedPrecondition)  // cannot be done in this state: exit 7
OPTIQ_DEFINE_ERROR(Unimplemented, kUnimplemented)          // architecture or feature not supported: exit 8
OPTIQ_DEFINE_ERROR(Cancelled, kCancelled)                  // interrupted: exit 130
OPTIQ_DEFINE_ERROR(Internal, kInternal)                    // our bug: exit 1
#undef OPTIQ_DEFINE_ERROR

// The process exit code of a status: 0 ok, 1 internal, 2 usage, 3 not found, 4 corrupt input, 5 out of memory, disk or
// limit, 6 network, 7 output exists or state does not allow it, 8 unsupported, 130 interrupted.
int ExitCodeFor(const Status& status);

// The same status with "prefix: " before its message.
Status Annotate(const Status& status, std::string_view prefix);

// The message as std::string (absl's string_view is not std's in Debian's build).
inline std::string Message(const Status& status) { return std::string(status.message()); }

#define OPTIQ_CONCAT_INNER_(a, b) a##b
#define OPTIQ_CONCAT_(a, b) OPTIQ_CONCAT_INNER_(a, b)

#define RETURN_IF_ERROR(expr)                           \
  do {                                                  \
    ::optiq::Status optiq_status_ = (expr);             \
    if (!optiq_status_.ok()) return optiq_status_;      \
  } while (0)

#define ASSIGN_OR_RETURN(lhs, expr) \
  OPTIQ_ASSIGN_OR_RETURN_(OPTIQ_CONCAT_(optiq_statusor_, __LINE__), lhs, expr)
#define OPTIQ_ASSIGN_OR_RETURN_(tmp, lhs, expr) \
  auto tmp = (expr);                            \
  if (!tmp.ok()) return tmp.status();           \
  lhs = std::move(tmp).value()

// Invariants of our own code; never reachable by input. Always on.
#define OPTIQ_CHECK(cond)                                                      \
  do {                                                                         \
    if (!(cond)) ::optiq::CheckFailed(#cond, __FILE__, __LINE__);              \
  } while (0)

[[noreturn]] void CheckFailed(const char* condition, const char* file, int line);

}  // namespace optiq

#endif  // OPTIQ_BASE_STATUS_H_
