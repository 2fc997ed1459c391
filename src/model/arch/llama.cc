// llama and mistral (transformers: models/llama/modeling_llama.py, models/mistral/modeling_mistral.py): pre-norm GQA decoder,
// SwiGLU, RoPE with Llama 3.1's frequency scaling. Mistral differs in its sliding window on every layer.
#include "model/arch/families.h"
#include "model/rope_config.h"

namespace optiq {

StatusOr<DecoderSpec> ParseLlama(ConfigFields* c) {
  ASSIGN_OR_RETURN(DecoderSpec spec, ParseCommon(c, /*tied_by_default=*/false, "hidden_act"));
  ASSIGN_OR_RETURN(RopeSpec rope, RopeFromConfig(c, spec.layers[0].attention.head_dim, 10000));
  spec.ropes.push_back(std::move(rope));
  const bool attention_bias = c->Bool("attention_bias", false), mlp_bias = c->Bool("mlp_bias", false);
  for (LayerSpec& l : spec.layers) {
    l.attention.rope = 0;
    l.attention.qkv_bias = l.attention.o_bias = attention_bias;
    l.mlp_bias = mlp_bias;
  }
  return spec;
}

StatusOr<DecoderSpec> ParseMistral(ConfigFields* c) {
  ASSIGN_OR_RETURN(DecoderSpec spec, ParseLlama(c));
  const int64_t window = c->Int("sliding_window", 1, limits::kContext, 0);
  for (LayerSpec& l : spec.layers) l.attention.sliding_window = window;
  return spec;
}

}  // namespace optiq
