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
  WeightMatrix matrix;
  std::vector<float> bias;  // empty: none
  const float* bias_data() const { return bias.empty() ? nullptr : bias.data(); }
};

// Norm weights with norm_weight_offset added; empty when the architecture has no such norm.
struct BlockWeights {
  std::vector<float> input_norm, post_attention_norm, pre_feedforward_norm, post_feedforward_norm, q_norm, k_norm;
  LinearWeights q, k, v, o, gate, up, down;

  // The seven matrices in model order.
  std::vector<LinearWeights*> linears() { return {&q, &k, &v, &o, &gate, &up, &down}; }
  std::vector<const LinearWeights*> linears() const { return {&q, &k, &v, &o, &gate, &up, &down}; }
};

struct DecoderWeights {
  WeightMatrix embedding;  // [vocab_size, hidden_size]
  std::vector<BlockWeights> blocks;
  std::vector<float> final_norm;
  WeightMatrix head;       // the embedding when tied
};

// Errors name the tensor that is missing or has another shape than config.json says.
StatusOr<BlockWeights> LoadBlockWeights(const Checkpoint& checkpoint, const DecoderSpec& spec, int layer);
StatusOr<std::vector<float>> LoadNorm(const Checkpoint& checkpoint, const DecoderSpec& spec, const std::string& path,
                                      int64_t size);
StatusOr<WeightMatrix> LoadEmbedding(const Checkpoint& checkpoint, const DecoderSpec& spec);
StatusOr<WeightMatrix> LoadHead(const Checkpoint& checkpoint, const DecoderSpec& spec);
StatusOr<DecoderWeights> LoadDecoderWeights(const Checkpoint& checkpoint, const DecoderSpec& spec);

}  // namespace optiq

#endif  // OPTIQ_MODEL_WEIGHTS_H_
