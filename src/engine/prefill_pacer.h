// How many prompt tokens a step may take, and who gets them.
#ifndef OPTIQ_ENGINE_PREFILL_PACER_H_
#define OPTIQ_ENGINE_PREFILL_PACER_H_

#include <cstdint>
#include <span>
#include <vector>

namespace optiq {

// While answers are being written, prompts get the tokens that the stall time allows at the best rate of the last steps, which include
// what the answers take: one slow step does not make chunks small, lasting slowness does.
class PrefillPacer {
 public:
  static constexpr int64_t kLeast = 32;  // tokens of a step with prompts, so that they always advance

  PrefillPacer(int64_t chunk, double stall_seconds) : chunk_(chunk), stall_seconds_(stall_seconds) {}

  int64_t Budget(bool decoding) const;
  // A step of `tokens` prompt tokens, beside few others, took `seconds`.
  void Record(int64_t tokens, double seconds);

 private:
  int64_t chunk_;
  double stall_seconds_;
  double rate_ = 0;  // tokens per second; 0: not known
};

// Shares `budget` tokens out to prompts that lack `left` tokens each, in order of arrival: equal parts, so that a short
// prompt is not behind a long one, and what the short ones do not need to the oldest. The sum is min(budget, sum of
// left).
std::vector<int64_t> SharePrefill(std::span<const int64_t> left, int64_t budget);

}  // namespace optiq

#endif  // OPTIQ_ENGINE_PREFILL_PACER_H_
