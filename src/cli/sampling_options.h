// The sampling options that generate and chat share.
#ifndef OPTIQ_CLI_SAMPLING_OPTIONS_H_
#define OPTIQ_CLI_SAMPLING_OPTIONS_H_

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"
#include "engine/generation_config.h"
#include "engine/sampler.h"

namespace optiq {

// "5=-1.5" -> {5, -1.5}.
StatusOr<std::pair<int32_t, float>> ParseLogitBias(std::string_view text);

struct SamplingOptions {
  // "model": generation_config.json's values; "greedy"; empty: model, but greedy with --temp 0.
  std::string preset;
  std::optional<double> temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
  std::optional<int64_t> top_k;
  std::optional<uint64_t> seed;
  std::vector<std::string> logit_bias;

  void AddTo(CLI::App* app);
  // The preset with the options that were given in place of its values. A seed is drawn when none is given. `model`
  // names the model in errors.
  StatusOr<SamplingParams> ToParams(const GenerationConfig& generation, int64_t vocab_size,
                                    std::string_view model) const;
};

}  // namespace optiq

#endif  // OPTIQ_CLI_SAMPLING_OPTIONS_H_
