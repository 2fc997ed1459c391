// Parses arbitrary bytes as a GGUF file, reads every value and a few rows of every tensor, and rebuilds config and
// tokenizer.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "io/gguf.h"
#include "io/gguf_config.h"
#include "io/gguf_tokenizer.h"
#include "io/stored_tensor.h"

using namespace optiq;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = GgufFile::Parse(std::as_bytes(std::span(data, size)), "fuzz.gguf");
  if (!file.ok()) return 0;
  GgufTensorFacts facts;
  facts.vocab_size = 4096;
  std::vector<float> row;
  for (const GgufTensor& source : file->tensors()) {
    StoredTensor t;
    t.dtype = source.dtype;
    t.shape = source.Shape();
    t.bytes = source.bytes;
    row.resize(t.cols());
    for (const int64_t r : {int64_t{0}, t.rows() / 2, t.rows() - 1}) ReadRows(t, r, r + 1, row.data());
    if (source.name == "rope_freqs.weight")
      facts.rope_factors.assign(row.begin(), row.begin() + std::min<size_t>(row.size(), 64));
    if (source.name == "token_embd.weight") facts.vocab_size = t.rows();
  }
  for (const char* key :
       {"general.architecture", "tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "general.alignment"}) {
    (void)file->GetInt(key);
    (void)file->GetDouble(key);
    (void)file->GetBool(key);
    (void)file->GetString(key);
    (void)file->GetStrings(key);
    (void)file->GetInts(key);
    (void)file->GetFloats(key);
  }
  const auto arch = GgufArchOf(*file);
  if (!arch.ok()) return 0;
  (void)BuildGgufConfig(*file, *arch, facts);
  (void)BuildGgufTextFiles(*file, *arch, facts.vocab_size);
  return 0;
}
