// Text that comes from a model file or the user, made safe to stand in HTML, Markdown, YAML or JSON.
#ifndef OPTIQ_QUANT_ESCAPE_H_
#define OPTIQ_QUANT_ESCAPE_H_

#include <string>
#include <string_view>

namespace optiq {

// Bytes that are not UTF-8 become U+FFFD; valid text is returned unchanged.
std::string ValidUtf8(std::string_view text);

// For HTML text and double-quoted attributes; control characters but tab and newline become U+FFFD.
std::string EscapeHtml(std::string_view text);

// One line of plain Markdown text (also inside a table cell): every character with a meaning is escaped, line ends are
// spaces.
std::string EscapeMarkdown(std::string_view text);

// A Markdown code span, with a fence longer than any run of backticks in the text.
std::string MarkdownCode(std::string_view text);

// A fenced Markdown code block.
std::string MarkdownCodeBlock(std::string_view text, std::string_view language);

// A double-quoted YAML (and JSON) string of ASCII characters.
std::string YamlString(std::string_view text);

}  // namespace optiq

#endif  // OPTIQ_QUANT_ESCAPE_H_
