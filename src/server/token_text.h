// Tokens and their log-probabilities as the protocols show them.
#ifndef OPTIQ_SERVER_TOKEN_TEXT_H_
#define OPTIQ_SERVER_TOKEN_TEXT_H_

#include <span>
#include <string>

#include "base/json.h"
#include "engine/engine.h"
#include "text/tokenizer.h"

namespace optiq {

// The token's bytes (perhaps half a character); empty for an id without a token.
std::string TokenBytes(const Tokenizer& tokenizer, int32_t id);
// {token, logprob, bytes, top_logprobs}; `token` has U+FFFD for what is not UTF-8.
OrderedJson TokenLogprobJson(const Tokenizer& tokenizer, const TokenLogprobs& token);
// choices[].logprobs of a chat.
OrderedJson ChatLogprobsJson(const Tokenizer& tokenizer, std::span<const TokenLogprobs> tokens);
// `text` with what is not UTF-8 replaced by U+FFFD.
std::string ValidUtf8(const std::string& text);

}  // namespace optiq

#endif  // OPTIQ_SERVER_TOKEN_TEXT_H_
