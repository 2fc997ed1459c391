// The architecture of a decoder-only transformer as data. A family's file in arch/ maps config.json to a spec and names the
// tensors; one decoder executes any spec.
#ifndef OPTIQ_MODEL_DECODER_SPEC_H_
#define OPTIQ_MODEL_DECODER_SPEC_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/status.h"

namespace optiq {

enum class Activation { kSilu, kGeluTanh, kGelu };

// Rotary embedding of one layer, "rotate half" form: pairs (i, i + head_dim/2). inv_freq[i] is the angle per position.
// Empty: the layer has no positions (NoPE).
struct RopeSpec {
  std::vector<float> inv_freq;  // head_dim / 2 values; 0 leaves a pair as it is
  float attention_factor = 1;   // multiplies cos and sin (yarn)
};

struct AttentionSpec {
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;
  int64_t head_dim = 0;
  int64_t sliding_window = 0;  // keys visible from a position, itself included; 0: all
  float scale = 1;
  bool qkv_bias = false;       // q, k and v projections have biases
  bool o_bias = false;
  bool qk_norm = false;        // RMSNorm over head_dim on q and k, before RoPE
  bool v_norm = false;         // RMSNorm without weight over head_dim on v (Gemma 4)
  bool k_eq_v = false;         // no v_proj: values are the output of k_proj, before norm and RoPE (Gemma 4, full layers)
  int rope = -1;               // index into DecoderSpec::ropes; -1: none
  int kv_layer = -1;           // the layer whose keys and values this one reads; -1: its own
  bool kv_is_read_later = false;  // a later layer has this one as its kv_layer

  bool has_own_kv() const { return kv_layer < 0; }
  int64_t q_width() const { return num_attention_heads * head_dim; }
  int64_t kv_width() const { return num_key_value_heads * head_dim; }
};

// Mixture of experts: a router chooses experts_per_token of num_experts gated MLPs for every token.
struct MoeSpec {
  int64_t num_experts = 0;  // 0: the layer has none
  int64_t experts_per_token = 0;
  int64_t intermediate_size = 0;
  bool renormalize = true;  // the chosen experts' probabilities are scaled to sum 1 (norm_topk_prob)
  int64_t shared_expert_intermediate_size = 0;  // an expert for all tokens behind a sigmoid gate (qwen2_moe); 0: none
  // Gemma 4: a dense MLP and the experts side by side on the same residual, each with norms of its own; the router reads the
  // residual, normed without weight, times router.scale, and per_expert_scale multiplies the routing weights.
  bool beside_dense = false;
};

// A gated short convolution in place of attention (lfm2): in_proj gives B, C and x; y = out_proj(C * conv(B * x)).
struct ShortConvSpec {
  int64_t kernel = 0;  // positions seen, itself included; 0: the layer has attention
  bool bias = false;   // in_proj, out_proj and the convolution have biases
};

// Names within a block, relative to LayerSpec::prefix; families overwrite what they call otherwise.
struct BlockNames {
  std::string input_norm = "input_layernorm", post_attention_norm = "post_attention_layernorm";
  std::string q_norm = "self_attn.q_norm", k_norm = "self_attn.k_norm";
  std::string q = "self_attn.q_proj", k = "self_attn.k_proj", v = "self_attn.v_proj", o = "self_attn.o_proj";
  std::string gate = "mlp.gate_proj", up = "mlp.up_proj", down = "mlp.down_proj";
  std::string router = "mlp.gate";
  std::string experts = "mlp.switch_mlp";   // stacked, the MLX layout: <experts>.{gate,up,down}_proj.weight [experts, out, in]
  std::string hf_experts = "mlp.experts";   // Hugging Face: <hf_experts>.N.gate_proj.weight or <hf_experts>.gate_up_proj
};

struct LayerSpec {
  AttentionSpec attention;
  ShortConvSpec short_conv;
  int64_t intermediate_size = 0;  // of the dense MLP; 0: only experts
  Activation activation = Activation::kSilu;
  bool mlp_bias = false;
  bool post_norms = false;     // Gemma: norms after attention and after the MLP too
  MoeSpec moe;
  int64_t per_layer_input_size = 0;  // Gemma 4: gated input from the per-layer embeddings after the MLP; 0: none
  bool layer_scalar = false;         // Gemma 4: the block's output is multiplied by one number
  std::string prefix;          // "model.layers.3."
  BlockNames names;

  bool has_attention() const { return short_conv.kernel == 0; }
};

struct DecoderSpec {
  std::string model_type;
  int64_t hidden_size = 0;
  int64_t vocab_size = 0;
  int64_t max_position_embeddings = 0;
  float rms_norm_eps = 1e-6f;
  float norm_weight_offset = 0;   // Gemma 1-3: the norm multiplies by (1 + w)
  float embedding_scale = 1;      // Gemma: sqrt(hidden_size)
  float final_logit_softcapping = 0;  // 0: none
  bool tie_word_embeddings = true;
  // Gemma 4's per-layer embeddings: a second table [vocab_size_per_layer_input, layers * per_layer_input_size]; 0: none.
  int64_t per_layer_input_size = 0;
  int64_t vocab_size_per_layer_input = 0;
  std::vector<RopeSpec> ropes;
  std::vector<LayerSpec> layers;
  std::string embed_path = "model.embed_tokens";  // module paths in the MLX layout
  std::string norm_path = "model.norm";
  std::string head_path = "lm_head";              // used when not tied
  std::string per_layer_embed_path, per_layer_projection_path, per_layer_norm_path;
  // Tensors under these names are for images and sound; a text model leaves them out.
  std::vector<std::string> tower_prefixes;

  int num_layers() const { return static_cast<int>(layers.size()); }
  int64_t per_layer_width() const { return per_layer_input_size * num_layers(); }

  enum class ModuleKind { kLinear, kEmbedding, kPerLayerEmbedding, kPerLayerProjection, kRouter, kExperts, kHead };
  // A weight that can be quantized: a matrix [out, in], or a stack of them [experts, out, in] with one format for all.
  struct Module {
    std::string path;  // MLX module path
    int64_t out = 0, in = 0;
    int block = 0;  // -1: before the first block; layer index; number of layers: the head
    ModuleKind kind = ModuleKind::kLinear;
    int64_t experts = 0;  // 0: not stacked
    int64_t experts_per_token = 0;
    // Weights that one token is multiplied with.
    double active_weights() const { return static_cast<double>(out) * in * (experts > 0 ? experts_per_token : 1); }
    uint64_t params() const { return static_cast<uint64_t>(rows()) * in; }
    int64_t rows() const { return (experts > 0 ? experts : 1) * out; }
    std::vector<int64_t> shape() const {
      return experts > 0 ? std::vector<int64_t>{experts, out, in} : std::vector<int64_t>{out, in};
    }
  };
  // In model order: embeddings, layers, untied head.
  std::vector<Module> QuantizableModules() const;
};

// Reads config.json. Unknown model_type: kUnimplemented that lists the known ones. Missing, absurd or contradictory numbers:
// kInvalidArgument that names the field. `what` names the file in errors.
StatusOr<DecoderSpec> ParseDecoderSpec(const Json& config, std::string_view what);

// The model_types that ParseDecoderSpec knows.
std::vector<std::string> KnownModelTypes();

}  // namespace optiq

#endif  // OPTIQ_MODEL_DECODER_SPEC_H_
