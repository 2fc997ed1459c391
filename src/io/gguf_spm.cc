#include "io/gguf_spm.h"

#include <algorithm>
#include <bit>
#include <random>

namespace optiq {
namespace {

constexpr size_t kMaxMerges = 4'000'000;  // Gemma's 262144 pieces have 514906

// A text's hash is a polynomial modulo the prime 2^61 - 1, which gives the hash of any part of a text from those of its
// heads. The base is drawn at random per process, so a file cannot be made to collide.
constexpr uint64_t kPrime = (1ull << 61) - 1;

uint64_t Reduce(uint64_t x) { return x >= kPrime ? x - kPrime : x; }

uint64_t MulMod(uint64_t a, uint64_t b) {
  const unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
  return Reduce(static_cast<uint64_t>(product & kPrime) + static_cast<uint64_t>(product >> 61));
}

uint64_t DrawBase() {
  std::random_device device;
  return (static_cast<uint64_t>(device()) << 32 | device()) % (kPrime - 1024) + 512;
}

// Finds tokens by the hash of their text.
class HashTable {
 public:
  explicit HashTable(size_t tokens)
      : base_(DrawBase()),
        mask_(std::bit_ceil(std::max<size_t>(2 * tokens, 16)) - 1),
        keys_(mask_ + 1),
        tokens_(mask_ + 1) {}

  uint64_t base() const { return base_; }
  uint64_t Extend(uint64_t hash, char c) const {
    return Reduce(MulMod(hash, base_) + static_cast<unsigned char>(c) + 1);
  }
  uint64_t HashOf(std::string_view text) const {
    uint64_t hash = 0;
    for (const char c : text) hash = Extend(hash, c);
    return hash;
  }

  void Prefetch(uint64_t hash) const { __builtin_prefetch(&keys_[hash & mask_]); }

  // The token with this hash. Its text may be another with negligible probability: the caller compares.
  std::optional<uint32_t> Find(uint64_t hash) const {
    size_t slot = hash & mask_;
    while (keys_[slot] != 0 && keys_[slot] != hash + 1) slot = (slot + 1) & mask_;
    return keys_[slot] == 0 ? std::nullopt : std::optional<uint32_t>(tokens_[slot]);
  }

  void Insert(uint64_t hash, uint32_t token) {
    size_t slot = hash & mask_;
    while (keys_[slot] != 0) slot = (slot + 1) & mask_;
    keys_[slot] = hash + 1;
    tokens_[slot] = token;
  }

 private:
  const uint64_t base_;
  const size_t mask_;
  std::vector<uint64_t> keys_;  // hash + 1, or 0; open addressing
  std::vector<uint32_t> tokens_;
};

bool IsCharStart(char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }

struct Ranked {
  uint64_t key;  // smaller is better
  SpmMerge merge;
};

// Orders merges by one integer: score descending (as an order-preserving integer), left length, right length
// descending.
uint64_t RankKey(float score, size_t left_chars, size_t right_chars) {
  const uint32_t bits = std::bit_cast<uint32_t>(score + 0.0f);  // -0 becomes 0
  const uint32_t ascending = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
  const auto clamp = [](size_t n) { return static_cast<uint64_t>(0xFFFF - std::min<size_t>(n, 0xFFFF)); };
  return static_cast<uint64_t>(~ascending) << 32 | clamp(left_chars) << 16 | clamp(right_chars);
}

// One way to split one piece, both halves still to be looked up.
struct Split {
  uint64_t left, right;  // hashes
  SpmMerge merge;
  uint32_t left_chars, right_chars;
};

// Appends the splits of `text` between its characters. `heads` and `power` have room for its length + 1.
void AppendSplits(const HashTable& table, std::string_view text, uint32_t piece, std::span<const uint64_t> power,
                  std::span<uint64_t> heads, std::vector<Split>* out) {
  uint32_t chars = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    heads[i + 1] = table.Extend(heads[i], text[i]);
    chars += IsCharStart(text[i]);
  }
  uint32_t left_chars = 0;
  for (size_t k = 1; k < text.size(); ++k) {
    if (!IsCharStart(text[k])) continue;
    ++left_chars;
    const uint64_t head = MulMod(heads[k], power[text.size() - k]);
    const uint64_t tail = Reduce(heads[text.size()] + kPrime - head);
    table.Prefetch(heads[k]);
    table.Prefetch(tail);
    out->push_back({heads[k], tail, {piece, static_cast<uint32_t>(k)}, left_chars, chars - left_chars});
  }
}

}  // namespace

std::optional<uint32_t> FindDuplicateToken(std::span<const std::string_view> tokens, const std::vector<bool>& use) {
  HashTable table(tokens.size());
  for (uint32_t i = 0; i < tokens.size(); ++i) {
    if (!use[i]) continue;
    const uint64_t hash = table.HashOf(tokens[i]);
    const std::optional<uint32_t> other = table.Find(hash);
    if (other && tokens[*other] == tokens[i]) return i;
    if (!other) table.Insert(hash, i);
  }
  return std::nullopt;
}

StatusOr<std::vector<SpmMerge>> SpmMerges(std::span<const std::string_view> tokens, std::span<const float> scores,
                                          const std::vector<bool>& use) {
  HashTable table(tokens.size());
  size_t longest = 0;
  for (uint32_t i = 0; i < tokens.size(); ++i) {
    if (!use[i]) continue;
    table.Insert(table.HashOf(tokens[i]), i);
    longest = std::max(longest, tokens[i].size());
  }
  std::vector<uint64_t> power(longest + 1, 1), heads(longest + 1, 0);
  for (size_t i = 1; i <= longest; ++i) power[i] = MulMod(power[i - 1], table.base());

  // Look-ups miss the caches, so the splits of many pieces are prefetched before the first is looked up. Texts are
  // compared only when both halves are found.
  constexpr uint32_t kBatch = 16;
  std::vector<Split> splits;
  std::vector<Ranked> found;
  for (uint32_t begin = 0; begin < tokens.size(); begin += kBatch) {
    splits.clear();
    const auto end = static_cast<uint32_t>(std::min<size_t>(tokens.size(), begin + kBatch));
    for (uint32_t piece = begin; piece < end; ++piece) {
      if (use[piece]) AppendSplits(table, tokens[piece], piece, power, heads, &splits);
    }
    for (const Split& s : splits) {
      const std::optional<uint32_t> left = table.Find(s.left);
      if (!left) continue;
      const std::optional<uint32_t> right = table.Find(s.right);
      if (!right) continue;
      const std::string_view text = tokens[s.merge.piece];
      if (tokens[*left] != text.substr(0, s.merge.split) || tokens[*right] != text.substr(s.merge.split)) continue;
      if (found.size() == kMaxMerges) {
        return ResourceExhausted("the SentencePiece vocabulary has more than {} merges", kMaxMerges);
      }
      found.push_back({RankKey(scores[s.merge.piece], s.left_chars, s.right_chars), s.merge});
    }
  }
  std::stable_sort(found.begin(), found.end(), [](const Ranked& a, const Ranked& b) { return a.key < b.key; });
  std::vector<SpmMerge> merges(found.size());
  std::transform(found.begin(), found.end(), merges.begin(), [](const Ranked& r) { return r.merge; });
  return merges;
}

}  // namespace optiq
