// Drafts without a draft model: what followed the last time the text said the same (prompt lookup).
#ifndef OPTIQ_ENGINE_NGRAM_DRAFT_H_
#define OPTIQ_ENGINE_NGRAM_DRAFT_H_

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

namespace optiq {

// Where every run of a few tokens was seen last. Constant work per token.
class NgramIndex {
 public:
  void Append(int32_t token);
  void Append(std::span<const int32_t> tokens) {
    for (int32_t t : tokens) Append(t);
  }
  // Up to `most` tokens that followed the latest earlier place with the same last 4, else 3, tokens; empty when there is none.
  std::vector<int32_t> Draft(int64_t most) const;

 private:
  static constexpr int kLengths[] = {4, 3};
  uint64_t KeyOf(int length) const;  // of the last `length` tokens

  std::vector<int32_t> tokens_;
  std::unordered_map<uint64_t, size_t> after_;  // key of a run -> index of the token after it, for runs that ended before the last
};

// Decides how many tokens to draft, from what drafts cost and how much of them was accepted.
class DraftGate {
 public:
  static constexpr int64_t kMost = 15;
  // Tokens to draft for the next pass; 0: a plain step pays better.
  int64_t Size();
  // A pass over 1 + drafted tokens took `seconds`, and `accepted` of the draft were what the model says itself.
  void Record(int64_t drafted, int64_t accepted, double seconds);

 private:
  double CostOf(int64_t drafted) const;  // of a pass, in plain passes

  double seconds_[kMost + 1] = {};  // of a pass by drafted tokens, running averages; 0: not seen
  double rate_ = 0.6;               // probability that the next drafted token is accepted
  int64_t size_ = 4;
  int64_t plain_ = 0;               // plain steps seen
  int64_t pause_ = 0;               // plain steps until the next try
};

}  // namespace optiq

#endif  // OPTIQ_ENGINE_NGRAM_DRAFT_H_
