#include "server/chat_format.h"

#include <algorithm>

namespace optiq {

std::string_view ToolSyntaxName(ToolSyntax syntax) {
  switch (syntax) {
    case ToolSyntax::kNone:
      return "none";
    case ToolSyntax::kHermes:
      return "hermes";
    case ToolSyntax::kLlama3:
      return "llama3";
    case ToolSyntax::kMistral:
      return "mistral";
    case ToolSyntax::kGemma4:
      return "gemma4";
    case ToolSyntax::kLfm2:
      return "lfm2";
  }
  return "none";
}

std::string_view ChatFormat::tool_open() const {
  switch (tools) {
    case ToolSyntax::kHermes:
      return "<tool_call>";
    case ToolSyntax::kLlama3:
      return "<|python_tag|>";
    case ToolSyntax::kMistral:
      return "[TOOL_CALLS]";
    case ToolSyntax::kGemma4:
      return "<|tool_call>";
    case ToolSyntax::kLfm2:
      return "<|tool_call_start|>";
    case ToolSyntax::kNone:
      break;
  }
  return "";
}

std::string_view ChatFormat::tool_close() const {
  switch (tools) {
    case ToolSyntax::kHermes:
      return "</tool_call>";
    case ToolSyntax::kGemma4:
      return "<tool_call|>";
    case ToolSyntax::kLfm2:
      return "<|tool_call_end|>";
    default:
      return "";
  }
}

ChatFormat DetectChatFormat(std::string_view source, const Tokenizer* tokenizer) {
  const auto in_template = [source](std::string_view text) { return source.find(text) != std::string_view::npos; };
  const auto is_token = [tokenizer](std::string_view text) {
    return tokenizer != nullptr && tokenizer->TokenId(text).has_value();
  };
  ChatFormat format;
  if (in_template("<|tool_call>") || (is_token("<|tool_call>") && is_token("<tool_call|>"))) {
    format.tools = ToolSyntax::kGemma4;
  } else if (in_template("[TOOL_CALLS]") || (is_token("[TOOL_CALLS]") && in_template("[INST]"))) {
    format.tools = ToolSyntax::kMistral;
  } else if (in_template("<|tool_call_start|>") || (is_token("<|tool_call_start|>") && is_token("<|tool_call_end|>"))) {
    format.tools = ToolSyntax::kLfm2;
  } else if (in_template("<tool_call>")) {
    format.tools = ToolSyntax::kHermes;
  } else if (in_template("<|python_tag|>") || (in_template("<|start_header_id|>") && in_template("tools"))) {
    format.tools = ToolSyntax::kLlama3;
  } else if (is_token("<tool_call>") || in_template("<|im_start|>")) {
    format.tools = ToolSyntax::kHermes;  // what models of this prompt format are most often trained on
  }
  if (in_template("<|channel>") || (is_token("<|channel>") && is_token("<channel|>"))) {
    format.think_open = "<|channel>";
    format.think_close = "<channel|>";
    format.think_header = "thought";
    format.think_anywhere = true;
  } else if (in_template("<think>") || in_template("[THINK]") || is_token("<think>")) {
    const bool mistral = in_template("[THINK]");
    format.think_open = mistral ? "[THINK]" : "<think>";
    format.think_close = mistral ? "[/THINK]" : "</think>";
  }
  const auto special = [tokenizer](std::string_view text) {
    if (tokenizer == nullptr || text.empty()) return false;
    const auto id = tokenizer->TokenId(text);
    return id.has_value() && tokenizer->IsSpecial(*id);
  };
  format.keep_special = special(format.tool_open()) || special(format.think_open);
  return format;
}

bool EndsInThought(const ChatFormat& format, const Tokenizer& tokenizer, const std::vector<int32_t>& prompt) {
  if (format.think_open.empty()) return false;
  const size_t tail = std::min<size_t>(prompt.size(), 32);
  const StatusOr<std::string> text = tokenizer.Decode({prompt.end() - static_cast<int64_t>(tail), prompt.end()}, false);
  if (!text.ok()) return false;
  const size_t open = text->rfind(format.think_open), close = text->rfind(format.think_close);
  if (open == std::string::npos || (close != std::string::npos && close > open)) return false;
  std::string_view rest = std::string_view(*text).substr(open + format.think_open.size());
  if (!format.think_header.empty() && rest.starts_with(format.think_header)) rest.remove_prefix(format.think_header.size());
  return rest.find_first_not_of(" \n\t") == std::string_view::npos;
}

}  // namespace optiq
