// Text taken from a GGUF file on its way into JSON.
#ifndef OPTIQ_IO_GGUF_TEXT_H_
#define OPTIQ_IO_GGUF_TEXT_H_

#include <string>
#include <string_view>

#include "base/utf8.h"

namespace optiq {


// Appends `text`, valid UTF-8, as a JSON string with its quotes; only what must be escaped is.
void AppendJsonString(std::string_view text, std::string* out);

}  // namespace optiq

#endif  // OPTIQ_IO_GGUF_TEXT_H_
