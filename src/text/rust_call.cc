#include "text/rust_call.h"

#include <mutex>

namespace optiq::rust {

void Buffer::Quiet() {
  static std::once_flag once;
  std::call_once(once, ot_quiet_panics);
}

Status ToStatus(int code, const Buffer& error, std::string_view subject) {
  std::string message = error.str();
  if (code != OT_RAISED) {
    for (char& c : message) {
      if (c == '\n' || c == '\r') c = ' ';
    }
    constexpr size_t kMaxMessage = 500;  // library messages may quote a whole vocabulary
    if (message.size() > kMaxMessage) {
      size_t end = kMaxMessage;
      while (end > 0 && (static_cast<unsigned char>(message[end]) & 0xC0) == 0x80) --end;
      message = message.substr(0, end) + "...";
    }
  }
  switch (code) {
    case OT_OK:
      return OkStatus();
    case OT_INPUT:
    case OT_RAISED:
      return InvalidArgument("{}: {}", subject, message);
    case OT_PARSE:
      return DataLoss("{}: {}", subject, message);
    case OT_LIMIT:
      return ResourceExhausted("{}: {}", subject, message);
    default:
      return DataLoss("{}: the text library gave up ({}); is the file damaged?", subject, message);
  }
}

}  // namespace optiq::rust
