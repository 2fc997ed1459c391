#include "engine/prefix_cache.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "base/checked.h"

namespace optiq {
namespace {

constexpr int64_t kNodeBytes = 400;  // of a node, its tokens and its places, about

uint64_t HashOf(std::span<const int32_t> tokens) {
  uint64_t hash = 0x243f6a8885a308d3ull;
  for (int32_t t : tokens) {
    hash = (hash ^ static_cast<uint32_t>(t)) * 0x9e3779b97f4a7c15ull;
    hash ^= hash >> 31;
  }
  return hash;
}

// Tails come as often as their bytes are worth it beside the rows'.
int64_t IntervalOf(const KvGeometry& geometry, const KvPlan& plan) {
  int64_t row = 0;
  for (size_t i = 0; i < geometry.size(); ++i) {
    if (geometry[i].window == 0) row += KvBytesPerToken(geometry[i], plan.layers[i]);
  }
  const int64_t tokens = KvTailBytes(geometry, plan) / std::max<int64_t>(1, row);
  return std::clamp<int64_t>(RoundUp(tokens, PrefixCache::kGrid), PrefixCache::kGrid, 2 * PrefixCache::kGrid);
}

}  // namespace

bool PrefixCache::Place::operator<(const Place& other) const {
  return std::tuple(used, -depth, !tail, node) < std::tuple(other.used, -other.depth, !other.tail, other.node);
}

PrefixCache::PrefixCache(KvGeometry geometry, KvPlan plan, int64_t bytes)
    : geometry_(std::move(geometry)), plan_(std::move(plan)), most_(HasPrefixes(plan_) ? bytes : 0), limit_(most_) {
  has_tail_ = HasTail(geometry_, plan_);
  for (size_t i = 0; i < geometry_.size(); ++i) {
    grid_ |= geometry_[i].heads > 0 && plan_.layers[i].quantized() && plan_.layers[i].dense_recent > 0;
  }
  interval_ = IntervalOf(geometry_, plan_);
}

PrefixCache::Node* PrefixCache::Child(uint64_t parent, std::span<const int32_t> tokens) {
  const auto it = nodes_.find({parent, HashOf(tokens)});
  if (it == nodes_.end() || !std::equal(tokens.begin(), tokens.end(), it->second->tokens.begin())) return nullptr;
  return it->second.get();
}

PrefixCache::Match PrefixCache::Find(uint64_t root, std::span<const int32_t> tokens) {
  Match match;
  if (most_ == 0) return match;
  ++now_;
  const int64_t most = static_cast<int64_t>(tokens.size()) - 1;
  std::vector<Node*> path;
  uint64_t parent = root;
  while (static_cast<int64_t>(path.size() + 1) * kBlock <= most) {
    Node* node = Child(parent, tokens.subspan(path.size() * kBlock, kBlock));
    if (node == nullptr) break;
    path.push_back(node);
    parent = node->id;
  }
  // Blocks whose rows are there from the beginning on.
  size_t whole = 0;
  while (whole < path.size() && path[whole]->rows != nullptr) ++whole;
  size_t blocks = has_tail_ ? path.size() : whole;
  while (has_tail_ && blocks > 0) {
    const int64_t settled = KvSettled(geometry_, plan_, static_cast<int64_t>(blocks) * kBlock) / kBlock;
    if (path[blocks - 1]->tail != nullptr && settled <= static_cast<int64_t>(whole)) break;
    --blocks;
  }
  if (has_tail_ && path.size() > blocks) match.branch = static_cast<int64_t>(path.size()) * kBlock;
  for (Node* node : path) Touch(node);
  if (blocks == 0) return match;
  match.length = static_cast<int64_t>(blocks) * kBlock;
  if (has_tail_) {
    match.tail = path[blocks - 1]->tail;
    TouchTail(path[blocks - 1]);
  }
  const int64_t settled = KvSettled(geometry_, plan_, match.length) / kBlock;
  for (int64_t i = 0; i < settled; ++i) match.rows.push_back(path[i]->rows);
  return match;
}

int64_t PrefixCache::PassEnd(int64_t at, int64_t prompt_length, int64_t branch) const {
  if (grid_) return std::min(prompt_length, at / kGrid * kGrid + kGrid);
  if (most_ == 0 || !has_tail_) return prompt_length;
  int64_t end = std::min(prompt_length, at / interval_ * interval_ + interval_);
  for (int64_t stop : {branch, (prompt_length - 1) / kBlock * kBlock}) {
    if (stop > at) end = std::min(end, stop);
  }
  return end;
}

bool PrefixCache::IsStop(int64_t length, int64_t prompt_length, int64_t branch) const {
  if (!has_tail_ || length == 0 || length % kBlock != 0) return false;
  if (grid_ && length % kGrid != 0) return false;
  const int64_t last = (prompt_length - 1) / (grid_ ? kGrid : kBlock) * (grid_ ? kGrid : kBlock);
  return length % interval_ == 0 || length == branch || length == last;
}

int64_t PrefixCache::Shareable(int64_t common, int64_t first_length) const {
  if (most_ == 0) return 0;
  const int64_t whole = common / kBlock * kBlock;
  if (!has_tail_) return whole;
  const int64_t unit = grid_ ? kGrid : kBlock, last = (first_length - 1) / unit * unit;
  return last <= whole ? last : whole / interval_ * interval_;
}

void PrefixCache::Store(uint64_t root, std::span<const int32_t> prompt, const KvCache& cache, int64_t branch) {
  if (most_ == 0) return;
  const int64_t length = cache.length(), blocks = length / kBlock;
  OPTIQ_CHECK(length <= static_cast<int64_t>(prompt.size()));
  const int64_t settled = KvSettled(geometry_, plan_, length) / kBlock;
  ++now_;
  uint64_t parent = root;
  for (int64_t i = 0; i < blocks; ++i) {
    const auto tokens = prompt.subspan(i * kBlock, kBlock);
    Node* node = Child(parent, tokens);
    if (node == nullptr) {
      const Key key{parent, HashOf(tokens)};
      if (nodes_.contains(key)) return;  // other tokens with the same hash: they were first
      if (!MakeRoom(kNodeBytes)) return;
      auto made = std::make_unique<Node>();
      *made = {.id = ++last_id_, .key = key, .depth = i + 1, .tokens = {tokens.begin(), tokens.end()}};
      node = made.get();
      nodes_[key] = std::move(made);
      bytes_ += kNodeBytes;
    }
    Touch(node);
    parent = node->id;
    if (node->rows == nullptr && i < settled) {
      auto rows = std::make_shared<KvRows>(CopyKvRows(cache, i * kBlock, (i + 1) * kBlock));
      if (!MakeRoom(rows->bytes)) return;
      bytes_ += rows->bytes;
      node->rows = std::move(rows);
    }
    if (i + 1 < blocks || node->tail != nullptr || !IsStop(length, static_cast<int64_t>(prompt.size()), branch)) continue;
    auto tail = std::make_shared<KvTail>(CopyKvTail(cache, settled * kBlock));
    if (!MakeRoom(tail->bytes)) return;
    bytes_ += tail->bytes;
    node->tail = std::move(tail);
    TouchTail(node);
  }
}

void PrefixCache::Touch(Node* node) {
  if (node->used == now_) return;
  places_.erase({node->used, node->depth, false, node});
  node->used = now_;
  places_.insert({node->used, node->depth, false, node});
}

void PrefixCache::TouchTail(Node* node) {
  places_.erase({node->tail_used, node->depth, true, node});
  node->tail_used = now_;
  places_.insert({node->tail_used, node->depth, true, node});
}

void PrefixCache::DropTail(Node* node) {
  if (node->tail == nullptr) return;
  places_.erase({node->tail_used, node->depth, true, node});
  bytes_ -= node->tail->bytes;
  node->tail.reset();
}

void PrefixCache::Drop(Node* node) {
  DropTail(node);
  places_.erase({node->used, node->depth, false, node});
  if (node->rows != nullptr) bytes_ -= node->rows->bytes;
  bytes_ -= kNodeBytes;
  nodes_.erase(Key(node->key));
}

bool PrefixCache::MakeRoom(int64_t bytes) {
  while (bytes_ + bytes > limit_) {
    if (places_.empty() || places_.begin()->used == now_) return false;
    const Place place = *places_.begin();
    place.tail ? DropTail(place.node) : Drop(place.node);
  }
  return true;
}

void PrefixCache::EvictTo(int64_t bytes) {
  while (bytes_ > bytes && !places_.empty()) {
    const Place place = *places_.begin();
    place.tail ? DropTail(place.node) : Drop(place.node);
  }
}

void PrefixCache::Limit(int64_t bytes) {
  limit_ = std::clamp<int64_t>(bytes, 0, most_);
  EvictTo(limit_);
}

}  // namespace optiq
