#include "server/token_text.h"

#include "base/utf8.h"

namespace optiq {

std::string TokenBytes(const Tokenizer& tokenizer, int32_t id) { return tokenizer.TokenText(id).value_or(""); }

std::string ValidUtf8(const std::string& text) {
  if (IsUtf8(text)) return text;
  // nlohmann's writer does the replacing.
  const std::string quoted = OrderedJson(text).dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
  return OrderedJson::parse(quoted).get<std::string>();
}

namespace {

OrderedJson Entry(const Tokenizer& tokenizer, int32_t id, float logprob) {
  const std::string bytes = TokenBytes(tokenizer, id);
  OrderedJson list = OrderedJson::array();
  for (const unsigned char b : bytes) list.push_back(b);
  return {{"token", ValidUtf8(bytes)}, {"logprob", logprob}, {"bytes", std::move(list)}};
}

}  // namespace

OrderedJson TokenLogprobJson(const Tokenizer& tokenizer, const TokenLogprobs& token) {
  OrderedJson json = Entry(tokenizer, token.id, token.logprob);
  json["top_logprobs"] = OrderedJson::array();
  for (const auto& [id, logprob] : token.top) json["top_logprobs"].push_back(Entry(tokenizer, id, logprob));
  return json;
}

OrderedJson ChatLogprobsJson(const Tokenizer& tokenizer, std::span<const TokenLogprobs> tokens) {
  OrderedJson content = OrderedJson::array();
  for (const TokenLogprobs& token : tokens) content.push_back(TokenLogprobJson(tokenizer, token));
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

}  // namespace optiq
