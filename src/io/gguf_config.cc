#include "io/gguf_config.h"

#include <charconv>
#include <string>

#include "base/limits.h"
#include "io/gguf_rope.h"

namespace optiq {
namespace {

constexpr std::string_view kArchNames[] = {"llama", "qwen2", "qwen3", "gemma3"};

// Undoes the noise of a decimal number that went through f32: six significant digits, as in the original config.json.
double SixDigits(double x) {
  const std::string text = fmt::format("{:.6g}", x);
  double out = x;
  std::from_chars(text.data(), text.data() + text.size(), out);
  return out;
}

// Reads `<arch>.<key>`.
class ArchKeys {
 public:
  ArchKeys(const GgufFile& file, GgufArch arch) : file_(file), prefix_(fmt::format("{}.", GgufArchName(arch))) {}

  std::string Full(std::string_view key) const { return fmt::format("{}{}", prefix_, key); }

  StatusOr<int64_t> Int(std::string_view key, int64_t max, std::optional<int64_t> fallback = {}) const {
    if (fallback && !file_.Has(Full(key))) return *fallback;
    if (file_.ArraySize(Full(key))) {
      return Unimplemented("{}: {} differs from layer to layer, which is not supported", file_.name(), Full(key));
    }
    return file_.RequireInt(Full(key), 1, max);
  }

  StatusOr<double> Positive(std::string_view key, std::optional<double> fallback = {}) const {
    ASSIGN_OR_RETURN(const std::optional<double> found, file_.GetDouble(Full(key)));
    const std::optional<double> value = found ? found : fallback;
    if (!value) return DataLoss("{}: metadata key '{}' is missing", file_.name(), Full(key));
    if (!(*value > 0)) return DataLoss("{}: {} is {}, it must be positive", file_.name(), Full(key), *value);
    return SixDigits(*value);
  }

  // Settings of other architectures that llama.cpp would apply here: refused unless absent or zero.
  Status RefuseSettings(std::initializer_list<const char*> keys) const {
    for (const char* key : keys) {
      if (!file_.Has(Full(key))) continue;
      StatusOr<std::optional<double>> value = file_.GetDouble(Full(key));
      if (value.ok() && value->value_or(0) == 0) continue;
      return Unimplemented("{}: {} is not supported", file_.name(), Full(key));
    }
    return OkStatus();
  }

