// UTF-8 validity.
#ifndef OPTIQ_BASE_UTF8_H_
#define OPTIQ_BASE_UTF8_H_

#include <string_view>

namespace optiq {

// Whether text is well-formed UTF-8: no overlong forms, no surrogates, nothing above U+10FFFF (Unicode 15, table 3-7).
bool IsUtf8(std::string_view text);

}  // namespace optiq

#endif  // OPTIQ_BASE_UTF8_H_
