#include "model/arch/families.h"

#include <cmath>

namespace optiq {

std::span<const Family> Families() {
  static constexpr Family kFamilies[] = {
      {"llama", ParseLlama},
      {"mistral", ParseMistral},
      {"smollm3", ParseSmolLm3},
      {"qwen2", ParseQwen2},
      {"qwen3", ParseQwen3},
      {"qwen2_moe", ParseQwen2Moe},
      {"qwen3_moe", ParseQwen3Moe},
      {"gemma3", ParseGemma3},
      {"gemma3_text", ParseGemma3Text},
      {"gemma4", ParseGemma4},
      {"gemma4_unified", ParseGemma4},
      {"gemma4_text", ParseGemma4Text},
      {"lfm2", ParseLfm2},
  };
  return kFamilies;
}

StatusOr<DecoderSpec> ParseCommon(ConfigFields* c, bool tied_by_default, const char* activation_key) {
  DecoderSpec spec;
  spec.hidden_size = c->Int("hidden_size", 1, limits::kWidth);
  spec.vocab_size = c->Int("vocab_size", 1, limits::kVocab);
  spec.max_position_embeddings = c->Int("max_position_embeddings", 1, limits::kContext, 2048);
  spec.rms_norm_eps = static_cast<float>(c->Number("rms_norm_eps", 1e-12, 1, 1e-6));
  spec.tie_word_embeddings = c->Bool("tie_word_embeddings", tied_by_default);
  const int64_t layers = c->Int("num_hidden_layers", 1, limits::kLayers);
  LayerSpec layer;
  AttentionSpec& a = layer.attention;
  a.num_attention_heads = c->Int("num_attention_heads", 1, limits::kHeads);
  a.num_key_value_heads = c->Int("num_key_value_heads", 1, limits::kHeads, a.num_attention_heads);
  RETURN_IF_ERROR(c->status());
  if (a.num_attention_heads % a.num_key_value_heads != 0) {
    c->Fail("num_key_value_heads",
            fmt::format("is {}; it must divide num_attention_heads {}", a.num_key_value_heads, a.num_attention_heads));
  }
  if (!c->Has("head_dim") && spec.hidden_size % a.num_attention_heads != 0) {
    c->Fail("head_dim", "is missing, and num_attention_heads does not divide hidden_size");
  }
  a.head_dim = c->Int("head_dim", 2, limits::kHeadDim, spec.hidden_size / a.num_attention_heads);
  a.scale = 1.0f / std::sqrt(static_cast<float>(a.head_dim));
  layer.intermediate_size = c->Int("intermediate_size", 1, limits::kWidth);
  const std::string activation = c->String(activation_key, "silu");
  if (activation == "silu" || activation == "swish") {
    layer.activation = Activation::kSilu;
  } else if (activation == "gelu_pytorch_tanh" || activation == "gelu_new") {
    layer.activation = Activation::kGeluTanh;
  } else if (activation == "gelu") {
    layer.activation = Activation::kGelu;
  } else {
    c->Fail(activation_key, fmt::format("is '{}'; known: silu, gelu, gelu_pytorch_tanh", activation.substr(0, 40)));
  }
  RETURN_IF_ERROR(c->status());
  for (int64_t i = 0; i < layers; ++i) {
    layer.prefix = fmt::format("model.layers.{}.", i);
    spec.layers.push_back(layer);
  }
  return spec;
}

StatusOr<DecoderSpec> ParseWrapped(ConfigFields* c, StatusOr<DecoderSpec> (*parse_text)(ConfigFields*)) {
  const Json* text = c->Object("text_config");
  RETURN_IF_ERROR(c->status());
  if (text == nullptr) return InvalidArgument("{}: field 'text_config' is missing", c->what());
  Json inner = *text;
  for (const char* key : {"vocab_size", "tie_word_embeddings"}) {
    if ((!inner.contains(key) || inner[key].is_null()) && c->Has(key)) inner[key] = c->json().at(key);
  }
  ConfigFields fields(inner, c->what() + ": text_config");
  ASSIGN_OR_RETURN(DecoderSpec spec, parse_text(&fields));
  RETURN_IF_ERROR(fields.status());
  const std::string root = "language_model.";
  for (std::string* path : {&spec.embed_path, &spec.norm_path, &spec.head_path, &spec.per_layer_embed_path,
                            &spec.per_layer_projection_path, &spec.per_layer_norm_path}) {
    if (!path->empty()) path->insert(0, root);
  }
  for (LayerSpec& l : spec.layers) l.prefix.insert(0, root);
  for (const char* tower : {"vision_tower", "audio_tower", "multi_modal_projector", "embed_vision", "embed_audio",
                            "vision_embedder", "audio_embedder", "vision_model"}) {
    spec.tower_prefixes.push_back(fmt::format("{}.", tower));
    spec.tower_prefixes.push_back(fmt::format("model.{}.", tower));
  }
  return spec;
}

StatusOr<std::vector<bool>> SlidingLayers(ConfigFields* c, size_t num_layers) {
  std::vector<bool> out;
  for (const std::string& type : c->Strings("layer_types", num_layers)) {
    if (type != "sliding_attention" && type != "full_attention") {
      c->Fail("layer_types", fmt::format("holds '{}'; known: sliding_attention, full_attention", type.substr(0, 40)));
    }
    out.push_back(type == "sliding_attention");
  }
  RETURN_IF_ERROR(c->status());
  return out;
}

}  // namespace optiq