 private:
  const GgufFile& file_;
  std::string prefix_;
};

// The id of a special token, or null.
StatusOr<Json> TokenId(const GgufFile& file, std::string_view name) {
  const std::string key = fmt::format("tokenizer.ggml.{}_token_id", name);
  if (!file.Has(key)) return Json(nullptr);
  ASSIGN_OR_RETURN(const int64_t id, file.RequireInt(key, 0, limits::kVocab));
  return Json(id);
}

// Which layers see a window only: every `pattern`-th sees all. gemma3 files name the period since late 2025, as a
// number or as one boolean per layer; before that it was built into llama.cpp.
StatusOr<std::vector<bool>> SlidingLayers(const GgufFile& file, const ArchKeys& keys, int64_t layers,
                                          int64_t* pattern) {
  const std::string key = keys.Full("attention.sliding_window_pattern");
  *pattern = 6;
  std::vector<bool> sliding(layers);
  if (const std::optional<uint64_t> items = file.ArraySize(key)) {
    if (*items != static_cast<uint64_t>(layers)) {
      return DataLoss("{}: {} has {} items for {} layers", file.name(), key, *items, layers);
    }
    ASSIGN_OR_RETURN(const std::vector<int64_t> flags, file.GetInts(key));
    for (int64_t i = 0; i < layers; ++i) sliding[i] = flags[i] != 0;
    for (*pattern = 1; *pattern <= layers && sliding[*pattern - 1]; ++*pattern) {
    }
  } else if (file.Has(key)) {
    ASSIGN_OR_RETURN(*pattern, file.RequireInt(key, 1, limits::kLayers));
  }
  for (int64_t i = 0; i < layers; ++i) {
    const bool expected = (i + 1) % *pattern != 0;
    if (!file.ArraySize(key)) {
      sliding[i] = expected;
    } else if (sliding[i] != expected) {
      return Unimplemented("{}: {} is not periodic, which is not supported", file.name(), key);
    }
  }
  return sliding;
}

Status AddGemma3(const GgufFile& file, const ArchKeys& keys, int64_t layers, int64_t heads, int64_t head_dim,
                 Json* config) {
  Json& c = *config;
  int64_t pattern = 0;
  ASSIGN_OR_RETURN(const std::vector<bool> sliding, SlidingLayers(file, keys, layers, &pattern));
  ASSIGN_OR_RETURN(const int64_t window, keys.Int("attention.sliding_window", limits::kContext));
  ASSIGN_OR_RETURN(const double local_base, keys.Positive("rope.freq_base_swa", 10000.0));
  Json types = Json::array();
  for (int64_t i = 0; i < layers; ++i) types.push_back(sliding[i] ? "sliding_attention" : "full_attention");
  for (const char* name : {"attn_logit_softcapping", "final_logit_softcapping"}) {
    c[name] = nullptr;
    if (!file.Has(keys.Full(name))) continue;
    ASSIGN_OR_RETURN(const double cap, keys.Positive(name));
    c[name] = cap;
  }
  c["architectures"] = Json::array({"Gemma3ForCausalLM"});
  c["model_type"] = "gemma3_text";
  c["hidden_activation"] = "gelu_pytorch_tanh";
  c["attention_bias"] = false;
  c["head_dim"] = head_dim;
  // Not in the metadata. llama.cpp knows Gemma 3 27B, the one that does not scale by head_dim, by its 62 layers.
  c["query_pre_attn_scalar"] = layers == 62 ? c["hidden_size"].get<int64_t>() / heads : head_dim;
  c["rope_local_base_freq"] = local_base;
  c["sliding_window"] = window;
  c["_sliding_window_pattern"] = pattern;
  c["layer_types"] = std::move(types);
  return OkStatus();
}

void AddQwen(GgufArch arch, int64_t layers, int64_t context, int64_t head_dim, Json* config) {
  Json& c = *config;
  const bool qwen3 = arch == GgufArch::kQwen3;
  c["architectures"] = Json::array({qwen3 ? "Qwen3ForCausalLM" : "Qwen2ForCausalLM"});
  c["model_type"] = GgufArchName(arch);
  c["hidden_act"] = "silu";
  c["use_sliding_window"] = false;
  c["max_window_layers"] = layers;
  c.erase("pad_token_id");
  if (qwen3) {
    c["attention_bias"] = false;
    c["head_dim"] = head_dim;
    c["sliding_window"] = nullptr;
  } else {
    c["sliding_window"] = context;
  }
}

}  // namespace

std::string_view GgufArchName(GgufArch arch) { return kArchNames[static_cast<int>(arch)]; }

StatusOr<GgufArch> GgufArchOf(const GgufFile& file) {
  ASSIGN_OR_RETURN(const std::optional<int64_t> parts, file.GetInt("split.count"));
  if (parts.value_or(0) > 1) {
    return Unimplemented("{}: one of {} parts of a split model; merge them with llama-gguf-split --merge", file.name(),
                         *parts);
  }
  ASSIGN_OR_RETURN(const std::string_view name, file.RequireString("general.architecture"));
  for (const GgufArch arch : {GgufArch::kLlama, GgufArch::kQwen2, GgufArch::kQwen3, GgufArch::kGemma3}) {
    if (name == GgufArchName(arch)) return arch;
  }
  return Unimplemented(
      "{}: architecture {} is not supported in GGUF, only llama, qwen2, qwen3 and gemma3; use the original "
      "checkpoint",
      file.name(), QuoteForError(name));
}

StatusOr<Json> BuildGgufConfig(const GgufFile& file, GgufArch arch, const GgufTensorFacts& facts) {
  const ArchKeys keys(file, arch);
  RETURN_IF_ERROR(keys.RefuseSettings({"expert_count", "attention.scale", "attention.clamp_kqv",
                                       "attention.max_alibi_bias", "attention.temperature_scale", "logit_scale",
                                       "residual_scale", "embedding_scale", "nextn_predict_layers"}));
  ASSIGN_OR_RETURN(const int64_t hidden, keys.Int("embedding_length", limits::kWidth));
  ASSIGN_OR_RETURN(const int64_t intermediate, keys.Int("feed_forward_length", limits::kWidth));
  ASSIGN_OR_RETURN(const int64_t layers, keys.Int("block_count", limits::kLayers));
  ASSIGN_OR_RETURN(const int64_t heads, keys.Int("attention.head_count", limits::kHeads));
  ASSIGN_OR_RETURN(const int64_t kv_heads, keys.Int("attention.head_count_kv", limits::kHeads, heads));
  ASSIGN_OR_RETURN(const int64_t context, keys.Int("context_length", limits::kContext));
  ASSIGN_OR_RETURN(const double eps, keys.Positive("attention.layer_norm_rms_epsilon"));
  ASSIGN_OR_RETURN(const double theta, keys.Positive("rope.freq_base", 10000.0));
  if (heads % kv_heads != 0) {
    return DataLoss("{}: {} attention heads are not a multiple of {} key/value heads", file.name(), heads, kv_heads);
  }

  const bool even = hidden % heads == 0;
  const bool own_length = arch == GgufArch::kQwen3 || arch == GgufArch::kGemma3;
  if (!even && !file.Has(keys.Full("attention.key_length"))) {
    return DataLoss("{}: width {} is not a multiple of {} heads", file.name(), hidden, heads);
  }
  std::optional<int64_t> divided;
  if (even && !own_length) divided = hidden / heads;
  ASSIGN_OR_RETURN(const int64_t head_dim, keys.Int("attention.key_length", limits::kHeadDim, divided));
  ASSIGN_OR_RETURN(const int64_t value_dim, keys.Int("attention.value_length", limits::kHeadDim, head_dim));
  ASSIGN_OR_RETURN(const int64_t rotary, keys.Int("rope.dimension_count", limits::kHeadDim, head_dim));
  if (value_dim != head_dim || rotary != head_dim) {
    return Unimplemented("{}: key, value and rotary lengths {}, {} and {} differ, which is not supported", file.name(),
                         head_dim, value_dim, rotary);
  }
  if (arch == GgufArch::kQwen2 && head_dim * heads != hidden) {
    return Unimplemented("{}: qwen2 with {} heads of {} and width {} is not supported", file.name(), heads, head_dim,
                         hidden);
  }

  Json c;
  c["hidden_size"] = hidden;
  c["intermediate_size"] = intermediate;
  c["num_hidden_layers"] = layers;
  c["num_attention_heads"] = heads;
  c["num_key_value_heads"] = kv_heads;
  c["max_position_embeddings"] = context;
  c["rms_norm_eps"] = eps;
  c["rope_theta"] = theta;
  ASSIGN_OR_RETURN(c["rope_scaling"], GgufRopeScaling(file, GgufArchName(arch), theta, head_dim, facts.rope_factors));
  c["vocab_size"] = facts.vocab_size;
  c["tie_word_embeddings"] = facts.tied;
  ASSIGN_OR_RETURN(c["bos_token_id"], TokenId(file, "bos"));
  ASSIGN_OR_RETURN(c["eos_token_id"], TokenId(file, "eos"));
  ASSIGN_OR_RETURN(c["pad_token_id"], TokenId(file, "padding"));
  c["attention_dropout"] = 0.0;
  c["use_cache"] = true;
  // Names the spelling used here (rope_theta at the top, torch_dtype); without it transformers 5 warns of a tokenizer
  // bug.
  c["transformers_version"] = "4.57.0";
  c["torch_dtype"] = "bfloat16";
  if (arch == GgufArch::kGemma3) {
    RETURN_IF_ERROR(AddGemma3(file, keys, layers, heads, head_dim, &c));
  } else if (arch == GgufArch::kLlama) {
    c["architectures"] = Json::array({"LlamaForCausalLM"});
    c["model_type"] = "llama";
    c["hidden_act"] = "silu";
    c["attention_bias"] = facts.attention_bias;
    c["mlp_bias"] = facts.mlp_bias;
    c["head_dim"] = head_dim;
  } else {
    AddQwen(arch, layers, context, head_dim, &c);
  }
  return c;
}

}  // namespace optiq
