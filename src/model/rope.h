// Cosines and sines of rotary embeddings for the positions in use.
#ifndef OPTIQ_MODEL_ROPE_H_
#define OPTIQ_MODEL_ROPE_H_

#include <cstdint>
#include <vector>

#include "model/decoder_spec.h"

namespace optiq {

class RopeTable {
 public:
  explicit RopeTable(RopeSpec spec) : spec_(std::move(spec)) {}
  // Makes positions [0, n) available. Not thread-safe; call before the threads read.
  void Extend(int64_t n);
  int64_t half() const { return static_cast<int64_t>(spec_.inv_freq.size()); }
  const float* cos(int64_t position) const { return cos_.data() + position * half(); }  // [head_dim / 2]
  const float* sin(int64_t position) const { return sin_.data() + position * half(); }

 private:
  RopeSpec spec_;
  int64_t length_ = 0;
  std::vector<float> cos_, sin_;
};

using RopeTables = std::vector<RopeTable>;

// One table per DecoderSpec::ropes.
RopeTables MakeRopeTables(const DecoderSpec& spec, int64_t positions);

}  // namespace optiq

#endif  // OPTIQ_MODEL_ROPE_H_
