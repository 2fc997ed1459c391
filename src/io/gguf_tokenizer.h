// Tokenizer files of a GGUF model, rebuilt from its vocabulary.
#ifndef OPTIQ_IO_GGUF_TOKENIZER_H_
#define OPTIQ_IO_GGUF_TOKENIZER_H_

#include <cstdint>
#include <string>

#include "base/status.h"
#include "io/gguf.h"
#include "io/gguf_config.h"

namespace optiq {

struct GgufTextFiles {
  std::string tokenizer_json;
  std::string tokenizer_config_json;   // special tokens, added tokens, chat template
  std::string generation_config_json;  // token ids only: a GGUF file has no sampling settings
};

// Byte-level BPE ("gpt2") with the pre-tokenizers smollm, qwen2, llama-bpe and gpt-2, and SentencePiece BPE ("llama")
// without a space put in front of the text (Gemma). Any other kind is kUnimplemented: a nearly right tokenizer is worse
// than none. A vocabulary of more than `vocab_size` tokens, with duplicates, invalid UTF-8, ids out of range or
// malformed byte tokens is kDataLoss.
StatusOr<GgufTextFiles> BuildGgufTextFiles(const GgufFile& file, GgufArch arch, int64_t vocab_size);

}  // namespace optiq

#endif  // OPTIQ_IO_GGUF_TOKENIZER_H_
