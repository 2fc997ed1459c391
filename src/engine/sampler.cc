#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "kernels/vector.h"

namespace optiq {
namespace {

constexpr float kRemoved = -std::numeric_limits<float>::infinity();

std::span<const int32_t> LastTokens(std::span<const int32_t> history, int64_t context) {
  const size_t n = static_cast<size_t>(context);
  return context > 0 && n < history.size() ? history.last(n) : history;
}

// The ids of the context, each once.
std::vector<int32_t> DistinctLastTokens(std::span<const int32_t> history, int64_t context) {
  const auto tokens = LastTokens(history, context);
  std::vector<int32_t> ids(tokens.begin(), tokens.end());
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

// The k-th largest value, k in [1, size].
float KthLargest(std::span<const float> values, int64_t k) {
  std::vector<float> copy(values.begin(), values.end());
  std::nth_element(copy.begin(), copy.begin() + (k - 1), copy.end(), std::greater<float>());
  return copy[k - 1];
}

Status CheckRange(const char* name, double value, double min, double max) {
  if (value >= min && value <= max) return OkStatus();  // false for NaN
  return InvalidArgument("{} is {}; it must be between {} and {}", name, value, min, max);
}

Status CheckIds(const char* name, std::span<const int32_t> ids, int64_t vocab_size) {
  for (int32_t id : ids) {
    if (id < 0 || id >= vocab_size) {
      return InvalidArgument("{}: token {} is not in the vocabulary of {}", name, id, vocab_size);
    }
  }
  return OkStatus();
}

}  // namespace

Status ValidateSampling(const SamplingParams& p, int64_t vocab_size) {
  RETURN_IF_ERROR(CheckRange("temperature", p.temperature, 0, 1e6));
  RETURN_IF_ERROR(CheckRange("top_p", p.top_p, 0, 1));
  RETURN_IF_ERROR(CheckRange("min_p", p.min_p, 0, 1));
  RETURN_IF_ERROR(CheckRange("min_tokens_to_keep", p.min_tokens_to_keep, 1, vocab_size));
  RETURN_IF_ERROR(CheckRange("top_k", p.top_k, 0, std::numeric_limits<int32_t>::max()));
  RETURN_IF_ERROR(CheckRange("xtc_probability", p.xtc_probability, 0, 1));
  RETURN_IF_ERROR(CheckRange("xtc_threshold", p.xtc_threshold, 0, 0.5));
  RETURN_IF_ERROR(CheckRange("repetition_penalty", p.repetition_penalty, 0, 1e6));
  RETURN_IF_ERROR(CheckRange("presence_penalty", p.presence_penalty, -1e6, 1e6));
  RETURN_IF_ERROR(CheckRange("frequency_penalty", p.frequency_penalty, -1e6, 1e6));
  for (int64_t context : {p.repetition_context, p.presence_context, p.frequency_context}) {
    RETURN_IF_ERROR(CheckRange("the context of a penalty", context, 0, std::numeric_limits<int32_t>::max()));
  }
  RETURN_IF_ERROR(CheckIds("xtc_special_tokens", p.xtc_special_tokens, vocab_size));
  RETURN_IF_ERROR(CheckIds("suppress_tokens", p.suppress_tokens, vocab_size));
  for (const auto& [id, bias] : p.logit_bias) {
    RETURN_IF_ERROR(CheckIds("logit_bias", {&id, 1}, vocab_size));
    RETURN_IF_ERROR(CheckRange("a logit_bias", bias, -1e6, 1e6));
  }
  return OkStatus();
}

void ApplyLogitsProcessors(const SamplingParams& p, std::span<const int32_t> history, std::span<float> logits) {
  for (int32_t id : p.suppress_tokens) logits[id] = kRemoved;
  for (const auto& [id, bias] : p.logit_bias) logits[id] += bias;
  if (p.repetition_penalty != 0) {
    const float penalty = static_cast<float>(p.repetition_penalty);
    for (int32_t id : DistinctLastTokens(history, p.repetition_context)) {
      logits[id] = logits[id] < 0 ? logits[id] * penalty : logits[id] / penalty;
    }
  }
  if (p.presence_penalty != 0) {
    const float penalty = static_cast<float>(p.presence_penalty);
    for (int32_t id : DistinctLastTokens(history, p.presence_context)) logits[id] -= penalty;
  }
  if (p.frequency_penalty != 0) {
    const float penalty = static_cast<float>(p.frequency_penalty);
    for (int32_t id : LastTokens(history, p.frequency_context)) logits[id] -= penalty;
  }
}

void ToLogprobs(std::span<float> logits) {
  const float max = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float x : logits) sum += std::exp(x - max);
  const float logsumexp = static_cast<float>(max + std::log(sum));
  for (float& x : logits) x -= logsumexp;
}

void ApplyTopP(double top_p, std::span<float> logprobs) {
  struct Entry {
    float logprob, prob;
  };
  std::vector<Entry> entries(logprobs.size());
  double total = 0;
  for (size_t i = 0; i < logprobs.size(); ++i) {
    entries[i] = {logprobs[i], std::exp(logprobs[i])};
    total += entries[i].prob;
  }
  // A selection by weight: halve the range that holds the first rank, in falling order, at which the mass reaches the
  // target.
  const double target = top_p * total;
  double mass_above = 0;
  auto begin = entries.begin(), end = entries.end();
  while (end - begin > 1) {
    auto middle = begin + (end - begin) / 2;
    std::nth_element(begin, middle, end, [](const Entry& a, const Entry& b) { return a.logprob > b.logprob; });
    double mass = mass_above;
    for (auto it = begin; it != middle; ++it) mass += it->prob;
    if (mass >= target) {
      end = middle;
    } else {
      mass_above = mass;
      begin = middle;
    }
  }
  const float threshold = begin->logprob;
  for (float& x : logprobs) {
    if (x < threshold) x = kRemoved;
  }
}

void ApplyMinP(double min_p, int64_t min_tokens_to_keep, std::span<float> logprobs) {
  const float max = *std::max_element(logprobs.begin(), logprobs.end());
  float threshold = max + static_cast<float>(std::log(min_p));
  if (min_tokens_to_keep > 1) {
    const int64_t keep = std::min<int64_t>(min_tokens_to_keep, logprobs.size());
    if (const float kth = KthLargest(logprobs, keep); kth < threshold) {
      ApplyTopK(keep, logprobs);
      return;
    }
  }
  for (float& x : logprobs) {
    if (x < threshold) x = kRemoved;
  }
}

void ApplyXtc(double threshold, std::span<const int32_t> special_tokens, std::span<float> logprobs) {
  const float max = *std::max_element(logprobs.begin(), logprobs.end());
  double sum = 0;
  for (float x : logprobs) sum += std::exp(x - max);
  const auto prob = [&](float x) { return static_cast<float>(std::exp(x - max) / sum); };
  float least = std::numeric_limits<float>::infinity();  // the least likely of the tokens above the threshold
  for (float x : logprobs) {
    if (const float p = prob(x); p > static_cast<float>(threshold)) least = std::min(least, p);
  }
  std::vector<std::pair<int32_t, float>> kept;
  for (int32_t id : special_tokens) kept.emplace_back(id, logprobs[id]);
  for (float& x : logprobs) {
    if (prob(x) > least) x = kRemoved;
  }
  for (const auto& [id, logprob] : kept) logprobs[id] = logprob;
}

void ApplyTopK(int64_t k, std::span<float> logprobs) {
  if (k <= 0 || k >= static_cast<int64_t>(logprobs.size())) return;
  const float threshold = KthLargest(logprobs, k);
  int64_t equal_to_keep = k;
  for (float x : logprobs) equal_to_keep -= x > threshold;
  for (float& x : logprobs) {
    if (x < threshold || (x == threshold && equal_to_keep-- <= 0)) x = kRemoved;
  }
}

int32_t ArgMax(std::span<const float> values) {
  const float max = MaxRow(values.data(), static_cast<int64_t>(values.size()));
  return static_cast<int32_t>(std::find(values.begin(), values.end(), max) - values.begin());
}

int32_t Categorical(double temperature, double u, std::span<const float> logprobs) {
  const double max = *std::max_element(logprobs.begin(), logprobs.end());
  const auto weight = [&](float x) { return x == kRemoved ? 0.0 : std::exp((x - max) / temperature); };
  double total = 0;
  for (float x : logprobs) total += weight(x);
  const double target = u * total;
  double cumulative = 0;
  int32_t last = 0;
  for (size_t i = 0; i < logprobs.size(); ++i) {
    const double w = weight(logprobs[i]);
    if (w == 0) continue;
    last = static_cast<int32_t>(i);
    cumulative += w;
    if (cumulative > target) return last;
  }
  return last;  // only when rounding leaves the sum at the target
}

StatusOr<int32_t> Sampler::Sample(std::span<const int32_t> history, std::span<float> logits) {
  RandomStream random(params_.seed, step_++);
  ApplyLogitsProcessors(params_, history, logits);
  const int64_t n = static_cast<int64_t>(logits.size());
  if (!IsBelowInfinityRow(logits.data(), n)) {
    return InvalidArgument("sampling: the logits are not finite; a penalty or bias is too large");
  }
  if (MaxRow(logits.data(), n) == kRemoved) {
    return InvalidArgument("sampling: every token is suppressed; none is left to choose from");
  }
  // The largest logit is the largest logprob.
  if (params_.temperature == 0) return ArgMax(logits);
  ToLogprobs(logits);
  if (params_.top_p > 0 && params_.top_p < 1) ApplyTopP(params_.top_p, logits);
  if (params_.min_p != 0) ApplyMinP(params_.min_p, params_.min_tokens_to_keep, logits);
  if (params_.xtc_probability > 0 && random.NextDouble() <= params_.xtc_probability) {
    ApplyXtc(params_.xtc_threshold, params_.xtc_special_tokens, logits);
  }
  if (params_.top_k > 0) ApplyTopK(params_.top_k, logits);
  return Categorical(params_.temperature, random.NextDouble(), logits);
}

}  // namespace optiq
