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

ValueId RunAttention(Flow* flow, const AttentionSpec& spec, const BlockWeights& w, int layer, ValueId x) {
  ValueId q = flow->Linears(x, {&w.q, &w.k, &w.v});
  ValueId k = q + 1;
  const ValueId v = q + 2;
  flow->Drop(x);
  if (spec.qk_norm) {
    q = Then(flow, q, [&](ValueId a) { return flow->HeadNorm(a, spec.num_attention_heads, w.q_norm); });
    k = Then(flow, k, [&](ValueId a) { return flow->HeadNorm(a, spec.num_key_value_heads, w.k_norm); });
  }
  if (spec.rope >= 0) {
    q = Then(flow, q, [&](ValueId a) { return flow->Rope(a, spec.num_attention_heads, spec.rope); });
    k = Then(flow, k, [&](ValueId a) { return flow->Rope(a, spec.num_key_value_heads, spec.rope); });
  }
  const ValueId a = flow->Attend(q, k, v, spec, layer);
  flow->Drop(q);
  flow->Drop(k);
  flow->Drop(v);
  return Then(flow, a, [&](ValueId y) { return flow->Linear(y, w.o); });
}

ValueId RunMlp(Flow* flow, const LayerSpec& spec, const BlockWeights& w, ValueId x) {
  const ValueId gate = flow->Linears(x, {&w.gate, &w.up}), up = gate + 1;
  flow->Drop(x);
  const ValueId a = flow->Gate(gate, up, spec.activation);
  flow->Drop(gate);
  flow->Drop(up);
  return Then(flow, a, [&](ValueId y) { return flow->Linear(y, w.down); });
}

// residual + branch; both are dropped.
ValueId AddBranch(Flow* flow, ValueId residual, ValueId branch) {
  const ValueId sum = flow->Add(residual, branch);
  flow->Drop(residual);
  flow->Drop(branch);
  return sum;
}

}  // namespace

ValueId RunBlock(Flow* flow, const LayerSpec& spec, const BlockWeights& w, int layer, ValueId x) {
  ValueId a = RunAttention(flow, spec.attention, w, layer, flow->Norm(x, w.input_norm));
  if (spec.post_norms) a = Then(flow, a, [&](ValueId y) { return flow->Norm(y, w.post_attention_norm); });
  const ValueId h = AddBranch(flow, x, a);
  const std::vector<float>& norm = spec.post_norms ? w.pre_feedforward_norm : w.post_attention_norm;
  ValueId m = RunMlp(flow, spec, w, flow->Norm(h, norm));
  if (spec.post_norms) m = Then(flow, m, [&](ValueId y) { return flow->Norm(y, w.post_feedforward_norm); });
  return AddBranch(flow, h, m);
}

}  // namespace optiq
