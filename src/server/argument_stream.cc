#include "server/argument_stream.h"

#include <utility>

#include "text/ordered_json.h"

namespace optiq {

bool ArgumentStream::InString(char c) {
  if (!in_string_) {
    in_string_ = c == '"';
    return in_string_;
  }
  if (escaped_) {
    escaped_ = false;
  } else if (c == '\\') {
    escaped_ = true;
  } else if (c == '"') {
    in_string_ = false;
  }
  return true;
}

void ArgumentStream::Begin(std::string name) {
  name_ = std::move(name);
  begun_ = true;
  depth_ = 0;
}

std::string ArgumentStream::Take() { return std::exchange(pieces_, ""); }

void ArgumentStream::PushArguments(char c) {
  if (InString(c)) {
    pieces_ += c;
    return;
  }
  if (c == ' ' || c == '\n' || c == '\t' || c == '\r') return;
  pieces_ += c;
  if (c == '{' || c == '[') ++depth_;
  if (c == '}' || c == ']') ended_ = --depth_ == 0;
}

void ArgumentStream::Push(char c) {
  if (ended_) return;
  if (begun_) return PushArguments(c);
  const bool was = in_string_;
  if (InString(c)) {
    if (!was) string_.clear();
    string_ += c;
    if (in_string_ || depth_ != 1) return;
    if (expect_key_) {
      key_ = string_;
    } else if (key_ == "\"name\"") {
      const StatusOr<OrderedJson> name = ParseOrderedJson(string_, "name");
      name_ = name.ok() && name->is_string() ? name->get<std::string>() : "";
    }
    return;
  }
  switch (c) {
    case '{':
      if (depth_ == 1 && !expect_key_ && !name_.empty() && (key_ == "\"arguments\"" || key_ == "\"parameters\"")) {
        Begin(name_);
        return PushArguments(c);
      }
      ++depth_;
      expect_key_ = depth_ == 1;
      break;
    case '[':
      ++depth_;
      break;
    case '}':
    case ']':
      --depth_;
      break;
    case ',':
      if (depth_ == 1) expect_key_ = true;
      break;
    case ':':
      if (depth_ == 1) expect_key_ = false;
      break;
    default:
      break;
  }
}

}  // namespace optiq
