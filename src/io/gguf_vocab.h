// The vocabulary in a GGUF file's metadata, checked.
#ifndef OPTIQ_IO_GGUF_VOCAB_H_
#define OPTIQ_IO_GGUF_VOCAB_H_

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "io/gguf.h"

namespace optiq {

enum class GgufTokenType : uint8_t { kNormal = 1, kUnknown, kControl, kUser, kUnused, kByte };

struct GgufVocab {
  std::string model;  // "gpt2" (byte-level BPE) or "llama" (SentencePiece BPE)
  std::string pre;    // pre-tokenizer of gpt2; empty if not named
  std::vector<std::string_view>
      tokens;                        // valid UTF-8, unique among the tokens in use; views on the file or on `respelled`
  std::vector<GgufTokenType> types;  // one per token
  std::deque<std::string> respelled;
  std::optional<int64_t> bos, eos, pad, unk;  // ids, all below tokens.size()
  std::vector<int64_t> stop;                  // further ids that end a turn, without eos
  bool add_bos = false, add_eos = false;

  bool IsAdded(size_t id) const;    // matched before the text is split: control, unknown and user-defined tokens
  bool IsSpecial(size_t id) const;  // of these, skipped when decoding; as in the model's own tokenizer.json
};

// The vocabulary of `file`, of at most `vocab_size` tokens. Errors as BuildGgufTextFiles.
StatusOr<GgufVocab> ReadGgufVocab(const GgufFile& file, int64_t vocab_size);

}  // namespace optiq

#endif  // OPTIQ_IO_GGUF_VOCAB_H_
