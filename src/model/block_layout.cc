#include "model/block_layout.h"

#include <cmath>

namespace optiq {
namespace {

using Kind = DecoderSpec::ModuleKind;

class Lister {
 public:
  Lister(const DecoderSpec& spec, const LayerSpec& layer) : spec_(spec), l_(layer), d_(spec.hidden_size) {}

  BlockLayout List() {
    Vector(&BlockWeights::input_norm, l_.names.input_norm, d_);
    Vector(&BlockWeights::post_attention_norm, l_.names.post_attention_norm, d_);
    if (l_.has_attention()) {
      Attention();
    } else {
      ShortConv();
    }
    FeedForward();
    if (l_.moe.num_experts > 0) Experts();
    if (l_.per_layer_input_size > 0) {
      Linear(&BlockWeights::per_layer_gate, "per_layer_input_gate", l_.per_layer_input_size, d_);
      Linear(&BlockWeights::per_layer_projection, "per_layer_projection", d_, l_.per_layer_input_size);
      Vector(&BlockWeights::post_per_layer_norm, "post_per_layer_input_norm", d_);
    }
    if (l_.layer_scalar) Plain(&BlockWeights::layer_scalar, "layer_scalar", {1});
    return std::move(out_);
  }

 private:
  void Attention() {
    const AttentionSpec& a = l_.attention;
    const BlockNames& n = l_.names;
    Linear(&BlockWeights::q, n.q, a.q_width(), d_, a.qkv_bias);
    if (a.has_own_kv()) {
      Linear(&BlockWeights::k, n.k, a.kv_width(), d_, a.qkv_bias);
      if (!a.k_eq_v) Linear(&BlockWeights::v, n.v, a.kv_width(), d_, a.qkv_bias);
    }
    Linear(&BlockWeights::o, n.o, d_, a.q_width(), a.o_bias);
    if (a.qk_norm) {
      Vector(&BlockWeights::q_norm, n.q_norm, a.head_dim);
      if (a.has_own_kv()) Vector(&BlockWeights::k_norm, n.k_norm, a.head_dim);
    }
  }

  void ShortConv() {
    const ShortConvSpec& c = l_.short_conv;
    Linear(&BlockWeights::conv_in, "conv.in_proj", 3 * d_, d_, c.bias);
    Linear(&BlockWeights::conv_out, "conv.out_proj", d_, d_, c.bias);
    Plain(&BlockWeights::conv, "conv.conv.weight", {d_, c.kernel, 1});
    if (c.bias) Plain(&BlockWeights::conv_bias, "conv.conv.bias", {d_});
  }

  void FeedForward() {
    if (l_.post_norms) {
      Vector(&BlockWeights::pre_feedforward_norm, "pre_feedforward_layernorm", d_);
      Vector(&BlockWeights::post_feedforward_norm, "post_feedforward_layernorm", d_);
    }
    if (l_.intermediate_size == 0) return;
    Linear(&BlockWeights::gate, l_.names.gate, l_.intermediate_size, d_, l_.mlp_bias);
    Linear(&BlockWeights::up, l_.names.up, l_.intermediate_size, d_, l_.mlp_bias);
    Linear(&BlockWeights::down, l_.names.down, d_, l_.intermediate_size, l_.mlp_bias);
  }

