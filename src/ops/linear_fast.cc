#include "ops/linear_fast.h"

#include <algorithm>
#include <vector>

#include "base/aligned.h"
#include "base/checked.h"
#include "kernels/vector.h"

namespace optiq {

AffineRows AffineRowsOf(const WeightMatrix& w) {
  return {.codes = w.weight.bytes.data(),
          .scales = w.scales.bytes.data(),
          .biases = w.biases.bytes.data(),
          .scale_dtype = w.scales.dtype,
          .format = *w.affine,
          .cols = w.cols,
          .strips = w.strips};
}

namespace {

// The rows of x in one format, in the storage of the calling thread.
struct Activations {
  ActivationFormat format;
  AlignedBuffer<std::byte> codes, packed_codes;
  AlignedBuffer<float> d, ds, packed_d, packed_ds;
  QuantizedRows rows;
};

struct Task {
  int product = 0;
  const QuantizedRows* a = nullptr;
  int64_t begin = 0, end = 0;
};

struct Workspace {
  std::vector<Activations> activations;
  std::vector<Task> tasks;
};

Workspace& ThreadWorkspace() {
  thread_local Workspace workspace;
  return workspace;
}

// The first rows of a task that this thread will likely take later: kernels fetch ahead only within a task.
void PrefetchTask(const Task& task, std::span<const LinearProduct> products) {
  const WeightMatrix& w = *products[task.product].w;
  const std::byte* p;
  int64_t bytes;
  if (w.strips != nullptr) {
    p = w.strips + task.begin / 16 * BestAffineKernels().strip_bytes(AffineRowsOf(w));
    bytes = 2 << 10;  // the kernel goes on from there
  } else {
    const int64_t stride = static_cast<int64_t>(w.weight.bytes.size()) / w.rows;
    p = w.weight.bytes.data() + task.begin * stride;
    bytes = std::min<int64_t>(16 << 10, std::min<int64_t>(32, task.end - task.begin) * stride);
  }
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(p + i, 0, 2);
}

std::byte* ThreadScratch(int64_t bytes) {
  thread_local AlignedBuffer<std::byte> scratch;
  return scratch.Grow(bytes);
}

void Quantize(const float* x, int64_t m, int64_t ldx, int64_t cols, ActivationFormat format, ThreadPool* pool,
              Activations* a) {
  const AffineKernels& k = BestAffineKernels();
  const int64_t blocks = cols / format.block, row_bytes = k.row_bytes(cols, format.bits);
  a->format = format;
  a->rows = {.codes = a->codes.Grow(m * row_bytes), .d = a->d.Grow(m * blocks), .ds = a->ds.Grow(m * blocks), .m = m,
             .row_bytes = row_bytes, .blocks = blocks, .bits = format.bits};
  const QuantizedRows& q = a->rows;
  constexpr int64_t kChunk = 16;
  pool->ParallelFor(DivUp(m, kChunk), [&](int64_t task, int) {
    for (int64_t i = task * kChunk; i < std::min(m, (task + 1) * kChunk); ++i) {
      k.quantize(x + i * ldx, cols, format, q.codes + i * row_bytes, q.d + i * blocks, q.ds + i * blocks);
    }
  });
  if (m == 1 || k.pack == nullptr) return;
  QuantizedRows packed = q;
  packed.codes = a->packed_codes.Grow(m * row_bytes);
  packed.d = a->packed_d.Grow(m * blocks);
  packed.ds = a->packed_ds.Grow(m * blocks);
  pool->ParallelFor(k.pack_tiles(m), [&](int64_t tile, int) { k.pack(q, tile, packed); });
  a->rows = packed;
}

}  // namespace

void LinearAffine(const float* x, int64_t m, int64_t ldx, std::span<const LinearProduct> products, ActivationBits bits,
                  ThreadPool* pool) {
  const AffineKernels& k = BestAffineKernels();
  Workspace& work = ThreadWorkspace();
  work.tasks.clear();
  work.activations.resize(std::max(work.activations.size(), products.size()));  // tasks point into it
  size_t formats = 0;
  int64_t total_rows = 0;
  for (const LinearProduct& p : products) total_rows += p.w->rows;
  // A few tasks per thread: a neighbour on the machine may slow one of them down.
  const int64_t unit = m == 1 ? 16 : k.panel_rows;
  const int64_t most = m == 1 ? 1024 : m <= 32 ? 2 * unit : unit;
  const int64_t chunk = std::clamp(RoundUp(DivUp(total_rows, 4 * pool->num_threads()), unit), unit, most);
  for (size_t i = 0; i < products.size(); ++i) {
    const WeightMatrix& w = *products[i].w;
    const ActivationFormat format = ActivationFormatFor(AffineRowsOf(w), bits);
    size_t at = 0;
    while (at < formats && !(work.activations[at].format == format)) ++at;
    if (at == formats) Quantize(x, m, ldx, w.cols, format, pool, &work.activations[formats++]);
    for (int64_t r = 0; r < w.rows; r += chunk) {
      work.tasks.push_back({.product = static_cast<int>(i), .a = &work.activations[at].rows, .begin = r,
                            .end = std::min(w.rows, r + chunk)});
    }
  }
  const int64_t threads = pool->num_threads();
  pool->ParallelFor(static_cast<int64_t>(work.tasks.size()), [&](int64_t index, int) {
    const Task& t = work.tasks[index];
    const LinearProduct& p = products[t.product];
    const AffineRows w = AffineRowsOf(*p.w);
    float* y = p.y + t.begin;
    if (index + threads < static_cast<int64_t>(work.tasks.size())) PrefetchTask(work.tasks[index + threads], products);
    if (m == 1) {
      k.gemv(w, t.begin, t.end, t.end, *t.a, y);
    } else {
      k.gemm(w, t.begin, t.end, *t.a, y, p.ldy, ThreadScratch(k.scratch_bytes(w.cols, m)));
    }
    if (p.bias == nullptr) return;
    for (int64_t i = 0; i < m; ++i) AddRow(y + i * p.ldy, p.bias + t.begin, t.end - t.begin, y + i * p.ldy);
  });
}

}  // namespace optiq
