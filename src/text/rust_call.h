// Owners of the C ABI's buffers and the mapping of its status codes. Included by .cc files only.
#ifndef OPTIQ_TEXT_RUST_CALL_H_
#define OPTIQ_TEXT_RUST_CALL_H_

#include <optiq_text.h>

#include <string>
#include <string_view>

#include "base/status.h"

namespace optiq::rust {

inline ot_str Str(std::string_view text) { return {reinterpret_cast<const uint8_t*>(text.data()), text.size()}; }

class Buffer {
 public:
  Buffer() { Quiet(); }
  ~Buffer() { ot_buf_free(&buf_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ot_buf* get() { return &buf_; }
  std::string_view view() const { return {reinterpret_cast<const char*>(buf_.ptr), buf_.len}; }
  std::string str() const { return buf_.len == 0 ? std::string() : std::string(view()); }

 private:
  static void Quiet();  // silences Rust's own panic messages, once
  ot_buf buf_{};
};

// The status of a call. `subject` begins the message (a file or field); the exception text of a template comes after
// it.
Status ToStatus(int code, const Buffer& error, std::string_view subject);

}  // namespace optiq::rust

#endif  // OPTIQ_TEXT_RUST_CALL_H_
