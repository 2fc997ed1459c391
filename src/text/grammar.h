// Constrained decoding: which tokens may come next under a JSON schema, a regular expression or a Lark grammar (the
// llguidance crate).
#ifndef OPTIQ_TEXT_GRAMMAR_H_
#define OPTIQ_TEXT_GRAMMAR_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "text/tokenizer.h"

struct ot_grammar;
struct ot_matcher;

namespace optiq {

// One answer's state. One thread at a time.
class GrammarMatcher {
 public:
  // Logits of tokens that may not come next become -infinity; only ends of text remain once the grammar is complete.
  // [vocab_size]
  Status Mask(std::span<float> logits);
  Status Accept(int32_t id);
  bool done() const;

 private:
  friend class Grammar;
  struct Free {
    void operator()(ot_matcher* matcher) const;
  };
  GrammarMatcher(ot_matcher* matcher, size_t words) : matcher_(matcher), mask_(words) {}
  std::unique_ptr<ot_matcher, Free> matcher_;
  std::vector<uint32_t> mask_;
};

// A model's tokens arranged for masks; takes a second to make for large vocabularies. Any number of threads.
class Grammar {
 public:
  static StatusOr<std::shared_ptr<const Grammar>> Create(const Tokenizer& tokenizer,
                                                         const std::vector<int32_t>& end_ids, int64_t vocab_size);

  // kind: "json_schema", "regex" or "lark". kInvalidArgument with the reason when the grammar is broken or uses what is
  // not supported; kResourceExhausted when it is too large.
  StatusOr<GrammarMatcher> Match(std::string_view kind, std::string_view text) const;

 private:
  struct Free {
    void operator()(ot_grammar* grammar) const;
  };
  Grammar(ot_grammar* grammar, size_t words) : grammar_(grammar), words_(words) {}
  std::unique_ptr<ot_grammar, Free> grammar_;
  size_t words_;
};

}  // namespace optiq

#endif  // OPTIQ_TEXT_GRAMMAR_H_
