#include "cli/sampling_options.h"

#include <charconv>

#include "engine/random.h"

namespace optiq {

StatusOr<std::pair<int32_t, float>> ParseLogitBias(std::string_view text) {
  const size_t equals = text.find('=');
  const std::string_view id_text = text.substr(0, equals);
  const std::string_view bias_text = equals == std::string_view::npos ? "" : text.substr(equals + 1);
  const auto parse = [](std::string_view s, auto* value) {
    const auto [end, error] = std::from_chars(s.data(), s.data() + s.size(), *value);
    return error == std::errc() && end == s.data() + s.size() && !s.empty();
  };
  int32_t id;
  float bias;
  if (!parse(id_text, &id) || !parse(bias_text, &bias)) {
    return InvalidArgument("--logit-bias {}: expected ID=VALUE, for example 42=-1.5", text);
  }
  return std::pair(id, bias);
}

void SamplingOptions::AddTo(CLI::App* app) {
  app->add_option("--sampling", preset, "model: as its generation_config.json says (default), or greedy (default with --temp 0)")
      ->check(CLI::IsMember({"greedy", "model"}))
      ->type_name("NAME");
  app->add_option("--temp", temperature, "Temperature; 0 is greedy and ignores top-p, top-k and min-p")->type_name("T");
  app->add_option("--top-p", top_p, "Keep the most likely tokens with this mass together")->type_name("P");
  app->add_option("--top-k", top_k, "Keep this many of the most likely tokens")->type_name("K");
  app->add_option("--min-p", min_p, "Keep tokens at least this likely, relative to the best")->type_name("P");
  app->add_option("--repetition-penalty", repetition_penalty, "Divide (multiply) logits of the last 20 tokens")
      ->type_name("X");
  app->add_option("--presence-penalty", presence_penalty, "Subtract from logits of the last 20 tokens")->type_name("X");
  app->add_option("--frequency-penalty", frequency_penalty, "The same for every occurrence")->type_name("X");
  app->add_option("--logit-bias", logit_bias, "Add to one token's logit; may be repeated")
      ->allow_extra_args(false)
      ->type_name("ID=X");
  app->add_option("--seed", seed, "Same seed, same text (default: drawn, and reported)")->type_name("N");
}

StatusOr<SamplingParams> SamplingOptions::ToParams(const GenerationConfig& generation, int64_t vocab_size,
                                                   std::string_view model) const {
  SamplingParams params;
  if (preset == "model" || (preset.empty() && temperature != 0.0)) {
    params = generation.ToSampling();
    if (const Status status = ValidateSampling(params, vocab_size); !status.ok()) {
      return Annotate(status, fmt::format("{}/generation_config.json", model));
    }
  }
  params.temperature = temperature.value_or(params.temperature);
  params.top_p = top_p.value_or(params.top_p);
  params.top_k = top_k.value_or(params.top_k);
  params.min_p = min_p.value_or(params.min_p);
  params.repetition_penalty = repetition_penalty.value_or(params.repetition_penalty);
  params.presence_penalty = presence_penalty.value_or(0);
  params.frequency_penalty = frequency_penalty.value_or(0);
  for (const std::string& text : logit_bias) {
    ASSIGN_OR_RETURN(const auto bias, ParseLogitBias(text));
    params.logit_bias.push_back(bias);
  }
  params.seed = seed ? *seed : RandomSeed();
  RETURN_IF_ERROR(ValidateSampling(params, vocab_size));
  return params;
}

}  // namespace optiq
