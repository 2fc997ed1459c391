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
  virtual ValueId Norm(ValueId x, const std::vector<float>& weight) = 0;                          // RMSNorm over each row
  virtual ValueId HeadNorm(ValueId x, int64_t heads, const std::vector<float>& weight) = 0;       // RMSNorm over each head
  virtual ValueId Rope(ValueId x, int64_t heads, int rope) = 0;                                   // DecoderSpec::ropes[rope]
  virtual ValueId Attend(ValueId q, ValueId k, ValueId v, const AttentionSpec& spec, int layer) = 0;
  virtual ValueId Gate(ValueId gate, ValueId up, Activation activation) = 0;                      // act(gate) * up
  virtual ValueId Add(ValueId a, ValueId b) = 0;
  virtual void Drop(ValueId x) = 0;  // not read again
};

// Returns the block's output for input x, which is dropped.
ValueId RunBlock(Flow* flow, const LayerSpec& spec, const BlockWeights& w, int layer, ValueId x);

}  // namespace optiq

#endif  // OPTIQ_MODEL_BLOCK_H_
