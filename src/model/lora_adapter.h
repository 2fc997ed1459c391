// LoRA adapters: low-rank additions to the linear layers of a model, y = W x + scale * B (A x), chosen per sequence of a batch.
// mlx-lm's files (adapters.safetensors, adapter_config.json) and PEFT's (adapter_model.safetensors, adapter_config.json) are read.
#ifndef OPTIQ_MODEL_LORA_ADAPTER_H_
#define OPTIQ_MODEL_LORA_ADAPTER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/status.h"
#include "base/thread_pool.h"
#include "model/weights.h"

namespace optiq {

class LoraAdapter {
 public:
  // weights: of the model, which must outlive the adapter. Every tensor must belong to a linear layer of the model and fit it; errors
  // name file and tensor. Kinds of adapters that are more than A and B (DoRA, trained biases, full matrices): kUnimplemented.
  static StatusOr<std::unique_ptr<LoraAdapter>> Load(const std::string& directory, const DecoderWeights& weights);

  struct Delta {
    int64_t rank = 0;
    std::vector<float> a, b;    // [rank, in]; [out, rank], scale included
    WeightMatrix a_view, b_view;
  };
  // nullptr: the layer is as the model has it.
  const Delta* Find(const LinearWeights& w) const {
    const auto it = deltas_.find(&w);
    return it == deltas_.end() ? nullptr : &it->second;
  }
  int64_t modules() const { return static_cast<int64_t>(deltas_.size()); }
  int64_t bytes() const;  // of memory

 private:
  LoraAdapter() = default;
  std::unordered_map<const LinearWeights*, Delta> deltas_;
};

// y [m, out] += B (A x [m, in]), in f32; a row's result does not depend on the others.
void AddDelta(const LoraAdapter::Delta& delta, const float* x, int64_t m, int64_t ldx, float* y, int64_t ldy, ThreadPool* pool);

}  // namespace optiq

#endif  // OPTIQ_MODEL_LORA_ADAPTER_H_
