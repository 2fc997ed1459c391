// Keys and values of one sequence, for all layers.
#ifndef OPTIQ_KV_KV_CACHE_H_
#define OPTIQ_KV_KV_CACHE_H_

#include <cstdint>
#include <vector>

#include "base/status.h"

namespace optiq {

// One layer's storage: dense f32, full length. Rows are positions; a row is [num_key_value_heads * head_dim], keys after RoPE.
struct KvLayer {
  int64_t width = 0;  // num_key_value_heads * head_dim; 0: the layer keeps no keys
  std::vector<float> keys, values;
  std::vector<float> state;  // of a layer that carries a fixed number of values along instead (short convolutions)
};

class KvCache {
 public:
  explicit KvCache(const std::vector<int64_t>& layer_widths, const std::vector<int64_t>& state_sizes = {});

  int64_t length() const { return length_; }
  // Makes room for n further positions in every layer. kResourceExhausted when memory is short.
  Status Reserve(int64_t n);
  // Writes rows for positions length()..length()+n-1 of one layer; visible to Keys/Values at once.
  void Append(int layer, int64_t n, const float* keys, const float* values);
  // Called once per forward, after every layer appended n rows.
  void Advance(int64_t n) { length_ += n; }
  // Drops all positions >= length.
  void Trim(int64_t length);

  const float* Keys(int layer) const { return layers_[layer].keys.data(); }
  const float* Values(int layer) const { return layers_[layer].values.data(); }
  // The values of a layer with state, zeros at first. It cannot go back: Trim forgets it unless nothing is trimmed.
  float* State(int layer) { return layers_[layer].state.data(); }
  // Whether Trim to a shorter, positive length leaves a usable cache.
  bool can_trim() const { return !has_state_; }
  int64_t bytes() const;

 private:
  std::vector<KvLayer> layers_;
  int64_t length_ = 0;
  bool has_state_ = false;
};

}  // namespace optiq

#endif  // OPTIQ_KV_KV_CACHE_H_
