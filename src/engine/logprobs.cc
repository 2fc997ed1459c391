#include "engine/logprobs.h"

#include <algorithm>
#include <cmath>

#include "base/aligned.h"
#include "kernels/vector.h"

namespace optiq {
namespace {

constexpr float kLeast = -9999;

}  // namespace

double LogSumExp(std::span<const float> logits) {
  constexpr size_t kBlock = 1024;
  float block[kBlock];
  const float top = MaxRow(logits.data(), static_cast<int64_t>(logits.size()));
  double sum = 0;
  for (size_t i = 0; i < logits.size(); i += kBlock) {
    const int64_t n = static_cast<int64_t>(std::min(kBlock, logits.size() - i));
    ExpShiftedRow(logits.data() + i, top, n, block);
    sum += SumRow(block, n);
  }
  return top + std::log(sum);
}

TokenLogprobs LogprobsOf(std::span<const float> logits, int32_t id, int top) {
  const double total = LogSumExp(logits);
  const auto logprob = [&](int32_t i) { return std::max(kLeast, static_cast<float>(logits[i] - total)); };
  TokenLogprobs out{.id = id, .logprob = logprob(id), .top = {}};
  const size_t n = std::min<size_t>(std::max(top, 0), logits.size());
  if (n == 0) return out;
  for (int32_t i = 0; i < static_cast<int32_t>(logits.size()); ++i) {
    if (out.top.size() == n && !(logits[i] > out.top.back().second)) continue;
    if (out.top.size() == n) out.top.pop_back();
    // Behind its equals: the lower id was there before.
    const auto at = std::find_if(out.top.begin(), out.top.end(), [&](const auto& t) { return t.second < logits[i]; });
    out.top.insert(at, {i, logits[i]});
  }
  for (auto& [token, value] : out.top) value = logprob(token);
  return out;
}

}  // namespace optiq
