// smollm3 (transformers: models/smollm3/modeling_smollm3.py): llama where some layers have no RoPE.
#include "model/arch/families.h"
#include "model/rope_config.h"

namespace optiq {

StatusOr<DecoderSpec> ParseSmolLm3(ConfigFields* c) {
  ASSIGN_OR_RETURN(DecoderSpec spec, ParseCommon(c, /*tied_by_default=*/true, "hidden_act"));
  ASSIGN_OR_RETURN(RopeSpec rope, RopeFromConfig(c, spec.layers[0].attention.head_dim, 2000000));
  spec.ropes.push_back(std::move(rope));
  const size_t n = spec.layers.size();
  // no_rope_layers[i] is 1 where layer i *has* RoPE; without it every no_rope_layer_interval-th layer has none.
  const std::vector<int64_t> has_rope = c->Ints("no_rope_layers", n);
  const int64_t interval = c->Int("no_rope_layer_interval", 1, limits::kLayers, 4);
  const int64_t window = c->Bool("use_sliding_window", false) ? c->Int("sliding_window", 1, limits::kContext, 0) : 0;
  ASSIGN_OR_RETURN(const std::vector<bool> sliding, SlidingLayers(c, n));
  const bool attention_bias = c->Bool("attention_bias", false), mlp_bias = c->Bool("mlp_bias", false);
  for (size_t i = 0; i < n; ++i) {
    AttentionSpec& a = spec.layers[i].attention;
    const bool rope_here = has_rope.empty() ? (i + 1) % interval != 0 : has_rope[i] != 0;
    a.rope = rope_here ? 0 : -1;
    a.qkv_bias = a.o_bias = attention_bias;
    spec.layers[i].mlp_bias = mlp_bias;
    if (!sliding.empty() && sliding[i]) a.sliding_window = window;
  }
  RETURN_IF_ERROR(c->status());
  return spec;
}

}  // namespace optiq
