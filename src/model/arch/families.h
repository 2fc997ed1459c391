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
StatusOr<DecoderSpec> ParseQwen2Moe(ConfigFields* config);  // qwen_moe.cc
StatusOr<DecoderSpec> ParseQwen3Moe(ConfigFields* config);  // qwen_moe.cc
StatusOr<DecoderSpec> ParseGemma3Text(ConfigFields* config);  // gemma3.cc
StatusOr<DecoderSpec> ParseGemma3(ConfigFields* config);      // gemma3.cc: images and text
StatusOr<DecoderSpec> ParseGemma4Text(ConfigFields* config);  // gemma4.cc
StatusOr<DecoderSpec> ParseGemma4(ConfigFields* config);      // gemma4.cc: images, sound and text
StatusOr<DecoderSpec> ParseLfm2(ConfigFields* config);        // lfm2.cc

// What all pre-norm GQA decoders share: sizes, eps, tying, and one LayerSpec per layer with "model.layers.<i>." prefixes,
// 1/sqrt(head_dim) scale and the activation. Families then set what differs.
StatusOr<DecoderSpec> ParseCommon(ConfigFields* config, bool tied_by_default, const char* activation_key);

// A config whose text_config has the decoder: parses that, takes vocab_size and tie_word_embeddings from the outside where it has
// none, and puts all modules under "language_model.", as mlx-lm has them. Towers become DecoderSpec::tower_prefixes.
StatusOr<DecoderSpec> ParseWrapped(ConfigFields* config, StatusOr<DecoderSpec> (*parse_text)(ConfigFields* config));

// layer_types[i] == "sliding_attention" per layer; empty when the config has none. Unknown names are errors.
StatusOr<std::vector<bool>> SlidingLayers(ConfigFields* config, size_t num_layers);

}  // namespace optiq

#endif  // OPTIQ_MODEL_ARCH_FAMILIES_H_
