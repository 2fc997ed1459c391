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
  int rope = -1;               // index into DecoderSpec::ropes; -1: none
};

struct LayerSpec {
  AttentionSpec attention;
  int64_t intermediate_size = 0;
  Activation activation = Activation::kSilu;
  bool mlp_bias = false;
  bool post_norms = false;     // Gemma: norms after attention and after the MLP too
  std::string prefix;          // "model.layers.3."
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
  std::vector<RopeSpec> ropes;
  std::vector<LayerSpec> layers;
  std::string embed_path = "model.embed_tokens";  // module paths in the MLX layout
  std::string norm_path = "model.norm";
  std::string head_path = "lm_head";              // used when not tied

  // Module path of every weight matrix that can be quantized, in model order: embedding, layers, untied head.
  struct Module {
    std::string path;
    int64_t out = 0, in = 0;
    int block = 0;  // -1 embedding, layer index, num layers for the head
  };
  std::vector<Module> QuantizableModules() const;
};

// Reads config.json. Unknown model_type: kUnimplemented that lists the known ones. Missing, absurd or contradictory numbers:
// kInvalidArgument that names the field. `what` names the file in errors.
StatusOr<DecoderSpec> ParseDecoderSpec(const Json& config, std::string_view what);

// The model_types that ParseDecoderSpec knows.
std::vector<std::string> KnownModelTypes();

}  // namespace optiq

#endif  // OPTIQ_MODEL_DECODER_SPEC_H_
