// A model's chat template: messages to the prompt text and to ids, as transformers' apply_chat_template makes them.
#ifndef OPTIQ_TEXT_CHAT_TEMPLATE_H_
#define OPTIQ_TEXT_CHAT_TEMPLATE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/status.h"
#include "io/checkpoint.h"
#include "text/special_tokens.h"
#include "text/tokenizer.h"

struct ot_template;

namespace optiq {

struct RenderOptions {
  OrderedJson tools;                          // an array of tool schemas, or null
  bool add_generation_prompt = true;          // end with the header of the assistant's turn
  bool continue_final_message = false;        // end inside the last message, whose text the model goes on with
  OrderedJson extra = OrderedJson::object();  // template arguments (enable_thinking, documents ...)
  std::optional<int64_t> unix_time;           // what strftime_now shows, in seconds; the clock when not set
  // Makes control tokens in untrusted strings harmless; the result is for EncodeMode::kGuarded only. Everything is
  // untrusted but what the assistant said (content, reasoning), whose markup templates parse.
  const Tokenizer* guard = nullptr;
};

// Immutable and cheap to copy; any number of threads may use one.
class ChatTemplate {
 public:
  // chat_template.jinja if there is one, else tokenizer_config.json's chat_template: a string, or a list of {name,
  // template} of which "tool_use" is taken when there are tools and "default" otherwise. nullopt when the model has
  // none. Errors: kDataLoss naming file and line of a syntax error.
  static StatusOr<std::optional<ChatTemplate>> Load(const Checkpoint& checkpoint);

  // From source text; `what` names it in errors. The named tokens (bos_token ...) are variables of the template.
  static StatusOr<ChatTemplate> FromSource(std::string_view source, const SpecialTokens& special = {},
                                           std::string_view what = "chat template");

  // The prompt. Errors: kInvalidArgument with the template's own text when it refuses the messages (raise_exception) or
  // with the line when it fails on them, kResourceExhausted when it does not end in time.
  StatusOr<std::string> Render(const OrderedJson& messages, const RenderOptions& options = {}) const;

  // Whether the template reads a variable, e.g. "enable_thinking" or "tools".
  bool Uses(std::string_view variable) const;

  // The template's text (of both, where tools have their own): what markup the model was trained on can be read off it.
  const std::string& source() const { return source_; }

 private:
  using Handle = std::shared_ptr<const ot_template>;

  StatusOr<std::string> RenderText(const OrderedJson& messages, const RenderOptions& options) const;

  Handle default_;
  Handle tool_use_;  // may be null
  std::string what_, source_;
  std::string constants_;  // JSON of the named tokens
};

// The ids of a conversation: guarded rendering and encoding with `tokenizer`. Control tokens written in messages, tools
// or arguments stay text; otherwise the ids equal apply_chat_template's. options.guard is ignored.
StatusOr<std::vector<int32_t>> EncodeChat(const ChatTemplate& chat_template, const Tokenizer& tokenizer,
                                          const OrderedJson& messages, RenderOptions options = {});

}  // namespace optiq

#endif  // OPTIQ_TEXT_CHAT_TEMPLATE_H_
