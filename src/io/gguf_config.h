// config.json of a GGUF file, rebuilt from its metadata in the spelling of the original Hugging Face repositories.
#ifndef OPTIQ_IO_GGUF_CONFIG_H_
#define OPTIQ_IO_GGUF_CONFIG_H_

#include <cstdint>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/status.h"
#include "io/gguf.h"

namespace optiq {

enum class GgufArch { kLlama, kQwen2, kQwen3, kGemma3 };

// general.architecture. kUnimplemented for others and for one part of a split file.
StatusOr<GgufArch> GgufArchOf(const GgufFile& file);
std::string_view GgufArchName(GgufArch arch);  // "llama": also the prefix of the architecture's metadata keys

// What the tensors say and the metadata does not.
struct GgufTensorFacts {
  int64_t vocab_size = 0;  // rows of token_embd
  bool tied = false;       // one matrix is embedding and output
  bool attention_bias = false;
  bool mlp_bias = false;
  std::vector<float>
      rope_factors;  // rope_freqs.weight: what llama.cpp divides each rotary frequency by; empty if absent
};

// The object of config.json. torch_dtype is bfloat16 whatever the tensors' types are. Numbers stored as f32 are cut to
// six significant digits (9.99999997e-07 is 1e-06). Settings that change the model's function and cannot be expressed
// are kUnimplemented, missing or absurd ones kDataLoss.
StatusOr<Json> BuildGgufConfig(const GgufFile& file, GgufArch arch, const GgufTensorFacts& facts);

}  // namespace optiq

#endif  // OPTIQ_IO_GGUF_CONFIG_H_
