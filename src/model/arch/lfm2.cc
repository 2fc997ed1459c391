// lfm2 (transformers: models/lfm2/modeling_lfm2.py): gated short convolutions, and attention with norms on q and k in
// the layers that layer_types (or full_attn_idxs) names.
#include <algorithm>

#include "model/arch/families.h"
#include "model/rope_config.h"

namespace optiq {
namespace {

// The MLP's width: given, or two thirds of block_ff_dim rounded up to a multiple.
int64_t FeedForwardWidth(ConfigFields* c) {
  int64_t width = c->Has("block_ff_dim") ? c->Int("block_ff_dim", 1, limits::kWidth)
                                         : c->Int("intermediate_size", 1, limits::kWidth);
  if (!c->Bool("block_auto_adjust_ff_dim", true)) return width;
  width = 2 * width / 3;
  width = static_cast<int64_t>(c->Number("block_ffn_dim_multiplier", 1e-3, 1e3, 1) * static_cast<double>(width));
  const int64_t multiple = c->Int("block_multiple_of", 1, limits::kWidth, 256);
  width = (width + multiple - 1) / multiple * multiple;
  if (width > limits::kWidth) c->Fail("block_multiple_of", "makes the MLP too wide");
  return width;
}

StatusOr<std::vector<bool>> AttentionLayers(ConfigFields* c, int64_t layers) {
  std::vector<bool> attention(layers, false);
  if (c->Has("layer_types")) {
    const std::vector<std::string> types = c->Strings("layer_types", layers);
    for (size_t i = 0; i < types.size(); ++i) {
      if (types[i] != "conv" && types[i] != "full_attention") {
        c->Fail("layer_types", fmt::format("holds '{}'; known: conv, full_attention", types[i].substr(0, 40)));
      }
      attention[i] = types[i] == "full_attention";
    }
  } else if (c->Has("full_attn_idxs")) {
    const Json& list = c->json().at("full_attn_idxs");
    if (!list.is_array()) c->Fail("full_attn_idxs", "must be an array");
    for (const Json& v : list) {
      if (!v.is_number_integer() || v.get<int64_t>() < 0 || v.get<int64_t>() >= layers) {
        c->Fail("full_attn_idxs", "must hold layer numbers");
        break;
      }
      attention[v.get<int64_t>()] = true;
    }
  } else {
    c->Fail("layer_types", "is missing");
  }
  RETURN_IF_ERROR(c->status());
  return attention;
}

}  // namespace

StatusOr<DecoderSpec> ParseLfm2(ConfigFields* c) {
  // ParseCommon's names for what lfm2 calls otherwise.
  Json renamed = c->json();
  renamed["intermediate_size"] = FeedForwardWidth(c);
  for (const char* key : {"norm_eps", "block_norm_eps"}) {
    if (!renamed.contains("rms_norm_eps") && c->Has(key)) renamed["rms_norm_eps"] = c->json().at(key);
  }
  if (!renamed.contains("tie_word_embeddings") && c->Has("tie_embedding")) {
    renamed["tie_word_embeddings"] = c->json().at("tie_embedding");
  }
  renamed.erase("hidden_act");
  RETURN_IF_ERROR(c->status());
  ConfigFields fields(renamed, c->what());
  ASSIGN_OR_RETURN(DecoderSpec spec, ParseCommon(&fields, /*tied_by_default=*/true, "hidden_act"));
  ASSIGN_OR_RETURN(RopeSpec rope, RopeFromConfig(&fields, spec.layers[0].attention.head_dim, 1000000));
  spec.ropes.push_back(std::move(rope));
  ASSIGN_OR_RETURN(const std::vector<bool> attention, AttentionLayers(&fields, spec.num_layers()));
  if (!spec.tie_word_embeddings) {
    return Unimplemented("{}: lfm2 with an untied head is not supported; mlx-lm cannot load one", c->what());
  }
  const int64_t kernel = fields.Int("conv_L_cache", 1, 64, 3);
  const bool bias = fields.Bool("conv_bias", false);
  RETURN_IF_ERROR(fields.status());
  for (int i = 0; i < spec.num_layers(); ++i) {
    LayerSpec& l = spec.layers[i];
    l.names.input_norm = "operator_norm";
    l.names.post_attention_norm = "ffn_norm";
    l.names.gate = "feed_forward.w1";
    l.names.up = "feed_forward.w3";
    l.names.down = "feed_forward.w2";
    l.names.q_norm = "self_attn.q_layernorm";
    l.names.k_norm = "self_attn.k_layernorm";
    l.names.o = "self_attn.out_proj";
    if (attention[i]) {
      l.attention.qk_norm = true;
      l.attention.rope = 0;
    } else {
      l.short_conv = {.kernel = kernel, .bias = bias};
    }
  }
  spec.norm_path = "model.embedding_norm";
  return spec;
}

}  // namespace optiq
