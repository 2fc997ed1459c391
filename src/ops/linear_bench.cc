// Dense matrix products as the sweep and the exact path do them (weights stored in bf16, widened and packed inside the call), beside
// oneDNN's matmul: BM_OneDnn starts from the same stored weights, BM_OneDnnPacked has them packed beforehand, which a model that is
// streamed from disk never has.
#include <benchmark/benchmark.h>

#include <cmath>
#include <span>
#include <vector>

#include "base/half.h"
#include "ops/linear.h"
#ifdef OPTIQ_HAVE_ONEDNN
#include <dnnl.hpp>
#endif

namespace optiq {
namespace {

std::vector<float> Values(int64_t n) {
  std::vector<float> out(n);
  for (int64_t i = 0; i < n; ++i) out[i] = std::sin(0.37f * static_cast<float>(i % 10007));
  return out;
}

void SetRate(benchmark::State& state, int64_t m, int64_t n, int64_t k) {
  state.counters["GFLOP/s"] = benchmark::Counter(2e-9 * static_cast<double>(m * n * k * state.iterations()), benchmark::Counter::kIsRate);
}

void BM_Linear(benchmark::State& state) {
  const int64_t m = state.range(0), n = state.range(1), k = state.range(2);
  const Products products = state.range(3) ? Products::kBF16 : Products::kF32;
  const std::vector<float> x = Values(m * k), values = Values(n * k);
  std::vector<uint16_t> stored(n * k);
  for (size_t i = 0; i < stored.size(); ++i) stored[i] = F32ToBF16(values[i]);
  WeightMatrix w;
  w.path = "w";
  w.rows = n;
  w.cols = k;
  w.weight.dtype = DType::kBF16;
  w.weight.shape = {n, k};
  w.weight.bytes = std::as_bytes(std::span(stored));
  std::vector<float> y(m * n);
  ThreadPool pool;
  for (auto _ : state) Linear(x.data(), m, k, w, nullptr, y.data(), n, &pool, products);
  SetRate(state, m, n, k);
}

#ifdef OPTIQ_HAVE_ONEDNN
void OneDnn(benchmark::State& state, bool packed) {
  using dnnl::memory;
  using Type = memory::data_type;
  using Tag = memory::format_tag;
  const int64_t m = state.range(0), n = state.range(1), k = state.range(2);
  const Type type = state.range(3) ? Type::bf16 : Type::f32;
  const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);
  const std::vector<float> x = Values(m * k), values = Values(n * k);
  const dnnl::matmul::primitive_desc desc(
      dnnl::matmul::desc({{m, k}, type, Tag::ab}, {{k, n}, type, Tag::any}, {{m, n}, Type::f32, Tag::ab}), engine);
  memory plain_x({{m, k}, Type::f32, Tag::ab}, engine, const_cast<float*>(x.data()));
  std::vector<uint16_t> stored(n * k);
  for (size_t i = 0; i < stored.size(); ++i) stored[i] = F32ToBF16(values[i]);
  memory plain_w({{k, n}, Type::bf16, Tag::ba}, engine, stored.data());
  memory a(desc.src_desc(), engine), w(desc.weights_desc(), engine), y(desc.dst_desc(), engine);
  dnnl::reorder(plain_w, w).execute(stream, plain_w, w);
  const dnnl::matmul matmul(desc);
  for (auto _ : state) {
    if (!packed) dnnl::reorder(plain_w, w).execute(stream, plain_w, w);
    dnnl::reorder(plain_x, a).execute(stream, plain_x, a);  // activations arrive in f32 in both
    matmul.execute(stream, {{DNNL_ARG_SRC, a}, {DNNL_ARG_WEIGHTS, w}, {DNNL_ARG_DST, y}});
    stream.wait();
  }
  SetRate(state, m, n, k);
}
void BM_OneDnn(benchmark::State& state) { OneDnn(state, false); }
void BM_OneDnnPacked(benchmark::State& state) { OneDnn(state, true); }
#endif

void Shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"m", "n", "k", "bf16"})->Unit(benchmark::kMillisecond)->UseRealTime();
  for (int bf16 : {0, 1}) {
    b->Args({2048, 1536, 576, bf16})->Args({2048, 576, 1536, bf16})->Args({2048, 4096, 4096, bf16})->Args({512, 14336, 4096, bf16});
  }
}
BENCHMARK(BM_Linear)->Apply(Shapes);
#ifdef OPTIQ_HAVE_ONEDNN
BENCHMARK(BM_OneDnn)->Apply(Shapes);
BENCHMARK(BM_OneDnnPacked)->Apply(Shapes);
#endif

}  // namespace
}  // namespace optiq
