#include "server/output_parser.h"

#include <algorithm>

namespace optiq {
namespace {

constexpr std::string_view kSpaces = " \n\t\r";

// Length of the longest end of `text` that is a proper beginning of `marker`.
size_t HeldFor(std::string_view text, std::string_view marker) {
  for (size_t n = std::min(text.size(), marker.empty() ? 0 : marker.size() - 1); n > 0; --n) {
    if (text.ends_with(marker.substr(0, n))) return n;
  }
  return 0;
}

// `text` could still become `marker`.
bool MayBecome(std::string_view text, std::string_view marker) {
  return text.size() < marker.size() && marker.starts_with(text);
}

}  // namespace

OutputParser::OutputParser(OutputParserOptions options) : options_(std::move(options)) {
  if (options_.tools.is_array()) {
    for (const OrderedJson& tool : options_.tools) {
      const OrderedJson& function = tool.contains("function") ? tool["function"] : tool;
      if (function.is_object() && function.contains("name") && function["name"].is_string())
        names_.insert(function["name"].get<std::string>());
    }
  }
  if (names_.empty()) options_.format.tools = ToolSyntax::kNone;
  if (options_.start_in_reasoning && !options_.format.think_close.empty()) mode_ = Mode::kReasoning;
}

void OutputParser::Push(std::string_view text, OutputEvents* events) {
  text_ += text;
  while (!text_.empty() && Step(false, events)) {
  }
}

void OutputParser::Finish(OutputEvents* events) {
  while (!text_.empty() && Step(true, events)) {
  }
  if (mode_ == Mode::kTool) {
    CloseTool(events);
    while (!text_.empty() && Step(true, events)) {
    }
  }
}

void OutputParser::Emit(OutputEvent::Kind kind, std::string_view text, OutputEvents* events) {
  if (text.empty() || satisfied()) return;
  at_start_ = false;
  if (!events->empty() && events->back().kind == kind && kind != OutputEvent::kToolCall) {
    events->back().text += text;
  } else {
    events->push_back({kind, std::string(text), ""});
  }
}

bool OutputParser::Step(bool last, OutputEvents* events) {
  switch (mode_) {
    case Mode::kBetween:
      return StepBetween(last, events);
    case Mode::kContent:
      return StepContent(last, events);
    case Mode::kReasoning:
      return StepReasoning(last, events);
    case Mode::kTool:
      return StepTool(last, events);
    case Mode::kToolEnd:
      return StepToolEnd(last, events);
  }
  return false;
}

bool OutputParser::StepBetween(bool last, OutputEvents* events) {
  const size_t start = text_.find_first_not_of(kSpaces);
  if (start == std::string::npos) {
    if (!last) return false;
    if (at_start_) Emit(OutputEvent::kContent, text_, events);
    text_.clear();
    return false;
  }
  const std::string_view rest = std::string_view(text_).substr(start);
  const ChatFormat& format = options_.format;
  if (!format.think_open.empty() && rest.starts_with(format.think_open)) {
    text_.erase(0, start + format.think_open.size());
    mode_ = Mode::kReasoning;
    thought_begun_ = thought_text_ = false;
    return true;
  }
  if (!format.tool_open().empty() && rest.starts_with(format.tool_open())) {
    text_.erase(0, start + format.tool_open().size());
    OpenTool(format.tool_open());
    return true;
  }
  // Llama writes calls as the whole answer, or several with semicolons between them; small Qwen models forget their
  // markers.
  const bool llama = format.tools == ToolSyntax::kLlama3;
  const bool bare = (llama || format.tools == ToolSyntax::kHermes) && tool_calls_ == 0 && at_start_;
  if ((bare && rest[0] == '{') || (llama && tool_calls_ > 0 && (rest[0] == '{' || rest[0] == ';'))) {
    text_.erase(0, start);
    OpenTool("");
    return true;
  }
  if (!last && (MayBecome(rest, format.think_open) || MayBecome(rest, format.tool_open()))) return false;
  if (!at_start_) text_.erase(0, start);  // spaces after a thought or a call are layout
  mode_ = Mode::kContent;
  return true;
}

bool OutputParser::StepContent(bool last, OutputEvents* events) {
  const ChatFormat& format = options_.format;
  const std::string_view tool = format.tool_open();
  const std::string_view think = format.think_anywhere ? std::string_view(format.think_open) : std::string_view();
  const size_t tool_at = tool.empty() ? std::string::npos : text_.find(tool);
  const size_t think_at = think.empty() ? std::string::npos : text_.find(think);
  const size_t at = std::min(tool_at, think_at);
  if (at != std::string::npos) {
    Emit(OutputEvent::kContent, std::string_view(text_).substr(0, at), events);
    text_.erase(0, at);
    mode_ = Mode::kBetween;
    return true;
  }
  const size_t held = last ? 0 : std::max(HeldFor(text_, tool), HeldFor(text_, think));
  Emit(OutputEvent::kContent, std::string_view(text_).substr(0, text_.size() - held), events);
  text_.erase(0, text_.size() - held);
  return false;
}

bool OutputParser::StepReasoning(bool last, OutputEvents* events) {
  const ChatFormat& format = options_.format;
  if (!thought_begun_) {
    if (!format.think_header.empty()) {
      if (text_.starts_with(format.think_header)) {
        text_.erase(0, format.think_header.size());
        thought_begun_ = true;
        return true;
      }
      if (!last && MayBecome(text_, format.think_header)) return false;
    }
    thought_begun_ = true;
  }
  // Spaces around a thought are layout: those at its start go, those at its end are held until it goes on.
  if (!thought_text_) {
    const size_t start = text_.find_first_not_of(kSpaces);
    if (start == std::string::npos) {
      if (last) text_.clear();
      return false;
    }
    text_.erase(0, start);
    thought_text_ = true;
  }
  const size_t close = text_.find(format.think_close);
  if (close != std::string::npos) {
    const size_t end = text_.find_last_not_of(kSpaces, close == 0 ? 0 : close - 1);
    const bool any =
        close > 0 && end != std::string::npos && end < close && kSpaces.find(text_[end]) == std::string_view::npos;
    if (any) Emit(OutputEvent::kReasoning, std::string_view(text_).substr(0, end + 1), events);
    text_.erase(0, close + format.think_close.size());
    at_start_ = false;
    mode_ = Mode::kBetween;
    return true;
  }
  size_t held = last ? 0 : HeldFor(text_, format.think_close);
  while (held < text_.size() && kSpaces.find(text_[text_.size() - held - 1]) != std::string_view::npos) ++held;
  Emit(OutputEvent::kReasoning, std::string_view(text_).substr(0, text_.size() - held), events);
  text_.erase(0, text_.size() - held);
  return false;
}

void OutputParser::OpenTool(std::string_view marker) {
  // What has no marker is written as Llama's calls are, but in Gemma's blocks of several calls.
  const bool bare = marker.empty() && options_.format.tools != ToolSyntax::kGemma4;
  block_ = MakeToolBlock(bare ? ToolSyntax::kLlama3 : options_.format.tools, options_.tools);
  raw_ = marker;
  call_begun_ = false;
  mode_ = Mode::kTool;
}

void OutputParser::StreamArguments(OutputEvents* events) {
  ArgumentStream* stream = block_->stream();
  if (!options_.stream_arguments || stream == nullptr || !stream->begun()) return;
  if (!call_begun_) {
    if (satisfied() || !names_.contains(stream->name())) return;
    call_begun_ = true;
    at_start_ = false;
    events->push_back({OutputEvent::kToolCall, "", stream->name()});
  }
  const std::string piece = stream->Take();
  if (piece.empty()) return;
  const bool joins = !events->empty() && (events->back().kind == OutputEvent::kToolCall ||
                                          events->back().kind == OutputEvent::kToolArguments);
  if (!joins) events->push_back({OutputEvent::kToolArguments, "", ""});
  events->back().text += piece;
}

bool OutputParser::StepTool(bool, OutputEvents* events) {
  for (size_t i = 0; i < text_.size(); ++i) {
    const ToolBlock::State state = block_->Push(text_[i]);
    if (state == ToolBlock::State::kMore) continue;
    raw_ += text_.substr(0, i + 1);
    text_.erase(0, i + 1);
    if (state == ToolBlock::State::kDone) {
      StreamArguments(events);
      CloseTool(events);
    } else {
      Emit(OutputEvent::kContent, raw_, events);
      raw_.clear();
      block_.reset();
      mode_ = Mode::kContent;
    }
    return true;
  }
  raw_ += text_;
  text_.clear();
  StreamArguments(events);
  return false;
}

void OutputParser::CloseTool(OutputEvents* events) {
  std::vector<ToolCall> calls;
  if (!call_begun_) calls = block_->Calls();
  block_.reset();
  if (call_begun_) {
    ++tool_calls_;
    raw_.clear();
    mode_ = options_.format.tool_close().empty() ? Mode::kBetween : Mode::kToolEnd;
    return;
  }
  const bool known = !calls.empty() && std::all_of(calls.begin(), calls.end(),
                                                   [this](const ToolCall& c) { return names_.contains(c.name); });
  if (!known) {
    Emit(OutputEvent::kContent, raw_, events);
    raw_.clear();
    mode_ = Mode::kContent;
    return;
  }
  raw_.clear();
  at_start_ = false;
  for (const ToolCall& call : calls) {
    if (satisfied()) break;
    events->push_back({OutputEvent::kToolCall, call.arguments, call.name});
    ++tool_calls_;
  }
  mode_ = options_.format.tool_close().empty() ? Mode::kBetween : Mode::kToolEnd;
}

bool OutputParser::StepToolEnd(bool last, OutputEvents*) {
  const std::string_view close = options_.format.tool_close();
  const size_t start = text_.find_first_not_of(kSpaces);
  if (start == std::string::npos) {
    if (last) text_.clear();
    return false;
  }
  const std::string_view rest = std::string_view(text_).substr(start);
  if (rest.starts_with(close)) {
    text_.erase(0, start + close.size());
  } else if (!last && MayBecome(rest, close)) {
    return false;
  } else if (options_.format.tools == ToolSyntax::kGemma4 && rest.starts_with("call:")) {
    text_.erase(0, start);
    OpenTool("");
    return true;
  } else if (!last && options_.format.tools == ToolSyntax::kGemma4 && MayBecome(rest, "call:")) {
    return false;
  }
  mode_ = Mode::kBetween;
  return true;
}

}  // namespace optiq
