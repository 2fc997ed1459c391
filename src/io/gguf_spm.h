// The merge list of a SentencePiece BPE vocabulary. SentencePiece files (and GGUF) store scored pieces only;
// tokenizer.json wants the pairs in order of rank.
#ifndef OPTIQ_IO_GGUF_SPM_H_
#define OPTIQ_IO_GGUF_SPM_H_

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace optiq {

// The first token whose text is that of an earlier one, if there is such. Tokens whose `use` is false are left out.
std::optional<uint32_t> FindDuplicateToken(std::span<const std::string_view> tokens, const std::vector<bool>& use);

// Token `piece` is made of its first `split` bytes and the rest.
struct SpmMerge {
  uint32_t piece;
  uint32_t split;
};

// All ways to make a piece from two pieces, best first: by score, then longer left part, then longer right part (in
// code points), then order of the vocabulary; the order of the Hugging Face converter. tokens: valid UTF-8, unique
// where `use` is set; scores: finite; `use`: pieces that take part. kResourceExhausted when a (made-up) vocabulary has
// millions of merges.
StatusOr<std::vector<SpmMerge>> SpmMerges(std::span<const std::string_view> tokens, std::span<const float> scores,
                                          const std::vector<bool>& use);

}  // namespace optiq

#endif  // OPTIQ_IO_GGUF_SPM_H_
