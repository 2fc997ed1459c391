// The model families: each maps config.json to a DecoderSpec. Adding one is a file here and a line in families.cc.
#ifndef OPTIQ_MODEL_ARCH_FAMILIES_H_
#define OPTIQ_MODEL_ARCH_FAMILIES_H_

#include <span>
#include <string_view>

#include "base/status.h"
#include "model/config_fields.h"
#include "model/decoder_spec.h"

namespace optiq {

struct Family {
  std::string_view model_type;
  StatusOr<DecoderSpec> (*parse)(ConfigFields* config);
};

std::span<const Family> Families();

StatusOr<DecoderSpec> ParseLlama(ConfigFields* config);     // llama.cc
StatusOr<DecoderSpec> ParseMistral(ConfigFields* config);   // llama.cc
StatusOr<DecoderSpec> ParseSmolLm3(ConfigFields* config);   // smollm3.cc
StatusOr<DecoderSpec> ParseQwen2(ConfigFields* config);     // qwen.cc
StatusOr<DecoderSpec> ParseQwen3(ConfigFields* config);     // qwen.cc
StatusOr<DecoderSpec> ParseGemma3Text(ConfigFields* config);  // gemma3.cc

// What all pre-norm GQA decoders share: sizes, eps, tying, and one LayerSpec per layer with "model.layers.<i>." prefixes,
// 1/sqrt(head_dim) scale and the activation. Families then set what differs.
StatusOr<DecoderSpec> ParseCommon(ConfigFields* config, bool tied_by_default, const char* activation_key);

// layer_types[i] == "sliding_attention" per layer; empty when the config has none. Unknown names are errors.
StatusOr<std::vector<bool>> SlidingLayers(ConfigFields* config, size_t num_layers);

}  // namespace optiq

#endif  // OPTIQ_MODEL_ARCH_FAMILIES_H_
