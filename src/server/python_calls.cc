#include "server/python_calls.h"

#include <algorithm>
#include <charconv>
#include <string>

#include "server/api_error.h"
#include "text/ordered_json.h"

namespace optiq {
namespace {

constexpr int kMaxDepth = 32;

bool IsWord(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

void AppendUtf8(uint32_t code, std::string* out) {
  if (code < 0x80) {
    *out += static_cast<char>(code);
  } else if (code < 0x800) {
    *out += static_cast<char>(0xC0 | code >> 6);
    *out += static_cast<char>(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    *out += static_cast<char>(0xE0 | code >> 12);
    *out += static_cast<char>(0x80 | (code >> 6 & 0x3F));
    *out += static_cast<char>(0x80 | (code & 0x3F));
  } else {
    *out += static_cast<char>(0xF0 | code >> 18);
    *out += static_cast<char>(0x80 | (code >> 12 & 0x3F));
    *out += static_cast<char>(0x80 | (code >> 6 & 0x3F));
    *out += static_cast<char>(0x80 | (code & 0x3F));
  }
}

class PythonReader {
 public:
  explicit PythonReader(std::string_view text) : text_(text) {}

  std::optional<std::vector<ToolCall>> Calls() {
    std::vector<ToolCall> calls;
    const bool list = Take('[');
    do {
      if (list && !calls.empty() && Peek(']')) break;  // a comma may stand before the end
      auto call = Call();
      if (!call) return std::nullopt;
      calls.push_back(*std::move(call));
    } while (list && Take(','));
    if (list && !Take(']')) return std::nullopt;
    Skip();
    if (!text_.empty()) return std::nullopt;
    return calls;
  }

 private:
  void Skip() {
    const size_t start = text_.find_first_not_of(" \n\t\r");
    text_.remove_prefix(std::min(start, text_.size()));
  }
  bool Peek(char c) {
    Skip();
    return text_.starts_with(c);
  }
  bool Take(char c) {
    if (!Peek(c)) return false;
    text_.remove_prefix(1);
    return true;
  }
  std::string Word(bool dots) {
    Skip();
    size_t n = 0;
    while (n < text_.size() && (IsWord(text_[n]) || (dots && (text_[n] == '.' || text_[n] == '-')))) ++n;
    std::string word(text_.substr(0, n));
    text_.remove_prefix(n);
    return word;
  }

  std::optional<ToolCall> Call() {
    ToolCall call;
    call.name = Word(true);
    if (call.name.empty() || !Take('(')) return std::nullopt;
    OrderedJson arguments = OrderedJson::object();
    while (!Take(')')) {
      const std::string key = Word(false);
      if (key.empty() || !Take('=')) return std::nullopt;
      auto value = Value(0);
      if (!value) return std::nullopt;
      arguments[key] = *std::move(value);
      if (!Take(',') && !Peek(')')) return std::nullopt;
    }
    call.arguments = Dump(arguments);
    return call;
  }

  std::optional<OrderedJson> Value(int depth) {
    if (depth > kMaxDepth) return std::nullopt;
    Skip();
    if (text_.empty()) return std::nullopt;
    const char c = text_[0];
    if (c == '"' || c == '\'') {
      auto string = String();
      return string ? std::optional<OrderedJson>(*string) : std::nullopt;
    }
    if (c == '{') return Dictionary(depth);
    if (c == '[' || c == '(') return List(depth);
    if (c == '-' || c == '+' || (c >= '0' && c <= '9')) return Number();
    const std::string word = Word(false);
    if (word == "True" || word == "true") return OrderedJson(true);
    if (word == "False" || word == "false") return OrderedJson(false);
    if (word == "None" || word == "null") return OrderedJson(nullptr);
    return std::nullopt;
  }

  std::optional<OrderedJson> Number() {
    const std::string_view digits = text_.substr(0, text_.find_first_not_of("+-.0123456789eE"));
    text_.remove_prefix(digits.size());
    StatusOr<OrderedJson> number = ParseOrderedJson(digits.substr(digits.starts_with('+')), "number");
    if (!number.ok()) return std::nullopt;
    return *std::move(number);
  }

  std::optional<OrderedJson> List(int depth) {
    const char close = text_[0] == '[' ? ']' : ')';
    text_.remove_prefix(1);
    OrderedJson list = OrderedJson::array();
    while (!Take(close)) {
      auto value = Value(depth + 1);
      if (!value) return std::nullopt;
      list.push_back(*std::move(value));
      if (!Take(',') && !Peek(close)) return std::nullopt;
    }
    return list;
  }

  std::optional<OrderedJson> Dictionary(int depth) {
    text_.remove_prefix(1);
    OrderedJson object = OrderedJson::object();
    while (!Take('}')) {
      Skip();
      const auto key = String();
      if (!key || !Take(':')) return std::nullopt;
      auto value = Value(depth + 1);
      if (!value) return std::nullopt;
      object[*key] = *std::move(value);
      if (!Take(',') && !Peek('}')) return std::nullopt;
    }
    return object;
  }

  std::optional<std::string> String() {
    if (!text_.starts_with('"') && !text_.starts_with('\'')) return std::nullopt;
    const char quote = text_[0];
    text_.remove_prefix(1);
    std::string out;
    while (!text_.empty() && text_[0] != quote) {
      const char c = text_[0];
      text_.remove_prefix(1);
      if (c != '\\') {
        out += c;
      } else if (!Escape(&out)) {
        return std::nullopt;
      }
    }
    if (text_.empty()) return std::nullopt;
    text_.remove_prefix(1);
    return out;
  }

  bool Escape(std::string* out) {
    if (text_.empty()) return false;
    const char c = text_[0];
    text_.remove_prefix(1);
    const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (digits > 0) {
      uint32_t code = 0;
      if (text_.size() < digits) return false;
      const char* end = text_.data() + digits;
      const auto [stop, error] = std::from_chars(text_.data(), end, code, 16);
      if (error != std::errc() || stop != end || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) return false;
      AppendUtf8(code, out);
      text_.remove_prefix(digits);
      return true;
    }
    switch (c) {
      case 'n':
        *out += '\n';
        break;
      case 't':
        *out += '\t';
        break;
      case 'r':
        *out += '\r';
        break;
      case '\\':
      case '\'':
      case '"':
        *out += c;
        break;
      case '\n':  // a line that goes on
        break;
      default:  // Python keeps what it does not know
        *out += '\\';
        *out += c;
    }
    return true;
  }

  std::string_view text_;
};

}  // namespace

std::optional<std::vector<ToolCall>> ParsePythonCalls(std::string_view text) { return PythonReader(text).Calls(); }

}  // namespace optiq
