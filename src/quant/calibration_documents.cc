#include "quant/calibration_documents.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/file.h"
#include "text/ordered_json.h"

namespace optiq {
namespace {

constexpr uint64_t kFileBytes = 256ull << 20;
constexpr size_t kLineBytes = 16u << 20;
constexpr size_t kTextDocumentBytes = 1u << 20;  // bounds what is encoded to take one window from a book
constexpr size_t kDomainBytes = 64;

bool IsContinuation(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

// Bytes of the well-formed UTF-8 character at the start of `s` (Unicode 15, table 3-7), 0 when there is none.
size_t Utf8CharBytes(std::string_view s) {
  auto byte = [&](size_t i) { return i < s.size() ? static_cast<unsigned char>(s[i]) : 0; };
  unsigned char b0 = byte(0), b1 = byte(1);
  if (b0 < 0x80) return 1;
  size_t n = b0 >= 0xC2 && b0 <= 0xDF ? 2 : (b0 & 0xF0) == 0xE0 ? 3 : b0 >= 0xF0 && b0 <= 0xF4 ? 4 : 0;
  if (n == 0 || n > s.size()) return 0;
  for (size_t i = 1; i < n; ++i) {
    if (!IsContinuation(s[i])) return 0;
  }
  bool overlong = (b0 == 0xE0 && b1 < 0xA0) || (b0 == 0xF0 && b1 < 0x90);
  bool surrogate = b0 == 0xED && b1 > 0x9F;
  bool too_large = b0 == 0xF4 && b1 > 0x8F;
  return overlong || surrogate || too_large ? 0 : n;
}

Status CheckUtf8(std::string_view content, std::string_view what) {
  int64_t line = 1;
  for (size_t i = 0; i < content.size();) {
    size_t n = Utf8CharBytes(content.substr(i));
    if (n == 0) {
      return InvalidArgument("{}: line {}: not valid UTF-8 (byte {} of the file); convert it to UTF-8", what, line, i);
    }
    if (content[i] == '\n') ++line;
    i += n;
  }
  return OkStatus();
}

std::string_view WithoutBom(std::string_view content) {
  if (content.starts_with("\xEF\xBB\xBF")) content.remove_prefix(3);
  return content;
}

bool IsBlank(std::string_view line) { return line.find_first_not_of(" \t\r\v\f") == std::string_view::npos; }

// Takes the next line off `rest`, without its line feed.
std::string_view TakeLine(std::string_view& rest) {
  size_t end = rest.find('\n');
  std::string_view line = rest.substr(0, end);
  rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
  return line;
}

const OrderedJson* Field(const OrderedJson& object, const char* key) {
  auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

Status CheckMessages(const OrderedJson& messages, const std::string& where) {
  if (!messages.is_array() || messages.empty()) {
    return InvalidArgument("{}: field 'messages' must be a list of at least one message", where);
  }
  for (size_t i = 0; i < messages.size(); ++i) {
    const OrderedJson& message = messages[i];
    const OrderedJson* role = message.is_object() ? Field(message, "role") : nullptr;
    if (role == nullptr || !role->is_string()) {
      return InvalidArgument("{}: message {} must be an object with a string 'role'", where, i + 1);
    }
    const OrderedJson* content = Field(message, "content");
    bool usable =
        content == nullptr ? Field(message, "tool_calls") != nullptr : content->is_string() || content->is_array();
    if (!usable)
      return InvalidArgument("{}: message {} must have a 'content' that is a string or a list of parts", where, i + 1);
  }
  return OkStatus();
}

StatusOr<CalibrationDocument> ToDocument(OrderedJson&& object, const std::string& where) {
  if (!object.is_object()) {
    return InvalidArgument("{}: must be an object with 'text' or 'messages', one object per line", where);
  }
  CalibrationDocument out;
  out.domain = "text";
  if (const OrderedJson* domain = Field(object, "domain")) {
    if (!domain->is_string() || domain->get_ref<const std::string&>().empty() ||
        domain->get_ref<const std::string&>().size() > kDomainBytes) {
      return InvalidArgument("{}: field 'domain' must be a string of 1 to {} bytes", where, kDomainBytes);
    }
    out.domain = domain->get<std::string>();
  }
  const OrderedJson* text = Field(object, "text");
  const OrderedJson* messages = Field(object, "messages");
  if ((text == nullptr) == (messages == nullptr)) {
    return InvalidArgument("{}: must have either 'text' or 'messages'", where);
  }
  if (text != nullptr) {
    if (!text->is_string() || IsBlank(text->get_ref<const std::string&>())) {
      return InvalidArgument("{}: field 'text' must be a string that is not blank", where);
    }
    out.text = text->get<std::string>();
    return out;
  }
  RETURN_IF_ERROR(CheckMessages(*messages, where));
  out.messages = *messages;
  if (const OrderedJson* tools = Field(object, "tools")) {
    if (!tools->is_array()) return InvalidArgument("{}: field 'tools' must be a list", where);
    if (!tools->empty()) out.tools = *tools;
  }
  return out;
}

// Where to cut a text of more than kTextDocumentBytes: after the last line end, else before the last whole character.
size_t CutAt(std::string_view text) {
  size_t newline = text.rfind('\n', kTextDocumentBytes - 1);
  if (newline != std::string_view::npos) return newline + 1;
  size_t cut = kTextDocumentBytes;
  while (cut > 0 && IsContinuation(text[cut])) --cut;
  return cut;
}

}  // namespace

StatusOr<std::vector<CalibrationDocument>> ParseCalibrationJsonl(std::string_view content, std::string_view what) {
  std::vector<CalibrationDocument> out;
  std::string_view rest = WithoutBom(content);
  for (int64_t line = 1; !rest.empty(); ++line) {
    std::string_view bytes = TakeLine(rest);
    std::string where = fmt::format("{}: line {}", what, line);
    if (bytes.size() > kLineBytes) {
      return ResourceExhausted("{}: {} bytes, more than the limit of {}; split the document", where, bytes.size(),
                               kLineBytes);
    }
    if (IsBlank(bytes)) continue;
    if (Status utf8 = CheckUtf8(bytes, what); !utf8.ok()) {
      return InvalidArgument("{}: not valid UTF-8; convert the file to UTF-8", where);
    }
    ASSIGN_OR_RETURN(OrderedJson object, ParseOrderedJson(bytes, where));
    ASSIGN_OR_RETURN(CalibrationDocument document, ToDocument(std::move(object), where));
    document.line = line;
    out.push_back(std::move(document));
  }
  return out;
}

StatusOr<std::vector<CalibrationDocument>> ParseCalibrationText(std::string_view content, std::string_view what) {
  RETURN_IF_ERROR(CheckUtf8(content, what));
  std::vector<CalibrationDocument> out;
  std::string paragraph;
  int64_t first_line = 1;
  auto flush = [&] {
    std::string_view left = paragraph;
    while (!left.empty()) {
      size_t n = left.size() > kTextDocumentBytes ? CutAt(left) : left.size();
      std::string_view part = left.substr(0, n);
      left.remove_prefix(n);
      while (part.ends_with('\n')) part.remove_suffix(1);
      if (!part.empty()) out.push_back({"text", std::string(part), nullptr, nullptr, first_line});
    }
    paragraph.clear();
  };
  std::string_view rest = WithoutBom(content);
  for (int64_t line = 1; !rest.empty(); ++line) {
    std::string_view bytes = TakeLine(rest);
    if (bytes.ends_with('\r')) bytes.remove_suffix(1);
    if (IsBlank(bytes)) {
      flush();
      continue;
    }
    if (paragraph.empty()) first_line = line;
    paragraph.append(bytes).append("\n");
  }
  flush();
  return out;
}

StatusOr<std::vector<CalibrationDocument>> ReadCalibrationFile(const std::string& path) {
  ASSIGN_OR_RETURN(std::string content, ReadTextFile(path, kFileBytes));
  bool json = path.ends_with(".jsonl") || path.ends_with(".ndjson") || path.ends_with(".json");
  ASSIGN_OR_RETURN(std::vector<CalibrationDocument> out,
                   json ? ParseCalibrationJsonl(content, path) : ParseCalibrationText(content, path));
  if (out.empty()) return InvalidArgument("{}: holds no text", path);
  return out;
}

}  // namespace optiq
