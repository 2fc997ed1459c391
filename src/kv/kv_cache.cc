#include "kv/kv_cache.h"

#include <algorithm>
#include <cstring>
#include <new>

namespace optiq {

KvCache::KvCache(const std::vector<int64_t>& layer_widths, const std::vector<int64_t>& state_sizes) {
  layers_.resize(layer_widths.size());
  for (size_t i = 0; i < layer_widths.size(); ++i) layers_[i].width = layer_widths[i];
  for (size_t i = 0; i < state_sizes.size(); ++i) {
    layers_[i].state.assign(state_sizes[i], 0.0f);
    has_state_ |= state_sizes[i] > 0;
  }
}

Status KvCache::Reserve(int64_t n) {
  try {
    for (KvLayer& layer : layers_) {
      const size_t need = static_cast<size_t>(length_ + n) * layer.width;
      if (layer.keys.size() < need) {
        // Grow by half so that decoding reallocates rarely.
        const size_t target = std::max(need, layer.keys.size() + layer.keys.size() / 2);
        layer.keys.resize(target);
        layer.values.resize(target);
      }
    }
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("KV cache: no memory for {} positions; use a shorter context", length_ + n);
  }
  return OkStatus();
}

void KvCache::Append(int layer, int64_t n, const float* keys, const float* values) {
  KvLayer& l = layers_[layer];
  OPTIQ_CHECK(l.keys.size() >= static_cast<size_t>(length_ + n) * l.width);
  std::memcpy(l.keys.data() + length_ * l.width, keys, n * l.width * sizeof(float));
  std::memcpy(l.values.data() + length_ * l.width, values, n * l.width * sizeof(float));
}

void KvCache::Trim(int64_t length) {
  length = std::max<int64_t>(0, length);
  if (length >= length_) return;
  // A state has moved on with the positions: only the start can be returned to.
  OPTIQ_CHECK(!has_state_ || length == 0);
  for (KvLayer& l : layers_) std::fill(l.state.begin(), l.state.end(), 0.0f);
  length_ = length;
}

int64_t KvCache::bytes() const {
  int64_t total = 0;
  for (const KvLayer& l : layers_) total += (l.keys.size() + l.values.size() + l.state.size()) * sizeof(float);
  return total;
}

}  // namespace optiq
