#include "model/weights.h"

namespace optiq {
namespace {

StatusOr<std::vector<float>> LoadVector(const Checkpoint& checkpoint, const std::string& name, int64_t size) {
  ASSIGN_OR_RETURN(const StoredTensor* tensor, checkpoint.Require(name));
  if (tensor->shape != std::vector<int64_t>{size}) {
    return DataLoss("{}: tensor '{}' has shape {}, but config.json asks for [{}]", checkpoint.path(), name,
                    tensor->ShapeString(), size);
  }
  return ReadVector(*tensor);
}

StatusOr<LinearWeights> LoadLinear(const Checkpoint& checkpoint, const std::string& path, int64_t out, int64_t in,
                                   bool bias) {
  LinearWeights w;
  ASSIGN_OR_RETURN(w.matrix, LoadWeightMatrix(checkpoint, path, out, in));
  if (bias) {
    ASSIGN_OR_RETURN(w.bias, LoadVector(checkpoint, path + ".bias", out));
  }
  return w;
}

}  // namespace

StatusOr<std::vector<float>> LoadNorm(const Checkpoint& checkpoint, const DecoderSpec& spec, const std::string& path,
                                      int64_t size) {
  ASSIGN_OR_RETURN(std::vector<float> w, LoadVector(checkpoint, path + ".weight", size));
  for (float& v : w) v += spec.norm_weight_offset;
  return w;
}

StatusOr<BlockWeights> LoadBlockWeights(const Checkpoint& checkpoint, const DecoderSpec& spec, int layer) {
  const LayerSpec& l = spec.layers[layer];
  const AttentionSpec& a = l.attention;
  const int64_t d = spec.hidden_size, q_out = a.num_attention_heads * a.head_dim;
  const int64_t kv_out = a.num_key_value_heads * a.head_dim;
  BlockWeights w;
  ASSIGN_OR_RETURN(w.input_norm, LoadNorm(checkpoint, spec, l.prefix + "input_layernorm", d));
  ASSIGN_OR_RETURN(w.post_attention_norm, LoadNorm(checkpoint, spec, l.prefix + "post_attention_layernorm", d));
  if (l.post_norms) {
    ASSIGN_OR_RETURN(w.pre_feedforward_norm, LoadNorm(checkpoint, spec, l.prefix + "pre_feedforward_layernorm", d));
    ASSIGN_OR_RETURN(w.post_feedforward_norm, LoadNorm(checkpoint, spec, l.prefix + "post_feedforward_layernorm", d));
  }
  if (a.qk_norm) {
    ASSIGN_OR_RETURN(w.q_norm, LoadNorm(checkpoint, spec, l.prefix + "self_attn.q_norm", a.head_dim));
    ASSIGN_OR_RETURN(w.k_norm, LoadNorm(checkpoint, spec, l.prefix + "self_attn.k_norm", a.head_dim));
  }
  const std::string attn = l.prefix + "self_attn.", mlp = l.prefix + "mlp.";
  ASSIGN_OR_RETURN(w.q, LoadLinear(checkpoint, attn + "q_proj", q_out, d, a.qkv_bias));
  ASSIGN_OR_RETURN(w.k, LoadLinear(checkpoint, attn + "k_proj", kv_out, d, a.qkv_bias));
  ASSIGN_OR_RETURN(w.v, LoadLinear(checkpoint, attn + "v_proj", kv_out, d, a.qkv_bias));
  ASSIGN_OR_RETURN(w.o, LoadLinear(checkpoint, attn + "o_proj", d, q_out, a.o_bias));
  ASSIGN_OR_RETURN(w.gate, LoadLinear(checkpoint, mlp + "gate_proj", l.intermediate_size, d, l.mlp_bias));
  ASSIGN_OR_RETURN(w.up, LoadLinear(checkpoint, mlp + "up_proj", l.intermediate_size, d, l.mlp_bias));
  ASSIGN_OR_RETURN(w.down, LoadLinear(checkpoint, mlp + "down_proj", d, l.intermediate_size, l.mlp_bias));
  return w;
}

StatusOr<WeightMatrix> LoadEmbedding(const Checkpoint& checkpoint, const DecoderSpec& spec) {
  return LoadWeightMatrix(checkpoint, spec.embed_path, spec.vocab_size, spec.hidden_size);
}

StatusOr<WeightMatrix> LoadHead(const Checkpoint& checkpoint, const DecoderSpec& spec) {
  if (spec.tie_word_embeddings) return LoadEmbedding(checkpoint, spec);
  return LoadWeightMatrix(checkpoint, spec.head_path, spec.vocab_size, spec.hidden_size);
}

StatusOr<DecoderWeights> LoadDecoderWeights(const Checkpoint& checkpoint, const DecoderSpec& spec) {
  DecoderWeights w;
  ASSIGN_OR_RETURN(w.embedding, LoadEmbedding(checkpoint, spec));
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    ASSIGN_OR_RETURN(BlockWeights block, LoadBlockWeights(checkpoint, spec, static_cast<int>(i)));
    w.blocks.push_back(std::move(block));
  }
  ASSIGN_OR_RETURN(w.final_norm, LoadNorm(checkpoint, spec, spec.norm_path, spec.hidden_size));
  ASSIGN_OR_RETURN(w.head, LoadHead(checkpoint, spec));
  return w;
}

}  // namespace optiq
