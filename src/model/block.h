// One decoder block, written once over an abstract flow of values. The plain flow computes activations; the sensitivity sweep
// runs the same block over differences from a reference.
#ifndef OPTIQ_MODEL_BLOCK_H_
#define OPTIQ_MODEL_BLOCK_H_

#include <cstdint>
#include <initializer_list>
#include <vector>

#include "model/decoder_spec.h"
#include "model/weights.h"

namespace optiq {

// Names a value of a flow: f32 [rows, columns]. Ids count up from 0 in the order of creation, the same in every flow that runs
// the same block.
using ValueId = int;

class Flow {
 public:
  virtual ~Flow() = default;
  virtual ValueId Linear(ValueId x, const LinearWeights& w) = 0;
  // Several products of one value, at once where a flow can; returns the first's id, the others follow it.
  virtual ValueId Linears(ValueId x, std::initializer_list<const LinearWeights*> all) {
    ValueId first = -1;
    for (const LinearWeights* w : all) {
      const ValueId y = Linear(x, *w);
      if (first < 0) first = y;
    }
    return first;
  }
  // RMSNorm over each row, over each head of a row; without weight when it is empty.
  virtual ValueId Norm(ValueId x, const std::vector<float>& weight) = 0;
  virtual ValueId HeadNorm(ValueId x, int64_t heads, const std::vector<float>& weight) = 0;
  virtual ValueId Rope(ValueId x, int64_t heads, int rope) = 0;                                   // DecoderSpec::ropes[rope]
  virtual ValueId Attend(ValueId q, ValueId k, ValueId v, const AttentionSpec& spec, int layer) = 0;
  virtual ValueId AttendShared(ValueId q, const AttentionSpec& spec) = 0;  // over the keys and values of spec.kv_layer
  virtual ValueId Gate(ValueId gate, ValueId up, Activation activation) = 0;                      // act(gate) * up
  virtual ValueId Add(ValueId a, ValueId b) = 0;
  virtual ValueId Scale(ValueId x, float factor) = 0;
  virtual ValueId SigmoidScale(ValueId x, ValueId gate) = 0;  // sigmoid(gate [rows, 1]) times each row of x
  virtual ValueId PerLayerInput() = 0;                        // this block's rows of the per-layer embeddings
  // A gated short convolution of bcx [rows, 3 d] = B, C, x along the sequence: C * conv(B * x), [rows, d].
  virtual ValueId ShortConv(ValueId bcx, const BlockWeights& w, const ShortConvSpec& spec, int layer) = 0;

  // Experts. A routing value [rows, experts_per_token] holds the weights of the chosen experts; the flow keeps which they are.
  virtual ValueId Route(ValueId logits, const MoeSpec& spec, const std::vector<float>& per_expert_scale) = 0;
  // x [rows, in] -> [rows, experts_per_token * out]: slot s of a row is its s-th expert's product.
  virtual ValueId ExpertLinear(ValueId x, ValueId routing, const ExpertWeights& w) = 0;
  // Each slot times its routing weight.
  virtual ValueId ExpertScale(ValueId slots, ValueId routing) = 0;
  // slots [rows, experts_per_token * in] -> [rows, out]: the sum of the slots' products.
  virtual ValueId ExpertSum(ValueId slots, ValueId routing, const ExpertWeights& w) = 0;

  virtual void Drop(ValueId x) = 0;  // not read again
};

// Returns the block's output for input x, which is dropped.
ValueId RunBlock(Flow* flow, const LayerSpec& spec, const BlockWeights& w, int layer, ValueId x);

}  // namespace optiq

#endif  // OPTIQ_MODEL_BLOCK_H_
