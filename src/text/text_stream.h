// Streaming detokenizer: token ids in, text out as soon as it is certain.
#ifndef OPTIQ_TEXT_TEXT_STREAM_H_
#define OPTIQ_TEXT_TEXT_STREAM_H_

#include <cstdint>
#include <memory>
#include <string>

#include "base/status.h"
#include "text/tokenizer.h"

struct ot_stream;

namespace optiq {

// One thread at a time; keeps its tokenizer alive. The pieces joined equal Decode of all ids when that holds no U+FFFD;
// of broken bytes the stream keeps the whole characters it has already given out, which Decode may take back.
class TextStream {
 public:
  static StatusOr<TextStream> Create(const Tokenizer& tokenizer, bool skip_special);

  // The new text, perhaps empty: valid UTF-8, never half a character. A character that stays unfinished for 16 tokens
  // is given out as U+FFFD.
  StatusOr<std::string> Push(int32_t id);

  // What is still held back (unfinished characters as U+FFFD); afterwards the stream starts anew.
  StatusOr<std::string> Flush();

 private:
  struct Free {
    void operator()(ot_stream* stream) const;
  };
  explicit TextStream(ot_stream* stream) : stream_(stream) {}
  std::unique_ptr<ot_stream, Free> stream_;
};

}  // namespace optiq

#endif  // OPTIQ_TEXT_TEXT_STREAM_H_
