#include "text/chat_template.h"

#include <algorithm>
#include <ctime>

#include "base/limits.h"
#include "text/continue_message.h"
#include "text/ordered_json.h"
#include "text/rust_call.h"

namespace optiq {
namespace {

constexpr const char* kTemplateFile = "chat_template.jinja";
constexpr const char* kConfigFile = "tokenizer_config.json";
constexpr int kMaxDepth = 100;  // the Rust side's parser stops at 128

std::string Dump(const OrderedJson& json) { return json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace); }

StatusOr<std::shared_ptr<const ot_template>> Compile(std::string_view source, std::string_view what) {
  if (source.size() > limits::kChatTemplateBytes) {
    return ResourceExhausted("{}: larger than {} bytes", what, limits::kChatTemplateBytes);
  }
  rust::Buffer error;
  ot_template* handle = nullptr;
  int code = ot_template_new(rust::Str(source), &handle, error.get());
  if (code != OT_OK) return rust::ToStatus(code, error, what);
  return std::shared_ptr<const ot_template>(
      handle, [](const ot_template* t) { ot_template_free(const_cast<ot_template*>(t)); });
}

struct Sources {
  std::string what;
  std::optional<std::string> main;
  std::optional<std::string> tool_use;
};

StatusOr<Sources> FromConfig(const Json& field) {
  Sources out{fmt::format("{}: chat_template", kConfigFile), {}, {}};
  if (field.is_string()) {
    out.main = field.get<std::string>();
    return out;
  }
  if (!field.is_array()) return InvalidArgument("{} must be a string or a list", out.what);
  std::string names;
  for (const Json& item : field) {
    ASSIGN_OR_RETURN(std::optional<std::string> name, GetString(item, "name", out.what));
    ASSIGN_OR_RETURN(std::optional<std::string> text, GetString(item, "template", out.what));
    if (!name || !text) return InvalidArgument("{}: an entry lacks 'name' or 'template'", out.what);
    names += (names.empty() ? "" : ", ") + name->substr(0, 40);
    if (*name == "default") out.main = std::move(text);
    if (*name == "tool_use") out.tool_use = std::move(text);
  }
  if (!out.main) return InvalidArgument("{}: no template is named 'default' (there are: {})", out.what, names);
  return out;
}

StatusOr<Sources> FindSources(const Checkpoint& checkpoint) {
  if (checkpoint.HasTextFile(kTemplateFile)) {
    ASSIGN_OR_RETURN(std::string text, checkpoint.ReadTextFile(kTemplateFile));
    return Sources{kTemplateFile, std::move(text), {}};
  }
  if (!checkpoint.HasTextFile(kConfigFile)) return Sources{};
  ASSIGN_OR_RETURN(std::string text, checkpoint.ReadTextFile(kConfigFile));
  ASSIGN_OR_RETURN(Json config, ParseJson(text, kConfigFile));
  if (!config.is_object() || !config.contains("chat_template") || config["chat_template"].is_null()) return Sources{};
  return FromConfig(config["chat_template"]);
}

}  // namespace

StatusOr<std::optional<ChatTemplate>> ChatTemplate::Load(const Checkpoint& checkpoint) {
  auto load = [&]() -> StatusOr<std::optional<ChatTemplate>> {
    ASSIGN_OR_RETURN(Sources sources, FindSources(checkpoint));
    if (!sources.main) return std::nullopt;
    ASSIGN_OR_RETURN(SpecialTokens special, ReadSpecialTokens(checkpoint));
    ASSIGN_OR_RETURN(ChatTemplate out, FromSource(*sources.main, special, sources.what));
    if (sources.tool_use) {
      ASSIGN_OR_RETURN(out.tool_use_, Compile(*sources.tool_use, sources.what + " 'tool_use'"));
      out.source_ += *sources.tool_use;
    }
    return std::optional<ChatTemplate>(std::move(out));
  };
  auto loaded = load();
  return loaded.ok() ? std::move(loaded) : Annotate(loaded.status(), checkpoint.path());
}

StatusOr<ChatTemplate> ChatTemplate::FromSource(std::string_view source, const SpecialTokens& special,
                                                std::string_view what) {
  ChatTemplate out;
  ASSIGN_OR_RETURN(out.default_, Compile(source, what));
  OrderedJson constants = OrderedJson::object();
  for (const auto& [name, token] : special.named) constants[name] = token;
  out.constants_ = Dump(constants);
  out.what_ = what;
  out.source_ = source;
  return out;
}

StatusOr<std::string> ChatTemplate::RenderText(const OrderedJson& messages, const RenderOptions& options) const {
  if (!messages.is_array()) return InvalidArgument("messages: must be a list");
  if (!options.tools.is_null() && !options.tools.is_array()) return InvalidArgument("tools: must be a list");
  if (!options.extra.is_object()) return InvalidArgument("chat template arguments: must be an object");
  OrderedJson context = {{"messages", messages}, {"tools", options.tools}, {"documents", nullptr}};
  context["add_generation_prompt"] = options.add_generation_prompt;
  for (const auto& [name, value] : options.extra.items()) {
    if (name != "documents" && context.contains(name)) {
      return InvalidArgument("chat template arguments: '{}' cannot be given here", name);
    }
    context[name] = value;
  }
  if (DeeperThan(context, kMaxDepth)) return InvalidArgument("messages: nested deeper than {} levels", kMaxDepth);
  const ot_template* handle = tool_use_ && !options.tools.is_null() ? tool_use_.get() : default_.get();
  const ot_tok* guard = options.guard == nullptr ? nullptr : options.guard->handle();
  int64_t now = options.unix_time.value_or(static_cast<int64_t>(std::time(nullptr)));
  rust::Buffer text, error;
  std::string json = Dump(context);
  int code = ot_template_render(handle, rust::Str(json), rust::Str(constants_), guard, now, text.get(), error.get());
  if (code != OT_OK) return rust::ToStatus(code, error, what_);
  return text.str();
}

StatusOr<std::string> ChatTemplate::Render(const OrderedJson& messages, const RenderOptions& options) const {
  if (!options.continue_final_message) return RenderText(messages, options);
  if (options.add_generation_prompt) {
    return InvalidArgument("continue_final_message and add_generation_prompt exclude each other");
  }
  ASSIGN_OR_RETURN(OrderedJson tagged, TagFinalMessage(messages));
  ASSIGN_OR_RETURN(std::string text, RenderText(tagged, options));
  return CutAtTag(std::move(text));
}

bool ChatTemplate::Uses(std::string_view variable) const {
  auto uses = [&](const Handle& handle) {
    rust::Buffer error;
    int result = 0;
    return handle && ot_template_uses(handle.get(), rust::Str(variable), &result, error.get()) == OT_OK && result != 0;
  };
  return uses(default_) || uses(tool_use_);
}

StatusOr<std::vector<int32_t>> EncodeChat(const ChatTemplate& chat_template, const Tokenizer& tokenizer,
                                          const OrderedJson& messages, RenderOptions options) {
  options.guard = &tokenizer;
  ASSIGN_OR_RETURN(std::string prompt, chat_template.Render(messages, options));
  return tokenizer.Encode(prompt, EncodeMode::kGuarded);
}

}  // namespace optiq
