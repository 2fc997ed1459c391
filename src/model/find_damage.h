// Which weight makes a model's results not finite.
#ifndef OPTIQ_MODEL_FIND_DAMAGE_H_
#define OPTIQ_MODEL_FIND_DAMAGE_H_

#include <string>

#include "model/weights.h"

namespace optiq {

// Reads all weights. A line that names the first tensor with a NaN or an infinity ("'model.layers.3.mlp.up_proj' holds ..., row
// 12"), or one that says that there is none. For error messages after the fact.
std::string DescribeDamage(const DecoderWeights& weights);

}  // namespace optiq

#endif  // OPTIQ_MODEL_FIND_DAMAGE_H_
