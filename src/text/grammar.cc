#include "text/grammar.h"

#include <algorithm>
#include <limits>

#include "text/rust_call.h"

namespace optiq {

void Grammar::Free::operator()(ot_grammar* grammar) const { ot_grammar_free(grammar); }
void GrammarMatcher::Free::operator()(ot_matcher* matcher) const { ot_matcher_free(matcher); }

StatusOr<std::shared_ptr<const Grammar>> Grammar::Create(const Tokenizer& tokenizer,
                                                         const std::vector<int32_t>& end_ids, int64_t vocab_size) {
  std::vector<uint32_t> ends;
  for (const int32_t id : end_ids) {
    if (id >= 0 && id < vocab_size) ends.push_back(static_cast<uint32_t>(id));
  }
  rust::Buffer error;
  ot_grammar* grammar = nullptr;
  const int code = ot_grammar_new(tokenizer.handle(), ends.data(), ends.size(), static_cast<uint32_t>(vocab_size),
                                  &grammar, error.get());
  if (code != OT_OK) return rust::ToStatus(code, error, "constrained answers");
  return std::shared_ptr<const Grammar>(new Grammar(grammar, static_cast<size_t>(vocab_size + 31) / 32));
}

StatusOr<GrammarMatcher> Grammar::Match(std::string_view kind, std::string_view text) const {
  rust::Buffer error;
  ot_matcher* matcher = nullptr;
  const int code = ot_matcher_new(grammar_.get(), rust::Str(kind), rust::Str(text), &matcher, error.get());
  if (code != OT_OK) return rust::ToStatus(code == OT_PANIC ? OT_INPUT : code, error, "the schema");
  return GrammarMatcher(matcher, words_);
}

Status GrammarMatcher::Mask(std::span<float> logits) {
  rust::Buffer error;
  const int code = ot_matcher_mask(matcher_.get(), mask_.data(), mask_.size(), error.get());
  if (code != OT_OK) return rust::ToStatus(code, error, "constrained answer");
  constexpr float kNever = -std::numeric_limits<float>::infinity();
  for (size_t word = 0; word < mask_.size(); ++word) {
    const uint32_t bits = mask_[word];
    if (bits == UINT32_MAX) continue;
    const size_t end = std::min(logits.size(), word * 32 + 32);
    for (size_t i = word * 32; i < end; ++i) {
      if ((bits >> (i % 32) & 1) == 0) logits[i] = kNever;
    }
  }
  return OkStatus();
}

Status GrammarMatcher::Accept(int32_t id) {
  rust::Buffer error;
  const int code = ot_matcher_accept(matcher_.get(), static_cast<uint32_t>(id), error.get());
  return code == OT_OK ? OkStatus() : rust::ToStatus(code, error, "constrained answer");
}

bool GrammarMatcher::done() const { return ot_matcher_done(matcher_.get()) != 0; }

}  // namespace optiq
