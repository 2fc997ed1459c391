// The weights of a decoder as views on a checkpoint; norms and biases are small and copied to f32.
#ifndef OPTIQ_MODEL_WEIGHTS_H_
#define OPTIQ_MODEL_WEIGHTS_H_

#include <vector>

#include "base/status.h"
#include "io/checkpoint.h"
#include "model/decoder_spec.h"
#include "tensor/weight_matrix.h"

namespace optiq {

struct LinearWeights {
  WeightMatrix matrix;  // no rows: the architecture has no such layer
  std::vector<float> bias;  // empty: none
  const float* bias_data() const { return bias.empty() ? nullptr : bias.data(); }
};

// One projection of all experts of a layer: [experts, out, in], one matrix per expert wherever each lies in the file.
struct ExpertWeights {
  std::string path;  // MLX module path
  int64_t out = 0, in = 0;
  std::vector<WeightMatrix> experts;
};

// Norm weights with norm_weight_offset added. Empty where the architecture has no such tensor; block_layout.cc says which there are.
struct BlockWeights {
  std::vector<float> input_norm, post_attention_norm, pre_feedforward_norm, post_feedforward_norm, q_norm, k_norm;
  std::vector<float> post_feedforward_norm_1, pre_feedforward_norm_2, post_feedforward_norm_2;
  std::vector<float> router_norm;       // router.scale / sqrt(hidden_size)
  std::vector<float> per_expert_scale;
  std::vector<float> post_per_layer_norm, layer_scalar;
  std::vector<float> conv, conv_bias;   // [hidden_size, kernel], [hidden_size]
  LinearWeights q, k, v, o, gate, up, down;
  LinearWeights router, shared_gate, shared_up, shared_down, shared_expert_gate;
  LinearWeights per_layer_gate, per_layer_projection, conv_in, conv_out;
  ExpertWeights expert_gate, expert_up, expert_down;

  // Every matrix that is there, in model order; experts one by one.
  struct Ref {
    WeightMatrix* matrix;
    int expert;  // -1: not of a stack
  };
  std::vector<Ref> refs();
  std::vector<const WeightMatrix*> matrices() const;
  // The parts of one module: one matrix, or one per expert. Empty when the block has no such module.
  std::vector<WeightMatrix> Find(const std::string& path) const;
};

// Gemma 4's per-layer embeddings (per_layer_inputs.h).
struct PerLayerWeights {
  WeightMatrix embedding;     // [vocab_size_per_layer_input, layers * per_layer_input_size]
  LinearWeights projection;   // [layers * per_layer_input_size, hidden_size]
  std::vector<float> norm;    // [per_layer_input_size]
};

struct DecoderWeights {
  WeightMatrix embedding;  // [vocab_size, hidden_size]
  PerLayerWeights per_layer;
  std::vector<BlockWeights> blocks;
  std::vector<float> final_norm;
  WeightMatrix head;       // the embedding when tied

  // Bytes of weights that one decoded token reads: of stacked experts only those that are routed to, of embedding tables one row.
  uint64_t BytesPerToken(const DecoderSpec& spec) const;
};

// Errors name the tensor that is missing or has another shape than config.json says.
StatusOr<BlockWeights> LoadBlockWeights(const Checkpoint& checkpoint, const DecoderSpec& spec, int layer);
StatusOr<std::vector<float>> LoadNorm(const Checkpoint& checkpoint, const DecoderSpec& spec, const std::string& path,
                                      int64_t size);
StatusOr<WeightMatrix> LoadEmbedding(const Checkpoint& checkpoint, const DecoderSpec& spec);
StatusOr<WeightMatrix> LoadHead(const Checkpoint& checkpoint, const DecoderSpec& spec);
StatusOr<PerLayerWeights> LoadPerLayerWeights(const Checkpoint& checkpoint, const DecoderSpec& spec);
StatusOr<DecoderWeights> LoadDecoderWeights(const Checkpoint& checkpoint, const DecoderSpec& spec);

// The matrices of one quantizable module in order: one, or one per expert. Together they are the rows of [rows(), in].
StatusOr<std::vector<WeightMatrix>> LoadModule(const Checkpoint& checkpoint, const DecoderSpec& spec,
                                               const DecoderSpec::Module& module);

// A quantization entry of config.json that names a module which neither the architecture nor the file has: kInvalidArgument.
Status CheckQuantizationPaths(const Checkpoint& checkpoint, const DecoderSpec& spec);

}  // namespace optiq

#endif  // OPTIQ_MODEL_WEIGHTS_H_
