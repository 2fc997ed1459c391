// Keys and values of one sequence, for all layers.
#ifndef OPTIQ_KV_KV_CACHE_H_
#define OPTIQ_KV_KV_CACHE_H_

#include <cstdint>
#include <vector>

#include "base/status.h"

namespace optiq {

// One layer's storage: dense f32, full length. Rows are positions; a row is [num_key_value_heads * head_dim], keys after RoPE.
struct KvLayer {
  int64_t width = 0;  // num_key_value_heads * head_dim
  std::vector<float> keys, values;
};

class KvCache {
 public:
  explicit KvCache(const std::vector<int64_t>& layer_widths);

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
  int64_t bytes() const;

 private:
  std::vector<KvLayer> layers_;
  int64_t length_ = 0;
};

}  // namespace optiq

#endif  // OPTIQ_KV_KV_CACHE_H_
