#include "engine/prefill_pacer.h"

#include <algorithm>

namespace optiq {

int64_t PrefillPacer::Budget(bool decoding) const {
  if (!decoding) return chunk_;
  const double tokens = rate_ > 0 ? stall_seconds_ * rate_ : 2 * kLeast;
  return std::clamp(static_cast<int64_t>(std::min(tokens, 1e9)), std::min(kLeast, chunk_), chunk_);
}

void PrefillPacer::Record(int64_t tokens, double seconds) {
  // Small steps say little about the rate. It fades: long contexts and other work on the machine make tokens dearer.
  if (tokens < kLeast || seconds <= 0) return;
  rate_ = std::max(0.95 * rate_, static_cast<double>(tokens) / seconds);
}

std::vector<int64_t> SharePrefill(std::span<const int64_t> left, int64_t budget) {
  std::vector<int64_t> shares(left.size(), 0);
  for (size_t i = 0; i < left.size(); ++i) {
    const int64_t part = (budget + static_cast<int64_t>(left.size() - i) - 1) / static_cast<int64_t>(left.size() - i);
    shares[i] = std::min(left[i], part);
    budget -= shares[i];
  }
  for (size_t i = 0; i < left.size() && budget > 0; ++i) {
    const int64_t more = std::min(left[i] - shares[i], budget);
    shares[i] += more;
    budget -= more;
  }
  return shares;
}

}  // namespace optiq
