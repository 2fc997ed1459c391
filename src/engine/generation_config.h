// generation_config.json: where a text ends and how the model's makers sample from it.
#ifndef OPTIQ_ENGINE_GENERATION_CONFIG_H_
#define OPTIQ_ENGINE_GENERATION_CONFIG_H_

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/status.h"
#include "engine/sampler.h"
#include "io/checkpoint.h"
#include "text/tokenizer.h"

namespace optiq {

struct GenerationConfig {
  std::optional<std::vector<int32_t>> eos_token_ids;
  bool do_sample = false;
  std::optional<double> temperature, top_p, min_p, repetition_penalty;
  std::optional<int64_t> top_k;
  std::vector<int32_t> suppress_tokens;

  // The sampling the file asks for: greedy unless do_sample, then its values; a temperature that is not given is 1,
  // other values that are not given are off.
  SamplingParams ToSampling() const;
};

// kInvalidArgument names the field. `what` names the file.
StatusOr<GenerationConfig> ParseGenerationConfig(const Json& json, std::string_view what);
// An empty config when the model has no such file.
StatusOr<GenerationConfig> LoadGenerationConfig(const Checkpoint& checkpoint);

// The ids that end a text: generation_config.json's, else config.json's (also inside text_config); and the tokenizer's
// eos token (may be null). Sorted.
StatusOr<std::vector<int32_t>> EndOfTextIds(const GenerationConfig& generation, const Json& config,
                                            std::string_view what, const Tokenizer* tokenizer);

}  // namespace optiq

#endif  // OPTIQ_ENGINE_GENERATION_CONFIG_H_
