#include "server/tool_call_parser.h"

#include <cctype>

#include "server/api_error.h"
#include "server/python_calls.h"
#include "text/ordered_json.h"

namespace optiq {
namespace {

bool IsSpace(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

std::string_view Trim(std::string_view text) {
  while (!text.empty() && IsSpace(text.front())) text.remove_prefix(1);
  while (!text.empty() && IsSpace(text.back())) text.remove_suffix(1);
  return text;
}

// Where one JSON object or array ends: counts brackets outside strings.
class Balance {
 public:
  // True when c closed the outermost bracket.
  bool Push(char c) {
    if (in_string_) {
      if (escaped_) {
        escaped_ = false;
      } else if (c == '\\') {
        escaped_ = true;
      } else if (c == '"') {
        in_string_ = false;
      }
      return false;
    }
    if (c == '"') in_string_ = true;
    if (c == '{' || c == '[') ++depth_;
    if (c == '}' || c == ']') return --depth_ <= 0;
    return false;
  }

 private:
  int depth_ = 0;
  bool in_string_ = false, escaped_ = false;
};

std::optional<OrderedJson> Parse(std::string_view text) {
  StatusOr<OrderedJson> json = ParseOrderedJson(text, "tool call");
  if (!json.ok()) return std::nullopt;
  return *std::move(json);
}

// The declared type of a parameter ("" if unknown).
std::string ParameterType(const OrderedJson& tools, const std::string& tool, const std::string& parameter) {
  for (const OrderedJson& t : tools.is_array() ? tools : OrderedJson::array()) {
    const OrderedJson& function = t.contains("function") ? t["function"] : t;
    if (!function.is_object() || function.value("name", "") != tool || !function.contains("parameters")) continue;
    const OrderedJson& parameters = function["parameters"];
    if (!parameters.is_object() || !parameters.contains("properties") || !parameters["properties"].is_object())
      return "";
    const OrderedJson& properties = parameters["properties"];
    if (!properties.contains(parameter) || !properties[parameter].is_object()) return "";
    const OrderedJson& type = properties[parameter].contains("type") ? properties[parameter]["type"] : OrderedJson();
    return type.is_string() ? type.get<std::string>() : "";
  }
  return "";
}

// <function=NAME><parameter=KEY>VALUE</parameter>...</function>
std::optional<ToolCall> CallFromXml(std::string_view text, const OrderedJson& tools) {
  constexpr std::string_view kFunction = "<function=", kParameter = "<parameter=";
  text = Trim(text);
  if (!text.starts_with(kFunction)) return std::nullopt;
  text.remove_prefix(kFunction.size());
  size_t end = text.find('>');
  if (end == std::string_view::npos) return std::nullopt;
  ToolCall call;
  call.name = std::string(Trim(text.substr(0, end)));
  text.remove_prefix(end + 1);
  OrderedJson arguments = OrderedJson::object();
  for (size_t at; (at = text.find(kParameter)) != std::string_view::npos;) {
    text.remove_prefix(at + kParameter.size());
    if ((end = text.find('>')) == std::string_view::npos) return std::nullopt;
    const std::string key(Trim(text.substr(0, end)));
    text.remove_prefix(end + 1);
    end = std::min({text.find("</parameter>"), text.find(kParameter), text.find("</function>"), text.size()});
    std::string_view value = text.substr(0, end);
    if (value.starts_with('\n')) value.remove_prefix(1);
    if (value.ends_with('\n')) value.remove_suffix(1);
    text.remove_prefix(end);
    std::optional<OrderedJson> json;
    if (ParameterType(tools, call.name, key) != "string") json = Parse(value);
    arguments[key] = json ? *json : OrderedJson(std::string(value));
  }
  call.arguments = Dump(arguments);
  return call;
}

class HermesBlock : public ToolBlock {
 public:
  explicit HermesBlock(const OrderedJson& tools) : tools_(tools) {}
  State Push(char c) override {
    if (body_.empty() && IsSpace(c)) return State::kMore;
    body_ += c;
    if (body_[0] == '{') {
      stream_.Push(c);
      return balance_.Push(c) ? State::kDone : State::kMore;
    }
    if (body_[0] != '<') return State::kBroken;
    return body_.ends_with("</function>") ? State::kDone : State::kMore;
  }
  std::vector<ToolCall> Calls() const override {
    std::optional<ToolCall> call;
    if (body_.starts_with("<")) {
      call = CallFromXml(body_, tools_);
    } else if (const auto json = Parse(body_)) {
      call = CallFromJson(*json);
    }
    return call ? std::vector<ToolCall>{*call} : std::vector<ToolCall>{};
  }
  ArgumentStream* stream() override { return &stream_; }

 private:
  OrderedJson tools_;
  std::string body_;
  Balance balance_;
  ArgumentStream stream_;
};

class LlamaBlock : public ToolBlock {
 public:
  State Push(char c) override {
    if (body_.empty() && (IsSpace(c) || c == ';')) return State::kMore;
    body_ += c;
    if (body_[0] != '{') return State::kBroken;
    stream_.Push(c);
    if (balance_.Push(c)) return State::kDone;
    if (!key_known_ && c == '"' && ++quotes_ == 2) {  // the first key tells a call from an answer in JSON
      key_known_ = true;
      const std::string key(body_, body_.find('"'));
      const bool call = key == "\"name\"" || key == "\"type\"" || key == "\"function\"" || key == "\"parameters\"" ||
                        key == "\"arguments\"";
      if (!call) return State::kBroken;
    }
    return State::kMore;
  }
  std::vector<ToolCall> Calls() const override {
    const auto json = Parse(body_);
    const auto call = json ? CallFromJson(*json) : std::nullopt;
    return call ? std::vector<ToolCall>{*call} : std::vector<ToolCall>{};
  }
  ArgumentStream* stream() override { return &stream_; }

 private:
  std::string body_;
  Balance balance_;
  ArgumentStream stream_;
  int quotes_ = 0;
  bool key_known_ = false;
};

// [{"name": .., "arguments": ..}, ..]
std::vector<ToolCall> CallsFromList(std::string_view text) {
  const auto list = Parse(text);
  if (!list || !list->is_array()) return {};
  std::vector<ToolCall> calls;
  for (const OrderedJson& item : *list) {
    const auto call = CallFromJson(item);
    if (!call) return {};
    calls.push_back(*call);
  }
  return calls;
}

class MistralBlock : public ToolBlock {
 public:
  State Push(char c) override {
    if (body_.empty() && IsSpace(c)) return State::kMore;
    body_ += c;
    if (body_[0] == '[') return balance_.Push(c) ? State::kDone : State::kMore;
    if (open_ == std::string::npos) {
      if (c == '{') {
        open_ = body_.size() - 1;
        if (!Name().empty()) stream_.Begin(Name());
      } else if (body_.size() > 256) {
        return State::kBroken;
      } else {
        return State::kMore;
      }
    }
    if (stream_.begun()) stream_.Push(c);
    return balance_.Push(c) ? State::kDone : State::kMore;
  }
  ArgumentStream* stream() override { return &stream_; }
  std::vector<ToolCall> Calls() const override {
    if (body_.starts_with("[")) return CallsFromList(body_);
    if (open_ == std::string::npos) return {};
    const auto arguments = Parse(std::string_view(body_).substr(open_));
    if (!arguments || !arguments->is_object() || Name().empty()) return {};
    return {{Name(), Dump(*arguments)}};
  }

 private:
  // What stands before the arguments.
  std::string Name() const {
    std::string_view name(body_.data(), open_);
    for (const std::string_view mark : {"[CALL_ID]", "[ARGS]"}) name = name.substr(0, name.find(mark));
    return std::string(Trim(name));
  }

  std::string body_;
  Balance balance_;
  ArgumentStream stream_;
  size_t open_ = std::string::npos;
};

// [f(a=1), g(b='x')], f(a=1), or [{"name": .., "arguments": ..}] of a model that was asked for JSON.
class Lfm2Block : public ToolBlock {
 public:
  State Push(char c) override {
    if (body_.empty() && IsSpace(c)) return State::kMore;
    body_ += c;
    if (body_.size() == 1 && c != '[' && c != '_' && !std::isalpha(static_cast<unsigned char>(c))) return State::kBroken;
    if (quote_ != 0) {
      if (escaped_) {
        escaped_ = false;
      } else if (c == '\\') {
        escaped_ = true;
      } else if (c == quote_) {
        quote_ = 0;
      }
      return State::kMore;
    }
    if (c == '"' || c == '\'') {
      if (depth_ == 0) return State::kBroken;
      quote_ = c;
    } else if (c == '(' || c == '[' || c == '{') {
      ++depth_;
    } else if (c == ')' || c == ']' || c == '}') {
      return --depth_ <= 0 ? State::kDone : State::kMore;
    } else if (depth_ == 0 && body_.size() > 256) {
      return State::kBroken;
    }
    return State::kMore;
  }
  std::vector<ToolCall> Calls() const override {
    if (auto calls = ParsePythonCalls(body_)) return *std::move(calls);
    return CallsFromList(body_);
  }

 private:
  std::string body_;
  int depth_ = 0;
  char quote_ = 0;
  bool escaped_ = false;
};

constexpr std::string_view kQuote = "<|\"|>";

class GemmaBlock : public ToolBlock {
 public:
  State Push(char c) override {
    body_ += c;
    if (body_.ends_with(kQuote)) in_string_ = !in_string_;
    constexpr std::string_view kStart = "call:";
    const std::string_view start = std::string_view(body_).substr(0, kStart.size());
    if (!kStart.starts_with(start)) return State::kBroken;
    if (in_string_) return State::kMore;
    if (c == '{') ++depth_;
    return c == '}' && --depth_ <= 0 ? State::kDone : State::kMore;
  }
  std::vector<ToolCall> Calls() const override {
    const size_t open = body_.find('{');
    if (!body_.starts_with("call:") || open == std::string::npos) return {};
    const auto arguments = ParseGemmaObject(std::string_view(body_).substr(open));
    const std::string_view name = Trim(std::string_view(body_).substr(5, open - 5));
    if (!arguments || name.empty()) return {};
    return {{std::string(name), Dump(*arguments)}};
  }

 private:
  std::string body_;
  bool in_string_ = false;
  int depth_ = 0;
};

class GemmaReader {
 public:
  explicit GemmaReader(std::string_view text) : text_(text) {}

  std::optional<OrderedJson> Whole() {
    auto value = Value(0);
    Skip();
    if (!value || !text_.empty()) return std::nullopt;
    return value;
  }

 private:
  void Skip() {
    while (!text_.empty() && IsSpace(text_.front())) text_.remove_prefix(1);
  }
  bool Take(std::string_view what) {
    Skip();
    if (!text_.starts_with(what)) return false;
    text_.remove_prefix(what.size());
    return true;
  }
  std::optional<std::string> Quoted() {
    const std::string_view quote = Take(kQuote) ? kQuote : Take("\"") ? std::string_view("\"") : std::string_view();
    if (quote.empty()) return std::nullopt;
    const size_t end = text_.find(quote);
    if (end == std::string_view::npos) return std::nullopt;
    std::string out(text_.substr(0, end));
    text_.remove_prefix(end + quote.size());
    return out;
  }
  std::optional<OrderedJson> Value(int depth) {
    if (depth > 32) return std::nullopt;
    Skip();
    if (text_.starts_with(kQuote) || text_.starts_with('"')) {
      auto text = Quoted();
      if (!text) return std::nullopt;
      return OrderedJson(*text);
    }
    if (Take("{")) {
      OrderedJson object = OrderedJson::object();
      while (!Take("}")) {
        std::string key;
        if (auto quoted = Quoted()) {
          key = *quoted;
        } else {
          const size_t colon = text_.find(':');
          if (colon == std::string_view::npos) return std::nullopt;
          key = std::string(Trim(text_.substr(0, colon)));
          text_.remove_prefix(colon);
        }
        if (!Take(":")) return std::nullopt;
        auto value = Value(depth + 1);
        if (!value) return std::nullopt;
        object[key] = *std::move(value);
        if (!Take(",") && !text_.starts_with('}')) return std::nullopt;
      }
      return object;
    }
    if (Take("[")) {
      OrderedJson array = OrderedJson::array();
      while (!Take("]")) {
        auto value = Value(depth + 1);
        if (!value) return std::nullopt;
        array.push_back(*std::move(value));
        if (!Take(",") && !text_.starts_with(']')) return std::nullopt;
      }
      return array;
    }
    const std::string_view bare = text_.substr(0, text_.find_first_of(",}]"));
    text_.remove_prefix(bare.size());
    const std::string_view trimmed = Trim(bare);
    if (trimmed.empty()) return std::nullopt;
    auto json = Parse(trimmed);  // a number, true, false or null; anything else is taken for text
    return json ? json : std::optional<OrderedJson>(std::string(trimmed));
  }

  std::string_view text_;
};

}  // namespace

std::optional<OrderedJson> ParseGemmaObject(std::string_view text) { return GemmaReader(text).Whole(); }

std::optional<ToolCall> CallFromJson(const OrderedJson& json) {
  if (!json.is_object()) return std::nullopt;
  const OrderedJson& object = json.contains("function") && json["function"].is_object() ? json["function"] : json;
  if (!object.contains("name") || !object["name"].is_string()) return std::nullopt;
  ToolCall call{object["name"].get<std::string>(), "{}"};
  for (const char* key : {"arguments", "parameters"}) {
    if (!object.contains(key) || object[key].is_null()) continue;
    const OrderedJson& arguments = object[key];
    if (arguments.is_object()) {
      call.arguments = Dump(arguments);
    } else if (arguments.is_string()) {
      const auto inner = Parse(arguments.get_ref<const std::string&>());
      if (!inner || !inner->is_object()) return std::nullopt;
      call.arguments = Dump(*inner);
    } else {
      return std::nullopt;
    }
    break;
  }
  if (call.name.empty()) return std::nullopt;
  return call;
}

std::unique_ptr<ToolBlock> MakeToolBlock(ToolSyntax syntax, const OrderedJson& tools) {
  switch (syntax) {
    case ToolSyntax::kHermes:
      return std::make_unique<HermesBlock>(tools);
    case ToolSyntax::kLlama3:
      return std::make_unique<LlamaBlock>();
    case ToolSyntax::kMistral:
      return std::make_unique<MistralBlock>();
    case ToolSyntax::kGemma4:
      return std::make_unique<GemmaBlock>();
    case ToolSyntax::kLfm2:
      return std::make_unique<Lfm2Block>();
    case ToolSyntax::kNone:
      break;
  }
  return nullptr;
}

}  // namespace optiq
