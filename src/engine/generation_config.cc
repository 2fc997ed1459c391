#include "engine/generation_config.h"

#include <algorithm>
#include <limits>

namespace optiq {
namespace {

constexpr size_t kMaxIds = 65536;

// An id, or a list of ids; nullopt when missing or null.
StatusOr<std::optional<std::vector<int32_t>>> GetIds(const Json& object, const char* key, std::string_view what) {
  if (!object.is_object()) return std::nullopt;
  const auto field = object.find(key);
  if (field == object.end() || field->is_null()) return std::nullopt;
  const Json list = field->is_array() ? *field : Json::array({*field});
  if (list.size() > kMaxIds)
    return InvalidArgument("{}: field '{}' has {} ids; at most {}", what, key, list.size(), kMaxIds);
  std::vector<int32_t> ids;
  for (const Json& item : list) {
    // Through uint64: a negative number has another JSON type and is refused.
    if (!item.is_number_unsigned() || item.get<uint64_t>() > std::numeric_limits<int32_t>::max()) {
      return InvalidArgument("{}: field '{}' must be a token id or a list of token ids", what, key);
    }
    ids.push_back(static_cast<int32_t>(item.get<uint64_t>()));
  }
  return std::optional(std::move(ids));
}

}  // namespace

SamplingParams GenerationConfig::ToSampling() const {
  SamplingParams params;
  params.suppress_tokens = suppress_tokens;
  params.repetition_penalty = repetition_penalty.value_or(0);
  if (!do_sample) return params;
  params.temperature = temperature.value_or(1);
  params.top_p = top_p.value_or(0);
  params.min_p = min_p.value_or(0);
  params.top_k = top_k.value_or(0);
  return params;
}

StatusOr<GenerationConfig> ParseGenerationConfig(const Json& json, std::string_view what) {
  if (!json.is_object()) return InvalidArgument("{}: must be a JSON object", what);
  GenerationConfig config;
  ASSIGN_OR_RETURN(config.eos_token_ids, GetIds(json, "eos_token_id", what));
  ASSIGN_OR_RETURN(std::optional<bool> do_sample, GetBool(json, "do_sample", what));
  config.do_sample = do_sample.value_or(false);
  ASSIGN_OR_RETURN(config.temperature, GetDouble(json, "temperature", what));
  ASSIGN_OR_RETURN(config.top_p, GetDouble(json, "top_p", what));
  ASSIGN_OR_RETURN(config.min_p, GetDouble(json, "min_p", what));
  ASSIGN_OR_RETURN(config.top_k, GetInt(json, "top_k", what));
  ASSIGN_OR_RETURN(config.repetition_penalty, GetDouble(json, "repetition_penalty", what));
  ASSIGN_OR_RETURN(auto suppress, GetIds(json, "suppress_tokens", what));
  config.suppress_tokens = std::move(suppress).value_or(std::vector<int32_t>());
  SamplingParams ranges = config.ToSampling();
  ranges.suppress_tokens.clear();  // checked against the vocabulary when they are used
  const Status status = ValidateSampling(ranges, std::numeric_limits<int32_t>::max());
  if (!status.ok()) return Annotate(status, what);
  return config;
}

StatusOr<GenerationConfig> LoadGenerationConfig(const Checkpoint& checkpoint) {
  static constexpr char kName[] = "generation_config.json";
  if (!checkpoint.HasTextFile(kName)) return GenerationConfig{};
  const std::string what = fmt::format("{}/{}", checkpoint.path(), kName);
  ASSIGN_OR_RETURN(std::string text, checkpoint.ReadTextFile(kName));
  ASSIGN_OR_RETURN(Json json, ParseJson(text, what));
  return ParseGenerationConfig(json, what);
}

StatusOr<std::vector<int32_t>> EndOfTextIds(const GenerationConfig& generation, const Json& config,
                                            std::string_view what, const Tokenizer* tokenizer) {
  std::optional<std::vector<int32_t>> ids = generation.eos_token_ids;
  if (!ids) {
    ASSIGN_OR_RETURN(ids, GetIds(config, "eos_token_id", what));
  }
  if (!ids && config.is_object() && config.contains("text_config")) {
    ASSIGN_OR_RETURN(ids, GetIds(config["text_config"], "eos_token_id", what));
  }
  if (!ids) ids.emplace();
  if (tokenizer != nullptr) {
    if (const auto eos = tokenizer->eos_token()) {
      if (const auto id = tokenizer->TokenId(*eos)) ids->push_back(*id);
    }
  }
  std::sort(ids->begin(), ids->end());
  ids->erase(std::unique(ids->begin(), ids->end()), ids->end());
  return *std::move(ids);
}

}  // namespace optiq
