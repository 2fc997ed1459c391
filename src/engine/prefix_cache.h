// Keys and values of earlier prompts, used again by later ones that begin alike.
//
// A tree of blocks of 32 tokens, compared token by token, one root for each adapter (the model and the plan are the engine's). A block
// keeps the rows of layers that keep every position; at some lengths a tail keeps what changes: rings, states, recent dense rows. What
// is stored was computed as rows of a prompt, and never changes: a sequence that begins with it goes on bit for bit as if it had read
// the prompt itself. Not thread-safe.
#ifndef OPTIQ_ENGINE_PREFIX_CACHE_H_
#define OPTIQ_ENGINE_PREFIX_CACHE_H_

#include <cstdint>
#include <memory>
#include <set>
#include <span>
#include <unordered_map>
#include <vector>

#include "kv/kv_prefix.h"

namespace optiq {

class PrefixCache {
 public:
  static constexpr int64_t kBlock = 32;  // tokens
  // With dense_recent, what a token sees depends on where its pass began: passes begin at multiples of this.
  static constexpr int64_t kGrid = 128;

  // bytes: the most it keeps; 0: nothing.
  PrefixCache(KvGeometry geometry, KvPlan plan, int64_t bytes);

  // The longest beginning of `tokens` that can be used, at least one token shorter than they are.
  struct Match {
    int64_t length = 0;
    std::vector<std::shared_ptr<const KvRows>> rows;
    std::shared_ptr<const KvTail> tail;
    int64_t branch = 0;  // where the tokens leave what is known, if a tail there would have helped; else 0
  };
  Match Find(uint64_t root, std::span<const int32_t> tokens);

  // Whether passes must begin at multiples of kGrid.
  bool on_grid() const { return grid_; }
  // Where a pass over the prompt from position `at` must end at the latest, for Store to be of use; branch as Find gave it.
  int64_t PassEnd(int64_t at, int64_t prompt_length, int64_t branch) const;
  // How much of two prompts' common beginning the second can have once the first was read.
  int64_t Shareable(int64_t common, int64_t first_length) const;
  // Keeps what the cache holds of `prompt`, of which it has read the beginning and nothing else. May drop other entries.
  void Store(uint64_t root, std::span<const int32_t> prompt, const KvCache& cache, int64_t branch);

  // Drops what was used least recently until no more than `bytes` are kept.
  void EvictTo(int64_t bytes);
  int64_t bytes() const { return bytes_; }
  // Changes the most it keeps, up to what it was made with.
  void Limit(int64_t bytes);

 private:
  struct Node;
  struct Key {
    uint64_t parent, hash;
    bool operator==(const Key&) const = default;
  };
  struct KeyHash {
    size_t operator()(const Key& k) const { return k.hash ^ (k.parent * 0x9e3779b97f4a7c15ull); }
  };
  struct Node {
    uint64_t id = 0;
    Key key{};
    int64_t depth = 0;  // blocks up to its end
    std::vector<int32_t> tokens;
    std::shared_ptr<const KvRows> rows;
    std::shared_ptr<const KvTail> tail;
    uint64_t used = 0, tail_used = 0;
  };
  // Least recently used first; of one moment the deepest, as nothing below a missing block can be found.
  struct Place {
    uint64_t used;
    int64_t depth;
    bool tail;
    Node* node;
    bool operator<(const Place& other) const;
  };
  Node* Child(uint64_t parent, std::span<const int32_t> tokens);
  bool IsStop(int64_t length, int64_t prompt_length, int64_t branch) const;
  void Touch(Node* node);
  void TouchTail(Node* node);
  void DropTail(Node* node);
  void Drop(Node* node);
  // False when only what was used just now is left.
  bool MakeRoom(int64_t bytes);

  KvGeometry geometry_;
  KvPlan plan_;
  int64_t most_, limit_;
  bool has_tail_, grid_ = false;
  int64_t interval_ = 0;  // between tails
  std::unordered_map<Key, std::unique_ptr<Node>, KeyHash> nodes_;
  std::set<Place> places_;
  int64_t bytes_ = 0;
  uint64_t now_ = 0, last_id_ = uint64_t{1} << 32;  // roots are below
};

}  // namespace optiq

#endif  // OPTIQ_ENGINE_PREFIX_CACHE_H_
