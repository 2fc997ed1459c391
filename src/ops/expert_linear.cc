#include "ops/expert_linear.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/aligned.h"
#include "base/checked.h"
#include "kernels/vector.h"
#include "ops/expert_linear_fast.h"

namespace optiq {
namespace {

// Pairs grouped by expert: begin[e] .. begin[e + 1] of `order`.
struct Groups {
  std::vector<int64_t> begin;
  std::vector<const ExpertPair*> order;
};

Groups GroupByExpert(std::span<const ExpertPair> pairs, size_t experts) {
  Groups g;
  g.begin.assign(experts + 1, 0);
  for (const ExpertPair& p : pairs) ++g.begin[p.expert + 1];
  for (size_t e = 0; e < experts; ++e) g.begin[e + 1] += g.begin[e];
  std::vector<int64_t> next(g.begin.begin(), g.begin.end() - 1);
  g.order.resize(pairs.size());
  for (const ExpertPair& p : pairs) g.order[next[p.expert]++] = &p;
  return g;
}

}  // namespace

void ExpertLinear(const float* x, int64_t ldx, std::span<const ExpertPair> pairs, std::span<const WeightMatrix> experts,
                  float* y, int64_t ldy, ThreadPool* pool, const ExpertLinearOptions& options) {
  if (pairs.empty()) return;
  if (IsFast(options.products) && CanMultiplyExpertsFast(experts)) {
    return ExpertLinearAffine(x, ldx, pairs, experts, y, ldy, options.output, pool);
  }
  const Groups groups = GroupByExpert(pairs, experts.size());
  const int64_t in = experts[0].cols, out = experts[0].rows;
  // One row through several experts (decoding): one parallel region for all.
  const bool one_row =
      std::all_of(pairs.begin(), pairs.end(), [&](const ExpertPair& p) { return p.in_row == pairs[0].in_row; });
  if (one_row && options.output == ExpertOutput::kStore && !options.fixed_order) {
    std::vector<LinearProduct> all;
    for (const ExpertPair& p : pairs) all.push_back({.w = &experts[p.expert], .y = y + p.out_row * ldy, .ldy = ldy});
    LinearMany(x + pairs[0].in_row * ldx, 1, ldx, all, pool, options.products);
    return;
  }
  thread_local AlignedBuffer<float> gathered, products;  // of the calling thread, kept: fresh pages are slow
  for (size_t e = 0; e < experts.size(); ++e) {
    const int64_t first = groups.begin[e], m = groups.begin[e + 1] - first;
    if (m == 0) continue;
    const ExpertPair* const* pair = groups.order.data() + first;
    const bool store = options.output == ExpertOutput::kStore;
    if (m == 1 && store && !options.fixed_order) {
      Linear(x + pair[0]->in_row * ldx, 1, ldx, experts[e], nullptr, y + pair[0]->out_row * ldy, ldy, pool,
             options.products);
      continue;
    }
    // Few rows take another kernel, with another order of additions; rows of zeros lead all to the same one.
    const int64_t rows = options.fixed_order ? std::max(m, kFewRows + 1) : m;
    float* a = gathered.Grow(rows * in);
    float* b = products.Grow(rows * out);
    for (int64_t i = 0; i < m; ++i) std::memcpy(a + i * in, x + pair[i]->in_row * ldx, in * sizeof(float));
    std::fill(a + m * in, a + rows * in, 0.0f);
    Linear(a, rows, in, experts[e], nullptr, b, out, pool, options.products);
    pool->ParallelFor(DivUp(m, int64_t{16}), [&](int64_t task, int) {
      for (int64_t i = task * 16; i < std::min(m, (task + 1) * 16); ++i) {
        float* to = y + pair[i]->out_row * ldy;
        if (store) {
          std::memcpy(to, b + i * out, out * sizeof(float));
        } else {
          AddRow(to, b + i * out, out, to);
        }
      }
    });
  }
}

}  // namespace optiq
