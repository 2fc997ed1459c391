// Choosing experts from a router's logits.
#ifndef OPTIQ_MODEL_ROUTING_H_
#define OPTIQ_MODEL_ROUTING_H_

#include <cstdint>
#include <vector>

#include "model/decoder_spec.h"

namespace optiq {

// The experts_per_token experts of one row with the greatest logits (ties: the lower index), in ascending order of
// index.
void ChooseExperts(const float* logits, const MoeSpec& spec, int32_t* experts);

// The weight of each chosen expert: its softmax probability over all experts, or over the chosen ones when
// renormalized; times per_expert_scale (empty: ones).
void RoutingWeights(const float* logits, const MoeSpec& spec, const std::vector<float>& per_expert_scale,
                    const int32_t* experts, float* weights);

}  // namespace optiq

#endif  // OPTIQ_MODEL_ROUTING_H_
