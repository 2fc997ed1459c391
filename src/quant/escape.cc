#include "quant/escape.h"

#include <algorithm>
#include <cstdint>

#include "base/json.h"

namespace optiq {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

// Length of the well-formed UTF-8 sequence at the start of `s` (Unicode 15, table 3-7), 0 if there is none.
size_t SequenceLength(std::string_view s) {
  auto byte = [&](size_t i) { return i < s.size() ? static_cast<uint8_t>(s[i]) : uint8_t{0}; };
  auto tail = [&](size_t i) { return (byte(i) & 0xC0) == 0x80; };
  uint8_t a = byte(0), b = byte(1);
  if (a < 0x80) return 1;
  if (a >= 0xC2 && a <= 0xDF) return tail(1) ? 2 : 0;
  if (a >= 0xE0 && a <= 0xEF) {
    if ((a == 0xE0 && b < 0xA0) || (a == 0xED && b > 0x9F)) return 0;
    return tail(1) && tail(2) ? 3 : 0;
  }
  if (a >= 0xF0 && a <= 0xF4) {
    if ((a == 0xF0 && b < 0x90) || (a == 0xF4 && b > 0x8F)) return 0;
    return tail(1) && tail(2) && tail(3) ? 4 : 0;
  }
  return 0;
}

bool IsControl(char c) { return (static_cast<uint8_t>(c) < 0x20) || c == 0x7F; }

size_t LongestBacktickRun(std::string_view text) {
  size_t longest = 0, run = 0;
  for (char c : text) {
    run = c == '`' ? run + 1 : 0;
    longest = std::max(longest, run);
  }
  return longest;
}

}  // namespace

std::string ValidUtf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    size_t n = SequenceLength(text);
    out += n > 0 ? text.substr(0, n) : kReplacement;
    text.remove_prefix(std::max<size_t>(n, 1));
  }
  return out;
}

std::string EscapeHtml(std::string_view text) {
  std::string out;
  for (char c : ValidUtf8(text)) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        if (IsControl(c) && c != '\t' && c != '\n') {
          out += kReplacement;
        } else {
          out += c;
        }
    }
  }
  return out;
}

std::string EscapeMarkdown(std::string_view text) {
  std::string out;
  for (char c : ValidUtf8(text)) {
    if (IsControl(c)) {
      out += ' ';
      continue;
    }
    // Hyphens, dots and plus signs mean something only at the start of a line, where no such text is put.
    if (std::string_view("\\`*_{}[]()<>#!|~&").find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

std::string MarkdownCode(std::string_view text) {
  std::string body = ValidUtf8(text);
  for (char& c : body) {
    if (IsControl(c)) c = ' ';
  }
  std::string fence(LongestBacktickRun(body) + 1, '`');
  std::string escaped;
  for (char c : body) {
    if (c == '|') escaped += '\\';  // a bar ends a table cell even inside a code span
    escaped += c;
  }
  std::string pad = body.empty() || body.front() == '`' || body.back() == '`' ? " " : "";
  return fence + pad + escaped + pad + fence;
}

std::string MarkdownCodeBlock(std::string_view text, std::string_view language) {
  std::string body = ValidUtf8(text);
  std::string fence(std::max<size_t>(3, LongestBacktickRun(body) + 1), '`');
  return fence + std::string(language) + "\n" + body + "\n" + fence + "\n";
}

std::string YamlString(std::string_view text) { return Json(ValidUtf8(text)).dump(-1, ' ', /*ensure_ascii=*/true); }

}  // namespace optiq
