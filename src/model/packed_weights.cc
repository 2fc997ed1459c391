#include "model/packed_weights.h"

#include <algorithm>

#include "base/checked.h"
#include "kernels/affine_strips.h"
#include "ops/linear_fast.h"

namespace optiq {
namespace {

constexpr int64_t kStripsPerTask = 16;

// What is multiplied with; the embedding only where it is the head too.
std::vector<WeightMatrix*> Multiplied(DecoderWeights* weights) {
  std::vector<WeightMatrix*> out;
  const auto add = [&](WeightMatrix* m) {
    if (m->rows > 0 && m->affine) out.push_back(m);
  };
  add(&weights->per_layer.projection.matrix);
  for (BlockWeights& block : weights->blocks) {
    for (const BlockWeights::Ref& r : block.refs()) add(r.matrix);
  }
  add(&weights->head);
  return out;
}

}  // namespace

bool PackedWeights::Pack(DecoderWeights* weights, const Checkpoint& checkpoint, int64_t most, ThreadPool* pool) {
  const AffineKernels& kernels = BestAffineKernels();
  if (kernels.pack_strips == nullptr) return false;
  const std::vector<WeightMatrix*> matrices = Multiplied(weights);
  int64_t total = 0;
  for (const WeightMatrix* m : matrices) {
    total += DivUp(m->rows, kStripRows) * kernels.strip_bytes(AffineRowsOf(*m));
    if (total > most) return false;
  }
  if (total == 0 || memory_.Allocate(total) == nullptr) return false;
  std::byte* to = memory_.data();
  for (WeightMatrix* m : matrices) {
    const AffineRows rows = AffineRowsOf(*m);
    const int64_t strips = DivUp(m->rows, kStripRows);
    pool->ParallelFor(DivUp(strips, kStripsPerTask), [&](int64_t task, int) {
      kernels.pack_strips(rows, m->rows, task * kStripsPerTask, std::min(strips, (task + 1) * kStripsPerTask), to);
    });
    for (const StoredTensor* t : {&m->weight, &m->scales, &m->biases}) checkpoint.Release(*t);
    m->strips = to;
    to += strips * kernels.strip_bytes(rows);
  }
  return true;
}

}  // namespace optiq
