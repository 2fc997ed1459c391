// gemma3_text (transformers: models/gemma3/modeling_gemma3.py): norms multiply by 1 + w, norms before and after both branches,
// norms on the heads of q and k, embeddings times sqrt(hidden_size), sliding and full layers with a rope of their own.
#include <cmath>

#include "model/arch/families.h"
#include "model/rope_config.h"

namespace optiq {
namespace {

// ropes[0]: full layers, ropes[1]: sliding layers.
Status AddRopes(ConfigFields* c, int64_t head_dim, DecoderSpec* spec) {
  double theta = c->Number("rope_theta", 1e-3, 1e12, 1000000);
  double local_theta = c->Number("rope_local_base_freq", 1e-3, 1e12, 10000);
  const Json* full = c->Object("rope_scaling");
  const Json* sliding = nullptr;
  if (const Json* parameters = c->Object("rope_parameters")) {
    // transformers 5: one set per layer type, or a single set for the full layers.
    ConfigFields p(*parameters, c->what() + ": rope_parameters");
    const Json* by_type = p.Object("full_attention");
    full = by_type != nullptr ? by_type : parameters;
    sliding = p.Object("sliding_attention");
    RETURN_IF_ERROR(p.status());
    theta = ConfigFields(*full, p.what()).Number("rope_theta", 1e-3, 1e12, theta);
    if (sliding != nullptr) local_theta = ConfigFields(*sliding, p.what()).Number("rope_theta", 1e-3, 1e12, local_theta);
  }
  RETURN_IF_ERROR(c->status());
  ASSIGN_OR_RETURN(RopeSpec global, MakeRope(head_dim, theta, full, c->what()));
  ASSIGN_OR_RETURN(RopeSpec local, MakeRope(head_dim, local_theta, sliding, c->what()));
  spec->ropes = {std::move(global), std::move(local)};
  return OkStatus();
}

}  // namespace

StatusOr<DecoderSpec> ParseGemma3Text(ConfigFields* c) {
  ASSIGN_OR_RETURN(DecoderSpec spec, ParseCommon(c, /*tied_by_default=*/true, "hidden_activation"));
  if (!c->Has("hidden_activation")) {
    for (LayerSpec& l : spec.layers) l.activation = Activation::kGeluTanh;
  }
  const size_t n = spec.layers.size();
  RETURN_IF_ERROR(AddRopes(c, spec.layers[0].attention.head_dim, &spec));
  spec.norm_weight_offset = 1;
  spec.embedding_scale = std::sqrt(static_cast<float>(spec.hidden_size));
  spec.final_logit_softcapping = static_cast<float>(c->Number("final_logit_softcapping", 1e-3, 1e6, 0));
  if (c->Has("attn_logit_softcapping")) {
    return Unimplemented("{}: attn_logit_softcapping is not supported (Gemma 3 checkpoints have none)", c->what());
  }
  const int64_t window = c->Int("sliding_window", 1, limits::kContext, 4096);
  // Every pattern-th layer is full; layer_types says the same layer by layer.
  const int64_t pattern =
      c->Int("sliding_window_pattern", 1, limits::kLayers, c->Int("_sliding_window_pattern", 1, limits::kLayers, 6));
  ASSIGN_OR_RETURN(const std::vector<bool> sliding, SlidingLayers(c, n));
  const double scalar =
      c->Number("query_pre_attn_scalar", 1e-6, 1e9, static_cast<double>(spec.layers[0].attention.head_dim));
  const bool attention_bias = c->Bool("attention_bias", false);
  for (size_t i = 0; i < n; ++i) {
    AttentionSpec& a = spec.layers[i].attention;
    const bool slides = sliding.empty() ? (i + 1) % pattern != 0 : sliding[i];
    a.sliding_window = slides ? window : 0;
    a.rope = slides ? 1 : 0;
    a.qk_norm = true;
    a.qkv_bias = a.o_bias = attention_bias;
    a.scale = static_cast<float>(1.0 / std::sqrt(scalar));
    spec.layers[i].post_norms = true;
  }
  RETURN_IF_ERROR(c->status());
  return spec;
}

StatusOr<DecoderSpec> ParseGemma3(ConfigFields* c) { return ParseWrapped(c, ParseGemma3Text); }

}  // namespace optiq