  void Experts() {
    const MoeSpec& m = l_.moe;
    Linear(&BlockWeights::router, l_.names.router, m.num_experts, d_, false, Kind::kRouter);
    Stack(&BlockWeights::expert_gate, "gate_proj", m.intermediate_size, d_);
    Stack(&BlockWeights::expert_up, "up_proj", m.intermediate_size, d_);
    Stack(&BlockWeights::expert_down, "down_proj", d_, m.intermediate_size);
    if (m.shared_expert_intermediate_size > 0) {
      const int64_t inter = m.shared_expert_intermediate_size;
      Linear(&BlockWeights::shared_gate, "mlp.shared_expert.gate_proj", inter, d_);
      Linear(&BlockWeights::shared_up, "mlp.shared_expert.up_proj", inter, d_);
      Linear(&BlockWeights::shared_down, "mlp.shared_expert.down_proj", d_, inter);
      Linear(&BlockWeights::shared_expert_gate, "mlp.shared_expert_gate", 1, d_, false, Kind::kRouter);
    }
    if (m.beside_dense) {
      Vector(&BlockWeights::post_feedforward_norm_1, "post_feedforward_layernorm_1", d_);
      Vector(&BlockWeights::pre_feedforward_norm_2, "pre_feedforward_layernorm_2", d_);
      Vector(&BlockWeights::post_feedforward_norm_2, "post_feedforward_layernorm_2", d_);
      Plain(&BlockWeights::router_norm, "router.scale", {d_}, 1.0f / std::sqrt(static_cast<float>(d_)));
      Plain(&BlockWeights::per_expert_scale, "router.per_expert_scale", {m.num_experts});
    }
  }

  void Linear(LinearWeights BlockWeights::*member, const std::string& name, int64_t out, int64_t in, bool bias = false,
              Kind kind = Kind::kLinear) {
    out_.linears.push_back({member, l_.prefix + name, out, in, bias, kind});
  }
  void Stack(ExpertWeights BlockWeights::*member, const std::string& projection, int64_t out, int64_t in) {
    out_.experts.push_back({member, l_.prefix + l_.names.experts + "." + projection, projection, out, in});
  }
  void Vector(std::vector<float> BlockWeights::*member, const std::string& name, int64_t size) {
    out_.vectors.push_back({member, l_.prefix + name + ".weight", {size}});
  }
  void Plain(std::vector<float> BlockWeights::*member, const std::string& name, std::vector<int64_t> shape,
             float scale = 1) {
    out_.vectors.push_back({member, l_.prefix + name, std::move(shape), false, scale});
  }

  const DecoderSpec& spec_;
  const LayerSpec& l_;
  const int64_t d_;
  BlockLayout out_;
};

}  // namespace

BlockLayout LayoutOf(const DecoderSpec& spec, int layer) { return Lister(spec, spec.layers[layer]).List(); }

std::vector<SmallTensor> SmallTensors(const DecoderSpec& spec) {
  std::vector<SmallTensor> out;
  if (spec.per_layer_input_size > 0) out.push_back({spec.per_layer_norm_path + ".weight", {spec.per_layer_input_size}});
  for (int i = 0; i < spec.num_layers(); ++i) {
    const BlockLayout layout = LayoutOf(spec, i);
    for (const VectorEntry& v : layout.vectors) out.push_back({v.name, v.shape});
    for (const LinearEntry& l : layout.linears) {
      if (l.bias) out.push_back({l.path + ".bias", {l.out}});
    }
  }
  out.push_back({spec.norm_path + ".weight", {spec.hidden_size}});
  return out;
}

std::vector<DecoderSpec::Module> DecoderSpec::QuantizableModules() const {
  std::vector<Module> out;
  out.push_back({embed_path, vocab_size, hidden_size, -1, ModuleKind::kEmbedding});
  if (per_layer_input_size > 0) {
    out.push_back(
        {per_layer_embed_path, vocab_size_per_layer_input, per_layer_width(), -1, ModuleKind::kPerLayerEmbedding});
    out.push_back({per_layer_projection_path, per_layer_width(), hidden_size, -1, ModuleKind::kPerLayerProjection});
  }
  for (int i = 0; i < num_layers(); ++i) {
    const BlockLayout layout = LayoutOf(*this, i);
    for (const LinearEntry& l : layout.linears) out.push_back({l.path, l.out, l.in, i, l.kind});
    for (const ExpertsEntry& e : layout.experts) {
      out.push_back(
          {e.path, e.out, e.in, i, ModuleKind::kExperts, layers[i].moe.num_experts, layers[i].moe.experts_per_token});
    }
  }
  if (!tie_word_embeddings) out.push_back({head_path, vocab_size, hidden_size, num_layers(), ModuleKind::kHead});
  return out;
}

}  // namespace optiq
