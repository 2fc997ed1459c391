// Text to token ids and back: the `tokenizers` crate on a model's tokenizer.json, with the special tokens of its
// tokenizer_config.json. The ids are those of transformers 5.12.
#ifndef OPTIQ_TEXT_TOKENIZER_H_
#define OPTIQ_TEXT_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "io/checkpoint.h"
#include "text/special_tokens.h"

struct ot_tok;

namespace optiq {

enum class EncodeMode {
  kPlain,        // added tokens written in the text become their ids (a rendered prompt from trusted text)
  kWithSpecial,  // and the post-processor runs: BOS, where the tokenizer has one (plain text completion)
  kLiteral,      // nothing in the text becomes a control token (untrusted text, no template)
  kGuarded,  // a prompt rendered with RenderOptions::guard: the template's control tokens count, the messages' do not
};

// Immutable; any number of threads may use one.
class Tokenizer {
 public:
  // Reads tokenizer.json (required), tokenizer_config.json and special_tokens_map.json. Errors: kNotFound without
  // tokenizer.json, kDataLoss when it cannot be used.
  static StatusOr<std::shared_ptr<const Tokenizer>> Load(const Checkpoint& checkpoint);
  static StatusOr<std::shared_ptr<const Tokenizer>> FromJson(std::string_view tokenizer_json,
                                                             const SpecialTokens& special = {});

  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // Errors: kInvalidArgument when the text is not UTF-8.
  StatusOr<std::vector<int32_t>> Encode(std::string_view text, EncodeMode mode) const;

  // The whole text of `ids`; broken characters become U+FFFD, unknown ids are left out. Negative ids are an error.
  StatusOr<std::string> Decode(const std::vector<int32_t>& ids, bool skip_special) const;

  // Untrusted text with every control token in it made harmless for kGuarded (rendering with a guard does this itself).
  StatusOr<std::string> Guard(std::string_view text) const;

  std::optional<int32_t> TokenId(std::string_view token) const;

  // The bytes of one token, perhaps half a character; nullopt for an id without a token.
  std::optional<std::string> TokenText(int32_t id) const;

  // The largest id + 1. The model's embedding may have more rows (padding).
  int32_t vocab_limit() const { return vocab_limit_; }

  bool IsSpecial(int32_t id) const;  // left out by Decode(..., skip_special)
  bool IsControl(int32_t id) const;  // special, or a markup token like <think>; never made from guarded or literal text

  // Named tokens of tokenizer_config.json ("bos_token" ...).
  const SpecialTokens& special_tokens() const { return special_; }
  std::optional<std::string> bos_token() const { return special_.Find("bos_token"); }
  std::optional<std::string> eos_token() const { return special_.Find("eos_token"); }
  std::optional<std::string> pad_token() const { return special_.Find("pad_token"); }
  std::optional<std::string> unk_token() const { return special_.Find("unk_token"); }

  const ot_tok* handle() const { return handle_; }  // for this folder

 private:
  Tokenizer(const ot_tok* handle, SpecialTokens special);

  const ot_tok* handle_;
  SpecialTokens special_;
  int32_t vocab_limit_;
};

}  // namespace optiq

#endif  // OPTIQ_TEXT_TOKENIZER_H_
