// Traces of the real mlx-lm cache classes, made by tests/interop/test_kv_trace.py: OPTIQ_KV_TRACE names a safetensors file with
// q, k, v [tokens, heads * dim] and, per case, the outputs of all tokens; the schedules are in its metadata.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>

#include "base/json.h"
#include "io/mapped_file.h"
#include "io/safetensors.h"
#include "kv/kv_cache.h"
#include "ops/kv_attention.h"

namespace optiq {
namespace {

TEST(KvTrace, EqualsMlxLm) {
  const char* path = std::getenv("OPTIQ_KV_TRACE");
  if (path == nullptr) GTEST_SKIP() << "OPTIQ_KV_TRACE is not set";
  auto map = MappedFile::Open(path);
  ASSERT_TRUE(map.ok()) << map.status();
  std::map<std::string, std::string> metadata;
  auto tensors = ParseSafetensors((*map)->bytes(), path, &metadata);
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  const auto data = [&](const std::string& name) {
    for (const StoredTensor& t : *tensors) {
      if (t.name == name) return reinterpret_cast<const float*>(t.bytes.data());
    }
    ADD_FAILURE() << name;
    return static_cast<const float*>(nullptr);
  };
  auto json = ParseJson(metadata["cases"], "cases");
  ASSERT_TRUE(json.ok()) << json.status();
  ThreadPool pool(2);
  double worst = 0;
  int cases = 0;
  for (const Json& c : *json) {
    const int64_t heads = c["heads"], kv_heads = c["kv_heads"], dim = c["dim"], q_width = heads * dim, width = kv_heads * dim;
    const KvLayerGeometry geometry{.heads = kv_heads, .head_dim = dim, .window = c["max_size"], .keep = c["keep"]};
    const int bits = c["bits"];
    const KvFormat format{bits, bits <= 8 ? c["group_size"].get<int>() : 64, DType::kF32};
    const AttentionShape shape{.num_heads = heads, .num_kv_heads = kv_heads, .head_dim = dim, .window = geometry.window, .scale = 0.25f};
    KvCache cache({geometry}, {.layers = {{format, format}}});
    const std::string name = c["name"], set = c["inputs"];
    const float *q = data(set + ".q"), *k = data(set + ".k"), *v = data(set + ".v"), *want = data(name);
    for (const Json& step : c["schedule"]) {
      const int64_t n = step, start = cache.length();
      if (n < 0) {
        ASSERT_EQ(cache.Trim(start + n), start + n) << name;
        continue;
      }
      std::vector<float> out(n * q_width);
      cache.Append(0, n, k + start * width, v + start * width, &pool);
      const KvAttentionCall call{.q = q + start * q_width, .out = out.data(), .rows = n, .start = start, .spans = cache.Spans(0)};
      KvAttention({&call, 1}, shape, &pool);
      cache.Done(0);
      cache.Advance(n);
      for (float x : out) worst = std::max(worst, std::fabs(double{x} - *want++));
    }
    ++cases;
    ASSERT_LT(worst, 2e-5) << name << " " << c.dump();
  }
  std::printf("%d cases, largest difference %.2g\n", cases, worst);
}

}  // namespace
}  // namespace optiq
