#include "model/routing.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace optiq {

void ChooseExperts(const float* logits, const MoeSpec& spec, int32_t* experts) {
  thread_local std::vector<int32_t> order;
  order.resize(spec.num_experts);
  std::iota(order.begin(), order.end(), 0);
  const auto k = order.begin() + spec.experts_per_token;
  std::partial_sort(order.begin(), k, order.end(),
                    [&](int32_t a, int32_t b) { return logits[a] > logits[b] || (logits[a] == logits[b] && a < b); });
  std::copy(order.begin(), k, experts);
  std::sort(experts, experts + spec.experts_per_token);
}

void RoutingWeights(const float* logits, const MoeSpec& spec, const std::vector<float>& per_expert_scale,
                    const int32_t* experts, float* weights) {
  const int64_t k = spec.experts_per_token;
  float max = logits[0];
  for (int64_t e = 1; e < spec.num_experts; ++e) max = std::max(max, logits[e]);
  float sum = 0;
  for (int64_t s = 0; s < k; ++s) {
    weights[s] = std::exp(logits[experts[s]] - max);
    sum += weights[s];
  }
  if (!spec.renormalize) {
    sum = 0;
    for (int64_t e = 0; e < spec.num_experts; ++e) sum += std::exp(logits[e] - max);
  }
  for (int64_t s = 0; s < k; ++s) {
    weights[s] /= sum;
    if (!per_expert_scale.empty()) weights[s] *= per_expert_scale[experts[s]];
  }
}

}  // namespace optiq
