#include "ops/expert_linear_fast.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/aligned.h"
#include "base/checked.h"
#include "kernels/affine_matmul.h"
#include "kernels/vector.h"
#include "ops/linear_fast.h"

namespace optiq {
namespace {

constexpr int64_t kRowsPerTask = 16;

// Quantized rows in storage that is kept.
struct Rows {
  AlignedBuffer<std::byte> codes;
  AlignedBuffer<float> d, ds;
  QuantizedRows view;

  void Grow(int64_t m, int64_t row_bytes, int64_t blocks, ActivationBits bits) {
    view = {.codes = codes.Grow(m * row_bytes), .d = d.Grow(m * blocks), .ds = ds.Grow(m * blocks), .m = m,
            .row_bytes = row_bytes, .blocks = blocks, .bits = bits};
  }
};

QuantizedRows Slice(const QuantizedRows& rows, int64_t begin, int64_t m) {
  QuantizedRows out = rows;
  out.codes += begin * rows.row_bytes;
  out.d += begin * rows.blocks;
  out.ds += begin * rows.blocks;
  out.m = m;
  return out;
}

void CopyRow(const QuantizedRows& from, int64_t i, const QuantizedRows& to, int64_t j) {
  std::memcpy(to.codes + j * to.row_bytes, from.codes + i * from.row_bytes, from.row_bytes);
  std::memcpy(to.d + j * to.blocks, from.d + i * from.blocks, from.blocks * sizeof(float));
  std::memcpy(to.ds + j * to.blocks, from.ds + i * from.blocks, from.blocks * sizeof(float));
}

// Pairs [begin, begin + rows.m) of the order by expert.
struct Group {
  int32_t expert = 0;
  int64_t begin = 0;
  QuantizedRows rows;
};

struct Task {
  int64_t group = 0, begin = 0, end = 0;  // rows of the expert's matrix; or a tile to pack
};

struct Workspace {
  Rows distinct, gathered, packed;
  std::vector<int32_t> place;  // of an input row among the distinct ones; -1: no pair has it
  std::vector<int64_t> inputs;
  std::vector<const ExpertPair*> order;
  std::vector<Group> groups;
  std::vector<Task> tasks;
  AlignedBuffer<float> products;  // [pairs][out]
  std::vector<int64_t> begin, member;  // pairs by output row
};

Workspace& ThreadWorkspace() {
  thread_local Workspace workspace;
  return workspace;
}

// Every input row that a pair names, once.
void QuantizeInputs(const float* x, int64_t ldx, std::span<const ExpertPair> pairs, int64_t cols, ActivationFormat format,
                    ThreadPool* pool, Workspace* work) {
  const AffineKernels& k = BestAffineKernels();
  int64_t last = 0;
  for (const ExpertPair& p : pairs) last = std::max(last, p.in_row);
  work->place.assign(last + 1, -1);
  work->inputs.clear();
  for (const ExpertPair& p : pairs) {
    if (work->place[p.in_row] >= 0) continue;
    work->place[p.in_row] = static_cast<int32_t>(work->inputs.size());
    work->inputs.push_back(p.in_row);
  }
  const int64_t m = static_cast<int64_t>(work->inputs.size());
  work->distinct.Grow(m, k.row_bytes(cols, format.bits), cols / format.block, format.bits);
  const QuantizedRows& q = work->distinct.view;
  pool->ParallelFor(DivUp(m, kRowsPerTask), [&](int64_t task, int) {
    for (int64_t i = task * kRowsPerTask; i < std::min(m, (task + 1) * kRowsPerTask); ++i) {
      k.quantize(x + work->inputs[i] * ldx, cols, format, q.codes + i * q.row_bytes, q.d + i * q.blocks, q.ds + i * q.blocks);
    }
  });
}

// Sorts the pairs by expert and gives every expert its rows, side by side and packed. An expert with one row reads it where it is.
void MakeGroups(std::span<const ExpertPair> pairs, ThreadPool* pool, Workspace* work) {
  const AffineKernels& k = BestAffineKernels();
  const QuantizedRows& all = work->distinct.view;
  const int64_t n = static_cast<int64_t>(pairs.size());
  work->order.resize(n);
  for (int64_t i = 0; i < n; ++i) work->order[i] = &pairs[i];
  std::stable_sort(work->order.begin(), work->order.end(),
                   [](const ExpertPair* a, const ExpertPair* b) { return a->expert < b->expert; });
  work->groups.clear();
  for (int64_t i = 0; i < n; ++i) {
    if (i == 0 || work->order[i]->expert != work->order[i - 1]->expert) work->groups.push_back({work->order[i]->expert, i, {}});
    ++work->groups.back().rows.m;
  }
  const bool gather = static_cast<int64_t>(work->groups.size()) < n;
  if (gather) {
    work->gathered.Grow(n, all.row_bytes, all.blocks, all.bits);
    pool->ParallelFor(DivUp(n, kRowsPerTask), [&](int64_t task, int) {
      for (int64_t i = task * kRowsPerTask; i < std::min(n, (task + 1) * kRowsPerTask); ++i) {
        CopyRow(all, work->place[work->order[i]->in_row], work->gathered.view, i);
      }
    });
    if (k.pack != nullptr) work->packed.Grow(n, all.row_bytes, all.blocks, all.bits);
  }
  work->tasks.clear();
  for (size_t g = 0; g < work->groups.size(); ++g) {
    Group& group = work->groups[g];
    const int64_t m = group.rows.m;
    if (m == 1) {
      group.rows = Slice(all, work->place[work->order[group.begin]->in_row], 1);
      continue;
    }
    group.rows = Slice(work->gathered.view, group.begin, m);
    if (k.pack == nullptr) continue;
    for (int64_t tile = 0; tile < k.pack_tiles(m); ++tile) work->tasks.push_back({static_cast<int64_t>(g), tile, 0});
  }
  pool->ParallelFor(static_cast<int64_t>(work->tasks.size()), [&](int64_t task, int) {
    const Task& t = work->tasks[task];
    const Group& group = work->groups[t.group];
    k.pack(group.rows, t.begin, Slice(work->packed.view, group.begin, group.rows.m));
  });
  if (k.pack == nullptr) return;
  for (Group& group : work->groups) {
    if (group.rows.m > 1) group.rows = Slice(work->packed.view, group.begin, group.rows.m);
  }
}

void Multiply(std::span<const WeightMatrix> experts, ThreadPool* pool, Workspace* work) {
  const AffineKernels& k = BestAffineKernels();
  const int64_t out = experts[0].rows, in = experts[0].cols;
  work->tasks.clear();
  for (size_t g = 0; g < work->groups.size(); ++g) {
    const bool one = work->groups[g].rows.m == 1;
    const int64_t chunk = one ? std::max<int64_t>(16, RoundUp(DivUp(out, 4 * pool->num_threads()), 16)) : 2 * k.panel_rows;
    for (int64_t r = 0; r < out; r += chunk) work->tasks.push_back({static_cast<int64_t>(g), r, std::min(out, r + chunk)});
  }
  float* products = work->products.Grow(work->order.size() * out);
  pool->ParallelFor(static_cast<int64_t>(work->tasks.size()), [&](int64_t task, int) {
    const Task& t = work->tasks[task];
    const Group& group = work->groups[t.group];
    const AffineRows w = AffineRowsOf(experts[group.expert]);
    float* y = products + group.begin * out + t.begin;
    if (group.rows.m == 1) {
      k.gemv(w, t.begin, t.end, t.end, group.rows, y);
    } else {
      thread_local AlignedBuffer<std::byte> scratch;
      k.gemm(w, t.begin, t.end, group.rows, y, out, scratch.Grow(k.scratch_bytes(in, group.rows.m)));
    }
  });
}

// Every output row takes its products in ascending order of expert.
void Deliver(int64_t out, float* y, int64_t ldy, ExpertOutput output, ThreadPool* pool, Workspace* work) {
  const int64_t n = static_cast<int64_t>(work->order.size());
  int64_t last = 0;
  for (const ExpertPair* p : work->order) last = std::max(last, p->out_row);
  work->begin.assign(last + 2, 0);
  for (const ExpertPair* p : work->order) ++work->begin[p->out_row + 1];
  for (int64_t r = 0; r <= last; ++r) work->begin[r + 1] += work->begin[r];
  work->member.resize(n);
  for (int64_t i = n - 1; i >= 0; --i) work->member[--work->begin[work->order[i]->out_row + 1]] = i;
  // begin[r + 1] is now where row r begins, and begin[r + 2] where it ends.
  const auto end = [&](int64_t r) { return r == last ? n : work->begin[r + 2]; };
  pool->ParallelFor(DivUp(last + 1, kRowsPerTask), [&](int64_t task, int) {
    for (int64_t r = task * kRowsPerTask; r < std::min(last + 1, (task + 1) * kRowsPerTask); ++r) {
      float* to = y + r * ldy;
      for (int64_t j = work->begin[r + 1]; j < end(r); ++j) {
        const float* product = work->products.data() + work->member[j] * out;
        if (output == ExpertOutput::kStore) {
          std::memcpy(to, product, out * sizeof(float));
        } else {
          AddRow(to, product, out, to);
        }
      }
    }
  });
}

}  // namespace

bool CanMultiplyExpertsFast(std::span<const WeightMatrix> experts) {
  return std::all_of(experts.begin(), experts.end(),
                     [&](const WeightMatrix& w) { return w.affine.has_value() && *w.affine == *experts[0].affine; });
}

void ExpertLinearAffine(const float* x, int64_t ldx, std::span<const ExpertPair> pairs, std::span<const WeightMatrix> experts,
                        float* y, int64_t ldy, ExpertOutput output, ThreadPool* pool) {
  Workspace& work = ThreadWorkspace();
  const ActivationFormat format = ActivationFormatFor(AffineRowsOf(experts[0]), ActivationBits::k15);
  QuantizeInputs(x, ldx, pairs, experts[0].cols, format, pool, &work);
  MakeGroups(pairs, pool, &work);
  Multiply(experts, pool, &work);
  Deliver(experts[0].rows, y, ldy, output, pool, &work);
}

}  // namespace optiq
