#include "server/sampling_fields.h"

#include <algorithm>
#include <charconv>
#include <random>

namespace optiq {

SamplingParams ReadSampling(Fields* fields, const App& app) {
  SamplingParams p = app.options.sampling;
  p.temperature = fields->Number("temperature", 0, 2).value_or(p.temperature);
  p.top_p = fields->Number("top_p", 0, 1).value_or(p.top_p);
  if (p.top_p >= 1) p.top_p = 0;  // off
  p.top_k = std::max<int64_t>(0, fields->Int("top_k", -1, INT32_MAX).value_or(p.top_k));
  p.min_p = fields->Number("min_p", 0, 1).value_or(p.min_p);
  p.repetition_penalty = fields->Number("repetition_penalty", 0, 10).value_or(p.repetition_penalty);
  p.repetition_context = fields->Int("repetition_context_size", 0, 1 << 20).value_or(p.repetition_context);
  p.presence_penalty = fields->Number("presence_penalty", -2, 2).value_or(p.presence_penalty);
  p.presence_context = fields->Int("presence_context_size", 0, 1 << 20).value_or(p.presence_context);
  p.frequency_penalty = fields->Number("frequency_penalty", -2, 2).value_or(p.frequency_penalty);
  p.frequency_context = fields->Int("frequency_context_size", 0, 1 << 20).value_or(p.frequency_context);
  p.xtc_probability = fields->Number("xtc_probability", 0, 1).value_or(p.xtc_probability);
  p.xtc_threshold = fields->Number("xtc_threshold", 0, 0.5).value_or(p.xtc_threshold);
  if (p.xtc_probability > 0) p.xtc_special_tokens = app.end_ids;
  if (const auto seed = fields->Int("seed", INT64_MIN, INT64_MAX)) {
    p.seed = static_cast<uint64_t>(*seed);
  } else {
    thread_local std::mt19937_64 random{std::random_device{}()};
    p.seed = random();
  }
  if (const OrderedJson* biases = fields->Object("logit_bias")) {
    if (biases->size() > kMaxBiases)
      fields->Fail("logit_bias", fmt::format("has {} entries; at most {} are taken", biases->size(), kMaxBiases));
    for (const auto& [key, value] : biases->items()) {
      int32_t id = -1;
      const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
      if (error != std::errc() || end != key.data() + key.size() || id < 0 || id >= app.vocab_size) {
        fields->Fail("logit_bias",
                     fmt::format("has the key '{}', which is no token id below {}", key.substr(0, 40), app.vocab_size),
                     "invalid_value");
        break;
      }
      if (!value.is_number() || !(value.get<double>() >= -100 && value.get<double>() <= 100)) {
        fields->Fail("logit_bias", fmt::format("must have numbers between -100 and 100 (token {})", id),
                     "invalid_value");
        break;
      }
      p.logit_bias.emplace_back(id, value.get<float>());
    }
  }
  return p;
}

int64_t ReadMaxTokens(Fields* fields, const App& app, std::initializer_list<const char*> names, int64_t min) {
  std::optional<int64_t> value;
  for (const char* name : names) {
    const std::optional<int64_t> v = fields->Int(name, min, int64_t{1} << 40);
    if (!value) value = v;
  }
  return value.value_or(app.options.max_tokens);
}

std::optional<ApiError> FitContext(const App& app, size_t prompt_tokens, const char* param, int64_t* max_tokens) {
  const int64_t context = app.engine->options().context_length;
  const auto prompt = static_cast<int64_t>(prompt_tokens);
  if (context <= 0) return std::nullopt;
  if (prompt + (*max_tokens > 0 ? 1 : 0) > context) {
    return ApiError{400,
                    fmt::format("the prompt has {} tokens, but the model's context length here is {}", prompt, context),
                    param, "context_length_exceeded"};
  }
  *max_tokens = std::min(*max_tokens, context - prompt);
  return std::nullopt;
}

}  // namespace optiq
