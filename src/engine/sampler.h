// From logits to a token, in the order and with the meaning of mlx-lm 0.32 (mlx_lm/sample_utils.py):
//   logits -> suppressed tokens -> logit_bias -> repetition -> presence -> frequency penalty
//   -> logprobs = logits - logsumexp(logits)
//   -> temperature 0: argmax; else top_p -> min_p -> xtc -> top_k -> draw from softmax(logprobs / temperature).
// The filters see probabilities at temperature 1; the temperature comes last.
#ifndef OPTIQ_ENGINE_SAMPLER_H_
#define OPTIQ_ENGINE_SAMPLER_H_

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "base/status.h"
#include "engine/random.h"

namespace optiq {

struct SamplingParams {
  double temperature = 0;          // 0: the most likely token (the lowest id among equals); the filters are not used
  double top_p = 0;                // used when 0 < top_p < 1
  double min_p = 0;                // 0: off
  int64_t min_tokens_to_keep = 1;  // min_p removes none of the most likely ones
  int64_t top_k = 0;               // 0, or at least the vocabulary: off
  double xtc_probability = 0;
  double xtc_threshold = 0.1;
  std::vector<int32_t> xtc_special_tokens;  // never removed by xtc: line breaks and ends of text

  std::vector<int32_t> suppress_tokens;               // never sampled (generation_config.json; not part of mlx-lm)
  std::vector<std::pair<int32_t, float>> logit_bias;  // added; ids may repeat
  // 0: off. The contexts are the last tokens of the sequence, prompt included; 0 means all of it.
  double repetition_penalty = 0;
  int64_t repetition_context = 20;
  double presence_penalty = 0;
  int64_t presence_context = 20;
  double frequency_penalty = 0;
  int64_t frequency_context = 20;

  uint64_t seed = 0;
};

// kInvalidArgument that names the parameter and the allowed range.
Status ValidateSampling(const SamplingParams& params, int64_t vocab_size);

// The steps, each in place on a row of [vocab_size] f32. Removed tokens become -infinity. Parameters must be valid.
void ApplyLogitsProcessors(const SamplingParams& params, std::span<const int32_t> history, std::span<float> logits);
void ToLogprobs(std::span<float> logits);
// Keeps the most likely tokens until their mass reaches top_p of the total, and all that are equal to the last one
// kept.
void ApplyTopP(double top_p, std::span<float> logprobs);
// Keeps logprob >= max + log(min_p), and at least min_tokens_to_keep tokens.
void ApplyMinP(double min_p, int64_t min_tokens_to_keep, std::span<float> logprobs);
// Removes every token with a probability above the threshold but the least likely of them.
void ApplyXtc(double threshold, std::span<const int32_t> special_tokens, std::span<float> logprobs);
// Keeps exactly the k most likely (the lowest ids among equals).
void ApplyTopK(int64_t k, std::span<float> logprobs);
int32_t ArgMax(std::span<const float> values);
// Inverse of the cumulative distribution of softmax(logprobs / temperature), in order of ids, at u in [0, 1).
int32_t Categorical(double temperature, double u, std::span<const float> logprobs);

class Sampler {
 public:
  // params must have passed ValidateSampling.
  explicit Sampler(SamplingParams params) : params_(std::move(params)) {}

  // The next token. `logits` [vocab_size] is scratch afterwards; `history` is the sequence so far. The random numbers
  // depend on the seed and on how many calls came before, on nothing else. kInvalidArgument when a penalty or bias made
  // the logits infinite or not a number.
  StatusOr<int32_t> Sample(std::span<const int32_t> history, std::span<float> logits);

 private:
  SamplingParams params_;
  uint64_t step_ = 0;
};

}  // namespace optiq

#endif  // OPTIQ_ENGINE_SAMPLER_H_
