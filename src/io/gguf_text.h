// Text taken from a GGUF file on its way into JSON.
#ifndef OPTIQ_IO_GGUF_TEXT_H_
#define OPTIQ_IO_GGUF_TEXT_H_

#include <string>
#include <string_view>

namespace optiq {

// Well-formed UTF-8 (Unicode 15, table 3-7): no overlong forms, surrogates or values above U+10FFFF.
bool IsUtf8(std::string_view text);

// Appends `text`, valid UTF-8, as a JSON string with its quotes; only what must be escaped is.
void AppendJsonString(std::string_view text, std::string* out);

}  // namespace optiq

#endif  // OPTIQ_IO_GGUF_TEXT_H_
