// What tokenizer_config.json and special_tokens_map.json say about tokens, by the rules of transformers 5.12
// (tokenization_utils_base.py): tokenizer.json alone decides whether BOS is added (add_bos_token is ignored when it is
// there), special_tokens_map.json counts only when tokenizer_config.json has no added_tokens_decoder, and every named
// token is special.
#ifndef OPTIQ_TEXT_SPECIAL_TOKENS_H_
#define OPTIQ_TEXT_SPECIAL_TOKENS_H_

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/status.h"
#include "io/checkpoint.h"

namespace optiq {

struct SpecialTokens {
  // ("bos_token", "<s>"), ("eos_token", ...): first the seven standard names, then the model's own.
  std::vector<std::pair<std::string, std::string>> named;
  // Tokens the tokenizer must know, with flags, as tokenizer.json writes them (without ids).
  Json added_tokens = Json::array();
  bool split_special_tokens = false;

  std::optional<std::string> Find(std::string_view name) const;
};

// From the parsed files; either may be null (absent). Errors: kInvalidArgument naming file and field.
StatusOr<SpecialTokens> ParseSpecialTokens(const Json& tokenizer_config, const Json& special_tokens_map);

// Reads both files of a model; both are optional.
StatusOr<SpecialTokens> ReadSpecialTokens(const Checkpoint& checkpoint);

}  // namespace optiq

#endif  // OPTIQ_TEXT_SPECIAL_TOKENS_H_
