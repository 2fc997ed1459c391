#include "model/rope.h"

#include <cmath>

namespace optiq {

void RopeTable::Extend(int64_t n) {
  if (n <= length_) return;
  cos_.resize(n * half());
  sin_.resize(n * half());
  for (int64_t p = length_; p < n; ++p) {
    for (int64_t i = 0; i < half(); ++i) {
      // The angle is an f32 product, as in transformers; its cosine is exact to f32.
      const double angle = static_cast<float>(p) * spec_.inv_freq[i];
      cos_[p * half() + i] = static_cast<float>(std::cos(angle)) * spec_.attention_factor;
      sin_[p * half() + i] = static_cast<float>(std::sin(angle)) * spec_.attention_factor;
    }
  }
  length_ = n;
}

RopeTables MakeRopeTables(const DecoderSpec& spec, int64_t positions) {
  RopeTables tables;
  for (const RopeSpec& r : spec.ropes) {
    tables.emplace_back(r);
    tables.back().Extend(positions);
  }
  return tables;
}

}  // namespace optiq
