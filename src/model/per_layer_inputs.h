// Gemma 4's per-layer embeddings: every block gets an input of its own that depends on the token (a row of a second table) and on
// the token's ordinary embedding (a projection).
#ifndef OPTIQ_MODEL_PER_LAYER_INPUTS_H_
#define OPTIQ_MODEL_PER_LAYER_INPUTS_H_

#include <cstdint>
#include <span>

#include "base/thread_pool.h"
#include "model/decoder_spec.h"
#include "model/weights.h"
#include "ops/linear.h"

namespace optiq {

// Inputs of layers [first, last) for some tokens: out f32 [ids.size(), (last - first) * P] with P = per_layer_input_size;
//   (norm(projection h / sqrt(d)) + sqrt(P) table[id]) / sqrt(2),
// h [ids.size(), hidden_size]: the scaled embeddings. Ids must be within the table.
void PerLayerInputs(const DecoderSpec& spec, const PerLayerWeights& w, std::span<const int32_t> ids, const float* h, int first,
                    int last, float* out, ThreadPool* pool, Products products = Products::kF32);

}  // namespace optiq

#endif  // OPTIQ_MODEL_PER_LAYER_INPUTS_H_
