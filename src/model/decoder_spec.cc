#include "model/decoder_spec.h"

#include <algorithm>

#include "model/arch/families.h"

namespace optiq {

std::vector<std::string> KnownModelTypes() {
  std::vector<std::string> out;
  for (const Family& f : Families()) out.emplace_back(f.model_type);
  std::sort(out.begin(), out.end());
  return out;
}

StatusOr<DecoderSpec> ParseDecoderSpec(const Json& config, std::string_view what) {
  if (!config.is_object()) return InvalidArgument("{}: must be a JSON object", what);
  ConfigFields fields(config, std::string(what));
  const std::string model_type = fields.String("model_type", "");
  RETURN_IF_ERROR(fields.status());
  if (model_type.empty()) return InvalidArgument("{}: field 'model_type' is missing", what);
  for (const Family& f : Families()) {
    if (f.model_type != model_type) continue;
    ASSIGN_OR_RETURN(DecoderSpec spec, f.parse(&fields));
    RETURN_IF_ERROR(fields.status());
    spec.model_type = model_type;
    return spec;
  }
  return Unimplemented("{}: model_type '{}' is not supported; known: {}", what, model_type.substr(0, 64),
                       fmt::join(KnownModelTypes(), ", "));
}

std::vector<DecoderSpec::Module> DecoderSpec::QuantizableModules() const {
  std::vector<Module> out;
  out.push_back({embed_path, vocab_size, hidden_size, -1});
  for (size_t i = 0; i < layers.size(); ++i) {
    const LayerSpec& l = layers[i];
    const AttentionSpec& a = l.attention;
    const int block = static_cast<int>(i);
    const int64_t q = a.num_attention_heads * a.head_dim, kv = a.num_key_value_heads * a.head_dim;
    const std::string attn = l.prefix + "self_attn.", mlp = l.prefix + "mlp.";
    out.push_back({attn + "q_proj", q, hidden_size, block});
    out.push_back({attn + "k_proj", kv, hidden_size, block});
    out.push_back({attn + "v_proj", kv, hidden_size, block});
    out.push_back({attn + "o_proj", hidden_size, q, block});
    out.push_back({mlp + "gate_proj", l.intermediate_size, hidden_size, block});
    out.push_back({mlp + "up_proj", l.intermediate_size, hidden_size, block});
    out.push_back({mlp + "down_proj", hidden_size, l.intermediate_size, block});
  }
  if (!tie_word_embeddings) out.push_back({head_path, vocab_size, hidden_size, static_cast<int>(layers.size())});
  return out;
}

}  // namespace optiq
