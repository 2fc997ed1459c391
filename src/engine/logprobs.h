// Log-probabilities of raw logits.
#ifndef OPTIQ_ENGINE_LOGPROBS_H_
#define OPTIQ_ENGINE_LOGPROBS_H_

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "engine/engine.h"

namespace optiq {

// log(sum(exp(logits))), summed in double.
double LogSumExp(std::span<const float> logits);
// `id` and the `top` most likely tokens, ties by lower id. Not below -9999: JSON has no infinity.
TokenLogprobs LogprobsOf(std::span<const float> logits, int32_t id, int top);

}  // namespace optiq

#endif  // OPTIQ_ENGINE_LOGPROBS_H_
