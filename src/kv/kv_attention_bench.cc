// One decoding step's attention over a long cache, per format: bytes of the cache read per second, and the time beside bf16's.
#include <benchmark/benchmark.h>

#include <cmath>

#include "kv/kv_cache.h"
#include "ops/kv_attention.h"

namespace optiq {
namespace {

// SmolLM2-135M: 30 layers of 9 heads over 3 key-value heads of 64.
constexpr int64_t kLayers = 30, kHeads = 9, kKvHeads = 3, kDim = 64;

void BM_Decode(benchmark::State& state) {
  const int64_t context = state.range(0);
  const KvFormat format{static_cast<int>(state.range(1)), 64};
  const KvGeometry geometry(kLayers, {.heads = kKvHeads, .head_dim = kDim});
  KvCache cache(geometry, UniformKvPlan(geometry, format));
  ThreadPool pool;
  std::vector<float> rows(context * kKvHeads * kDim);
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = std::sin(0.37f * i);
  for (int l = 0; l < kLayers; ++l) {
    cache.Append(l, context, rows.data(), rows.data(), &pool);
    cache.Done(l);
  }
  cache.Advance(context);
  const AttentionShape shape{.num_heads = kHeads, .num_kv_heads = kKvHeads, .head_dim = kDim, .scale = 0.125f};
  std::vector<float> q(kHeads * kDim, 0.1f), out(kHeads * kDim);
  for (auto _ : state) {
    for (int l = 0; l < kLayers; ++l) {
      const KvAttentionCall call{.q = q.data(), .out = out.data(), .rows = 1, .start = context - 1, .spans = cache.Spans(l)};
      KvAttention({&call, 1}, shape, &pool);
    }
  }
  const int64_t bytes = KvPlanBytes(cache.plan(), geometry, context);
  state.SetBytesProcessed(state.iterations() * bytes);
  state.counters["cache_MB"] = static_cast<double>(bytes) / 1e6;
}
BENCHMARK(BM_Decode)
    ->ArgsProduct({{1024, 8192}, {32, 16, 8, 6, 5, 4, 3, 2}})
    ->ArgNames({"context", "bits"})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

}  // namespace
}  // namespace optiq
