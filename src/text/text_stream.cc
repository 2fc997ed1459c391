#include "text/text_stream.h"

#include "text/rust_call.h"

namespace optiq {

void TextStream::Free::operator()(ot_stream* stream) const { ot_stream_free(stream); }

StatusOr<TextStream> TextStream::Create(const Tokenizer& tokenizer, bool skip_special) {
  rust::Buffer error;
  ot_stream* stream = nullptr;
  int code = ot_stream_new(tokenizer.handle(), skip_special, &stream, error.get());
  if (code != OT_OK) return rust::ToStatus(code, error, "decoding");
  return TextStream(stream);
}

StatusOr<std::string> TextStream::Push(int32_t id) {
  if (id < 0) return InvalidArgument("decoding: {} is not a token id", id);
  rust::Buffer text, error;
  auto value = static_cast<uint32_t>(id);
  int code = ot_stream_push(stream_.get(), &value, 1, text.get(), error.get());
  if (code != OT_OK) return rust::ToStatus(code, error, "decoding");
  return text.str();
}

StatusOr<std::string> TextStream::Flush() {
  rust::Buffer text, error;
  int code = ot_stream_flush(stream_.get(), text.get(), error.get());
  if (code != OT_OK) return rust::ToStatus(code, error, "decoding");
  return text.str();
}

}  // namespace optiq
