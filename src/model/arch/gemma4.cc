// gemma4 (transformers: models/gemma4/modeling_gemma4.py): sliding and full layers with head sizes and ropes of their
// own, norms on the heads of q, k and v, attention scale 1, values equal to keys on full layers (attention_k_eq_v),
// tail layers that read the keys and values of an earlier layer (num_kv_shared_layers), per-layer embeddings, experts
// beside the MLP, a scalar per layer, softcap.
#include <algorithm>
#include <cmath>

#include "model/arch/families.h"
#include "model/rope_config.h"

namespace optiq {
namespace {

// ropes[0]: full layers, ropes[1]: sliding layers.
Status AddRopes(ConfigFields* c, int64_t head_dim, int64_t global_head_dim, DecoderSpec* spec) {
  static const Json kFull = {{"rope_type", "proportional"}, {"partial_rotary_factor", 0.25}, {"rope_theta", 1e6}};
  static const Json kSliding = {{"rope_type", "default"}, {"rope_theta", 1e4}};
  const Json* full = &kFull;
  const Json* sliding = &kSliding;
  if (const Json* parameters = c->Object("rope_parameters")) {
    ConfigFields p(*parameters, c->what() + ": rope_parameters");
    full = p.Object("full_attention");
    sliding = p.Object("sliding_attention");
    RETURN_IF_ERROR(p.status());
    if (full == nullptr || sliding == nullptr) {
      return InvalidArgument("{}: rope_parameters must have full_attention and sliding_attention", c->what());
    }
  }
  RETURN_IF_ERROR(c->status());
  const auto add = [&](const Json& settings, int64_t dim) -> Status {
    ConfigFields s(settings, c->what() + ": rope_parameters");
    const double theta = s.Number("rope_theta", 1e-3, 1e12, 10000);
    RETURN_IF_ERROR(s.status());
    ASSIGN_OR_RETURN(RopeSpec rope, MakeRope(dim, theta, &settings, c->what()));
    spec->ropes.push_back(std::move(rope));
    return OkStatus();
  };
  RETURN_IF_ERROR(add(*full, global_head_dim));
  return add(*sliding, head_dim);
}

// Layers from `first_shared` on read the keys and values of the last earlier layer of their kind that has its own.
Status ShareKeysAndValues(ConfigFields* c, const std::vector<bool>& sliding, int first_shared, DecoderSpec* spec) {
  for (int i = first_shared; i < spec->num_layers(); ++i) {
    int donor = first_shared - 1;
    while (donor >= 0 && sliding[donor] != sliding[i]) --donor;
    if (donor < 0) {
      return InvalidArgument(
          "{}: num_kv_shared_layers: layer {} is to share keys and values, but no {} layer before layer {} has its own",
          c->what(), i, sliding[i] ? "sliding_attention" : "full_attention", first_shared);
    }
    AttentionSpec& a = spec->layers[i].attention;
    AttentionSpec& from = spec->layers[donor].attention;
    a.kv_layer = donor;
    from.kv_is_read_later = true;
    if (a.num_key_value_heads != from.num_key_value_heads || a.head_dim != from.head_dim) {
      return InvalidArgument("{}: layers {} and {} share keys and values but differ in shape", c->what(), i, donor);
    }
  }
  return OkStatus();
}

StatusOr<MoeSpec> ParseMoe(ConfigFields* c) {
  MoeSpec moe;
  if (!c->Bool("enable_moe_block", false)) return moe;
  moe.num_experts = c->Int("num_experts", 1, limits::kExperts);
  moe.experts_per_token = c->Int("top_k_experts", 1, limits::kExperts);
  moe.intermediate_size = c->Int("moe_intermediate_size", 1, limits::kWidth);
  moe.beside_dense = true;
  if (moe.experts_per_token > moe.num_experts) {
    c->Fail("top_k_experts", fmt::format("is {}, more than num_experts {}", moe.experts_per_token, moe.num_experts));
  }
  RETURN_IF_ERROR(c->status());
  return moe;
}

}  // namespace

StatusOr<DecoderSpec> ParseGemma4Text(ConfigFields* c) {
  ASSIGN_OR_RETURN(DecoderSpec spec, ParseCommon(c, /*tied_by_default=*/true, "hidden_activation"));
  const size_t n = spec.layers.size();
  ASSIGN_OR_RETURN(const std::vector<bool> sliding, SlidingLayers(c, n));
  if (sliding.empty()) return InvalidArgument("{}: field 'layer_types' is missing", c->what());
  if (c->Bool("attention_bias", false)) {
    return Unimplemented("{}: attention_bias is not supported (Gemma 4 checkpoints have none)", c->what());
  }
  if (c->String("use_bidirectional_attention", "") == "all") {
    return Unimplemented("{}: use_bidirectional_attention 'all' is not a decoder", c->what());
  }
  AttentionSpec base = spec.layers[0].attention;
  if (!c->Has("head_dim")) base.head_dim = 256;
  const int64_t global_head_dim = c->Int("global_head_dim", 2, limits::kHeadDim, 512);
  const bool k_eq_v = c->Bool("attention_k_eq_v", false);
  const int64_t global_heads = c->Int("num_global_key_value_heads", 1, limits::kHeads, base.num_key_value_heads);
  const int64_t window = c->Int("sliding_window", 1, limits::kContext, 512);
  const int64_t shared = c->Int("num_kv_shared_layers", 0, limits::kLayers, 0);
  if (shared >= static_cast<int64_t>(n)) {
    c->Fail("num_kv_shared_layers", fmt::format("is {}; it must be below num_hidden_layers {}", shared, n));
  }
  if (k_eq_v && base.num_attention_heads % global_heads != 0) {
    c->Fail("num_global_key_value_heads",
            fmt::format("is {}; it must divide num_attention_heads {}", global_heads, base.num_attention_heads));
  }
  const int first_shared = static_cast<int>(n) - static_cast<int>(shared);
  const bool double_wide = c->Bool("use_double_wide_mlp", false);
  spec.per_layer_input_size = c->Int("hidden_size_per_layer_input", 0, limits::kWidth, 256);
  spec.vocab_size_per_layer_input = c->Int("vocab_size_per_layer_input", 1, limits::kVocab, spec.vocab_size);
  if (spec.per_layer_input_size > 0 && spec.vocab_size_per_layer_input < spec.vocab_size) {
    c->Fail("vocab_size_per_layer_input", fmt::format("is {}; tokens up to vocab_size {} need a row",
                                                      spec.vocab_size_per_layer_input, spec.vocab_size));
  }
  spec.embedding_scale = std::sqrt(static_cast<float>(spec.hidden_size));
  spec.final_logit_softcapping = static_cast<float>(c->Number("final_logit_softcapping", 1e-3, 1e6, 0));
  ASSIGN_OR_RETURN(const MoeSpec moe, ParseMoe(c));
  RETURN_IF_ERROR(c->status());

  for (size_t i = 0; i < n; ++i) {
    LayerSpec& l = spec.layers[i];
    l.attention = base;
    AttentionSpec& a = l.attention;
    a.qk_norm = a.v_norm = true;
    a.scale = 1;
    a.rope = sliding[i] ? 1 : 0;
    if (sliding[i]) {
      a.sliding_window = window;
    } else {
      a.head_dim = global_head_dim;
      a.k_eq_v = k_eq_v;
      if (k_eq_v) a.num_key_value_heads = global_heads;
    }
    if (static_cast<int>(i) >= first_shared && double_wide) l.intermediate_size *= 2;
    if (!c->Has("hidden_activation")) l.activation = Activation::kGeluTanh;
    l.post_norms = true;
    l.moe = moe;
    l.per_layer_input_size = spec.per_layer_input_size;
    l.layer_scalar = true;
    l.names.router = "router.proj";
    l.names.experts = "experts.switch_glu";
    l.names.hf_experts = "experts";
  }
  RETURN_IF_ERROR(AddRopes(c, base.head_dim, global_head_dim, &spec));
  RETURN_IF_ERROR(ShareKeysAndValues(c, sliding, first_shared, &spec));
  if (spec.per_layer_input_size > 0) {
    spec.per_layer_embed_path = "model.embed_tokens_per_layer";
    spec.per_layer_projection_path = "model.per_layer_model_projection";
    spec.per_layer_norm_path = "model.per_layer_projection_norm";
  }
  return spec;
}

StatusOr<DecoderSpec> ParseGemma4(ConfigFields* c) { return ParseWrapped(c, ParseGemma4Text); }

}  // namespace optiq
