#include "model/block.h"

namespace optiq {
namespace {

// Replaces a value by a function of it.
template <typename Fn>
ValueId Then(Flow* flow, ValueId x, Fn fn) {
  const ValueId y = fn(x);
  flow->Drop(x);
  return y;
}

// Norm and RoPE of queries or keys.
ValueId Position(Flow* flow, const AttentionSpec& spec, ValueId x, int64_t heads, const std::vector<float>& norm) {
  if (spec.qk_norm) x = Then(flow, x, [&](ValueId a) { return flow->HeadNorm(a, heads, norm); });
  if (spec.rope >= 0) x = Then(flow, x, [&](ValueId a) { return flow->Rope(a, heads, spec.rope); });
  return x;
}

ValueId RunAttention(Flow* flow, const AttentionSpec& spec, const BlockWeights& w, int layer, ValueId x) {
  ValueId q, a;
  if (spec.has_own_kv()) {
    q = spec.k_eq_v ? flow->Linears(x, {&w.q, &w.k}) : flow->Linears(x, {&w.q, &w.k, &w.v});
    ValueId k = q + 1, v = spec.k_eq_v ? k : q + 2;
    flow->Drop(x);
    OPTIQ_CHECK(spec.v_norm || !spec.k_eq_v);
    if (spec.v_norm) {
      const ValueId projected = v;
      v = flow->HeadNorm(projected, spec.num_key_value_heads, {});
      if (!spec.k_eq_v) flow->Drop(projected);
    }
    q = Position(flow, spec, q, spec.num_attention_heads, w.q_norm);
    k = Position(flow, spec, k, spec.num_key_value_heads, w.k_norm);
    a = flow->Attend(q, k, v, spec, layer);
    flow->Drop(k);
    flow->Drop(v);
  } else {
    q = Then(flow, x, [&](ValueId y) { return flow->Linear(y, w.q); });
    q = Position(flow, spec, q, spec.num_attention_heads, w.q_norm);
    a = flow->AttendShared(q, spec);
  }
  flow->Drop(q);
  return Then(flow, a, [&](ValueId y) { return flow->Linear(y, w.o); });
}

ValueId RunShortConv(Flow* flow, const ShortConvSpec& spec, const BlockWeights& w, int layer, ValueId x) {
  const ValueId bcx = Then(flow, x, [&](ValueId a) { return flow->Linear(a, w.conv_in); });
  const ValueId y = Then(flow, bcx, [&](ValueId a) { return flow->ShortConv(a, w, spec, layer); });
  return Then(flow, y, [&](ValueId a) { return flow->Linear(a, w.conv_out); });
}

// down(act(gate(x)) * up(x)); x is kept.
ValueId RunMlp(Flow* flow, Activation activation, const LinearWeights& wg, const LinearWeights& wu, const LinearWeights& wd,
               ValueId x) {
  const ValueId gate = flow->Linears(x, {&wg, &wu}), up = gate + 1;
  const ValueId a = flow->Gate(gate, up, activation);
  flow->Drop(gate);
  flow->Drop(up);
  return Then(flow, a, [&](ValueId y) { return flow->Linear(y, wd); });
}

// The routed experts' sum; x and routing are kept. Routing weights multiply before the last projection, which is linear.
ValueId RunExperts(Flow* flow, Activation activation, const BlockWeights& w, ValueId x, ValueId routing) {
  const ValueId gate = flow->ExpertLinear(x, routing, w.expert_gate);
  const ValueId up = flow->ExpertLinear(x, routing, w.expert_up);
  const ValueId a = flow->Gate(gate, up, activation);
  flow->Drop(gate);
  flow->Drop(up);
  const ValueId scaled = Then(flow, a, [&](ValueId y) { return flow->ExpertScale(y, routing); });
  return Then(flow, scaled, [&](ValueId y) { return flow->ExpertSum(y, routing, w.expert_down); });
}

ValueId RunRouter(Flow* flow, const MoeSpec& spec, const BlockWeights& w, ValueId x) {
  const ValueId logits = flow->Linear(x, w.router);
  return Then(flow, logits, [&](ValueId y) { return flow->Route(y, spec, w.per_expert_scale); });
}

// a + b; both are dropped.
ValueId AddBranch(Flow* flow, ValueId a, ValueId b) {
  const ValueId sum = flow->Add(a, b);
  flow->Drop(a);
  flow->Drop(b);
  return sum;
}

// Gemma 4: MLP and experts on the same residual h, which is kept; each branch has norms before and after.
ValueId RunDenseAndExperts(Flow* flow, const LayerSpec& spec, const BlockWeights& w, ValueId h) {
  const ValueId x1 = flow->Norm(h, w.pre_feedforward_norm);
  ValueId m1 = Then(flow, x1, [&](ValueId y) { return RunMlp(flow, spec.activation, w.gate, w.up, w.down, y); });
  m1 = Then(flow, m1, [&](ValueId y) { return flow->Norm(y, w.post_feedforward_norm_1); });
  const ValueId routed = flow->Norm(h, w.router_norm);
  const ValueId routing = Then(flow, routed, [&](ValueId y) { return RunRouter(flow, spec.moe, w, y); });
  const ValueId x2 = flow->Norm(h, w.pre_feedforward_norm_2);
  ValueId m2 = Then(flow, x2, [&](ValueId y) { return RunExperts(flow, spec.activation, w, y, routing); });
  flow->Drop(routing);
  m2 = Then(flow, m2, [&](ValueId y) { return flow->Norm(y, w.post_feedforward_norm_2); });
  return AddBranch(flow, m1, m2);
}

// Experts in place of the MLP, with a shared expert where there is one. x is kept.
ValueId RunSparseMlp(Flow* flow, const LayerSpec& spec, const BlockWeights& w, ValueId x) {
  const ValueId routing = RunRouter(flow, spec.moe, w, x);
  const ValueId y = RunExperts(flow, spec.activation, w, x, routing);
  flow->Drop(routing);
  if (spec.moe.shared_expert_intermediate_size == 0) return y;
  const ValueId shared = RunMlp(flow, spec.activation, w.shared_gate, w.shared_up, w.shared_down, x);
  const ValueId gate = flow->Linear(x, w.shared_expert_gate);
  const ValueId scaled = flow->SigmoidScale(shared, gate);
  flow->Drop(shared);
  flow->Drop(gate);
  return AddBranch(flow, y, scaled);
}

// The branch after attention, from the residual h, which is kept.
ValueId RunFeedForward(Flow* flow, const LayerSpec& spec, const BlockWeights& w, ValueId h) {
  if (spec.moe.beside_dense) return RunDenseAndExperts(flow, spec, w, h);
  const ValueId x = flow->Norm(h, spec.post_norms ? w.pre_feedforward_norm : w.post_attention_norm);
  return Then(flow, x, [&](ValueId y) {
    return spec.moe.num_experts > 0 ? RunSparseMlp(flow, spec, w, y)
                                    : RunMlp(flow, spec.activation, w.gate, w.up, w.down, y);
  });
}

// Gemma 4: h + norm(up(act(gate(h)) * per-layer input)); h is dropped.
ValueId AddPerLayerInput(Flow* flow, const LayerSpec& spec, const BlockWeights& w, ValueId h) {
  const ValueId gate = flow->Linear(h, w.per_layer_gate);
  const ValueId input = flow->PerLayerInput();
  const ValueId a = flow->Gate(gate, input, spec.activation);
  flow->Drop(gate);
  flow->Drop(input);
  const ValueId up = Then(flow, a, [&](ValueId y) { return flow->Linear(y, w.per_layer_projection); });
  return AddBranch(flow, h, Then(flow, up, [&](ValueId y) { return flow->Norm(y, w.post_per_layer_norm); }));
}

}  // namespace

ValueId RunBlock(Flow* flow, const LayerSpec& spec, const BlockWeights& w, int layer, ValueId x) {
  const ValueId normed = flow->Norm(x, w.input_norm);
  ValueId a = spec.has_attention() ? RunAttention(flow, spec.attention, w, layer, normed)
                                   : RunShortConv(flow, spec.short_conv, w, layer, normed);
  if (spec.post_norms) a = Then(flow, a, [&](ValueId y) { return flow->Norm(y, w.post_attention_norm); });
  ValueId h = AddBranch(flow, x, a);
  ValueId m = RunFeedForward(flow, spec, w, h);
  if (spec.post_norms) m = Then(flow, m, [&](ValueId y) { return flow->Norm(y, w.post_feedforward_norm); });
  h = AddBranch(flow, h, m);
  if (spec.per_layer_input_size > 0) h = AddPerLayerInput(flow, spec, w, h);
  if (spec.layer_scalar) h = Then(flow, h, [&](ValueId y) { return flow->Scale(y, w.layer_scalar[0]); });
  return h;
}

}  // namespace optiq
