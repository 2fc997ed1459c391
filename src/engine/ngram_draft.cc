#include "engine/ngram_draft.h"

#include <algorithm>
#include <cmath>

namespace optiq {
namespace {

constexpr int64_t kPause = 24;

}  // namespace

uint64_t NgramIndex::KeyOf(int length) const {
  uint64_t key = static_cast<uint64_t>(length);
  for (size_t i = tokens_.size() - length; i < tokens_.size(); ++i) {
    key ^= static_cast<uint32_t>(tokens_[i]);
    key *= 0x9e3779b97f4a7c15ull;
    key ^= key >> 29;
  }
  return key;
}

void NgramIndex::Append(int32_t token) {
  // The runs that end before this token get it as what follows.
  for (int length : kLengths) {
    if (tokens_.size() >= static_cast<size_t>(length)) after_[KeyOf(length)] = tokens_.size();
  }
  tokens_.push_back(token);
}

std::vector<int32_t> NgramIndex::Draft(int64_t most) const {
  for (int length : kLengths) {
    if (most <= 0 || tokens_.size() < static_cast<size_t>(length)) continue;
    const auto it = after_.find(KeyOf(length));
    if (it == after_.end()) continue;
    const size_t begin = it->second, end = std::min(tokens_.size(), begin + static_cast<size_t>(most));
    // Equal keys of different runs are possible and harmless: a draft is only a guess.
    return {tokens_.begin() + static_cast<std::ptrdiff_t>(begin), tokens_.begin() + static_cast<std::ptrdiff_t>(end)};
  }
  return {};
}

double DraftGate::CostOf(int64_t drafted) const {
  if (seconds_[0] <= 0) return 1;
  for (int64_t n = drafted; n <= kMost; ++n) {
    if (seconds_[n] > 0) return seconds_[n] / seconds_[0];  // no more than a larger pass
  }
  return 1 + 0.2 * static_cast<double>(drafted);
}

int64_t DraftGate::Size() {
  if (plain_ < 2) return 0;  // what a plain step costs has to be known
  if (pause_ > 0) {
    --pause_;
    return 0;
  }
  int64_t best = 0;
  double best_gain = 1.03;  // of tokens per time over plain steps; the margin pays for the bookkeeping
  for (int64_t n = 1; n <= size_; n = n * 2 + 1) {
    const double tokens = (1 - std::pow(rate_, static_cast<double>(n + 1))) / (1 - std::min(rate_, 0.999));
    if (tokens / CostOf(n) > best_gain) {
      best_gain = tokens / CostOf(n);
      best = n;
    }
  }
  if (best == 0) {
    pause_ = kPause;
    rate_ = std::max(rate_, 0.5);  // the text may have become repetitive meanwhile: one short try
    size_ = 3;
  }
  return best;
}

void DraftGate::Record(int64_t drafted, int64_t accepted, double seconds) {
  if (drafted > kMost) return;
  if (drafted == 0) ++plain_;
  double& average = seconds_[drafted];
  average = average == 0 ? seconds : 0.8 * average + 0.2 * std::min(seconds, 4 * average);
  if (drafted == 0) return;
  const double share = static_cast<double>(accepted) / static_cast<double>(drafted);
  rate_ = std::clamp(0.6 * rate_ + 0.4 * share, 0.05, 0.98);
  size_ = accepted == drafted ? std::min(kMost, size_ * 2 + 1) : std::max<int64_t>(1, size_ / 2);
}

}  // namespace optiq
