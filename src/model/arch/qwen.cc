// qwen2 and qwen3 (transformers: models/qwen2/modeling_qwen2.py, models/qwen3/modeling_qwen3.py). qwen2 has biases on q, k and v;
// qwen3 has none, but RMSNorm on the heads of q and k, and head_dim of its own.
#include "model/arch/families.h"
#include "model/rope_config.h"

namespace optiq {
namespace {

StatusOr<DecoderSpec> ParseQwen(ConfigFields* c) {
  ASSIGN_OR_RETURN(DecoderSpec spec, ParseCommon(c, /*tied_by_default=*/false, "hidden_act"));
  ASSIGN_OR_RETURN(RopeSpec rope, RopeFromConfig(c, spec.layers[0].attention.head_dim, 1000000));
  spec.ropes.push_back(std::move(rope));
  const size_t n = spec.layers.size();
  const int64_t window = c->Bool("use_sliding_window", false) ? c->Int("sliding_window", 1, limits::kContext, 4096) : 0;
  const int64_t first_sliding = c->Int("max_window_layers", 0, limits::kLayers, 28);
  ASSIGN_OR_RETURN(const std::vector<bool> sliding, SlidingLayers(c, n));
  for (size_t i = 0; i < n; ++i) {
    AttentionSpec& a = spec.layers[i].attention;
    a.rope = 0;
    const bool slides = sliding.empty() ? static_cast<int64_t>(i) >= first_sliding : sliding[i];
    if (slides) a.sliding_window = window;
  }
  RETURN_IF_ERROR(c->status());
  return spec;
}

}  // namespace

StatusOr<DecoderSpec> ParseQwen2(ConfigFields* c) {
  ASSIGN_OR_RETURN(DecoderSpec spec, ParseQwen(c));
  for (LayerSpec& l : spec.layers) l.attention.qkv_bias = true;
  return spec;
}

StatusOr<DecoderSpec> ParseQwen3(ConfigFields* c) {
  ASSIGN_OR_RETURN(DecoderSpec spec, ParseQwen(c));
  const bool attention_bias = c->Bool("attention_bias", false);
  RETURN_IF_ERROR(c->status());
  for (LayerSpec& l : spec.layers) {
    l.attention.qk_norm = true;
    l.attention.qkv_bias = l.attention.o_bias = attention_bias;
  }
  return spec;
}

}  // namespace optiq
