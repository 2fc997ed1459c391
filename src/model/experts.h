// Finding the experts of a layer in a checkpoint, in any of the layouts that are in use.
#ifndef OPTIQ_MODEL_EXPERTS_H_
#define OPTIQ_MODEL_EXPERTS_H_

#include <string>

#include "base/status.h"
#include "io/checkpoint.h"
#include "model/block_layout.h"
#include "model/decoder_spec.h"
#include "model/weights.h"

namespace optiq {

enum class ExpertLayout {
  kStacked,      // mlx-lm: <experts>.gate_proj.weight [experts, out, in], dense or quantized
  kFusedGateUp,  // transformers 5: <hf_experts>.gate_up_proj [experts, 2 out, in] (gate rows first), .down_proj; bare
                 // parameters
  kOneByOne,     // transformers 4: <hf_experts>.N.gate_proj.weight
};
const char* ExpertLayoutName(ExpertLayout layout);

// Identifies the layout from the tensors. kNotFound when there are none, kDataLoss when two are mixed or the number of
// experts is not the config's.
StatusOr<ExpertLayout> FindExpertLayout(const Checkpoint& checkpoint, const LayerSpec& layer);

// One projection of all experts. Errors name the tensor.
StatusOr<ExpertWeights> LoadExperts(const Checkpoint& checkpoint, const LayerSpec& layer, const ExpertsEntry& entry);

}  // namespace optiq

#endif  // OPTIQ_MODEL_EXPERTS_H_
