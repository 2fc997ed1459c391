// A copy of a decoder's affine weights in the layout that the fast products read best.
#ifndef OPTIQ_MODEL_PACKED_WEIGHTS_H_
#define OPTIQ_MODEL_PACKED_WEIGHTS_H_

#include <cstdint>
#include <vector>

#include "base/memory.h"
#include "base/thread_pool.h"
#include "io/checkpoint.h"
#include "model/weights.h"

namespace optiq {

class PackedWeights {
 public:
  // Sets `strips` of every affine matrix that products read, and drops the pages of the file that were read for it, so that one copy
  // stays resident. False, and nothing is changed: this instruction set reads weights as they are stored, there are no affine weights,
  // or they take more than `most` bytes. `weights` must not outlive this.
  bool Pack(DecoderWeights* weights, const Checkpoint& checkpoint, int64_t most, ThreadPool* pool);

  uint64_t bytes() const { return memory_.size(); }

 private:
  LargePages memory_;
};

}  // namespace optiq

#endif  // OPTIQ_MODEL_PACKED_WEIGHTS_H_
