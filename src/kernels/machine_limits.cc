#include "kernels/machine_limits.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>

#include "base/aligned.h"
#include "kernels/isa.h"
#include "kernels/vector.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#endif

namespace optiq {
namespace {

constexpr int64_t kReadBytes = int64_t{256} << 20;
constexpr int64_t kSteps = 1 << 19;  // of a peak measurement, per thread
constexpr int kSums = 16;            // independent chains: more than latency times throughput

double Seconds(const std::function<void()>& fn) {
  const auto start = std::chrono::steady_clock::now();
  fn();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// The best of several tries: others on the machine only ever take away.
double BestRate(ThreadPool* pool, int tries, double work, const std::function<void(int64_t part)>& fn) {
  double best = 0;
  const int64_t threads = pool->num_threads();
  for (int i = 0; i < tries; ++i) {
    const double seconds = Seconds([&] { pool->ParallelFor(threads, [&](int64_t part, int) { fn(part); }); });
    best = std::max(best, work * static_cast<double>(threads) / seconds);
  }
  return best;
}

#if defined(__x86_64__) && defined(__GNUC__)
#define OPTIQ_TARGET(x) __attribute__((target(x)))
#define OPTIQ_KEEP(array) \
  for (int i = 0; i < kSums; ++i) asm volatile("" : "+v"(array[i]))

OPTIQ_TARGET("avx512f") void ReadAvx512(const std::byte* p, int64_t n) {
  __m512i s[4] = {};
  for (int64_t i = 0; i + 256 <= n; i += 256) {
    for (int j = 0; j < 4; ++j) s[j] = _mm512_xor_si512(s[j], _mm512_load_si512(p + i + 64 * j));
  }
  for (int j = 0; j < 4; ++j) asm volatile("" : "+v"(s[j]));
}

OPTIQ_TARGET("avx512f,avx512vnni") void PeakInt8() {
  __m512i s[kSums] = {};
  const __m512i a = _mm512_set1_epi8(1);
  for (int64_t i = 0; i < kSteps; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < kSums; ++j) s[j] = _mm512_dpbusd_epi32(s[j], a, a);
    OPTIQ_KEEP(s);
  }
}

OPTIQ_TARGET("avx512f,avx512bf16") void PeakBF16() {
  __m512 s[kSums] = {};
  const __m512bh a = (__m512bh)_mm512_set1_epi16(0x3f80);
  for (int64_t i = 0; i < kSteps; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < kSums; ++j) s[j] = _mm512_dpbf16_ps(s[j], a, a);
    OPTIQ_KEEP(s);
  }
}

OPTIQ_TARGET("avx512f") void PeakF32Avx512() {
  __m512 s[kSums] = {};
  const __m512 a = _mm512_set1_ps(0.5f);
  for (int64_t i = 0; i < kSteps; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < kSums; ++j) s[j] = _mm512_fmadd_ps(a, a, s[j]);
    OPTIQ_KEEP(s);
  }
}

// 12 chains: 16 registers hold no more beside the factor.
OPTIQ_TARGET("avx2,fma") void PeakF32Avx2() {
  __m256 s[12] = {};
  const __m256 a = _mm256_set1_ps(0.5f);
  for (int64_t i = 0; i < kSteps; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < 12; ++j) s[j] = _mm256_fmadd_ps(a, a, s[j]);
    for (int j = 0; j < 12; ++j) asm volatile("" : "+x"(s[j]));
  }
}

// vpmaddwd and an addition: what the AVX2 kernels multiply with.
OPTIQ_TARGET("avx2") void PeakInt16Avx2() {
  __m256i s[12] = {};
  __m256i a = _mm256_set1_epi16(1);
  for (int64_t i = 0; i < kSteps; ++i) {
    asm volatile("" : "+x"(a));
#pragma GCC unroll 12
    for (int j = 0; j < 12; ++j) s[j] = _mm256_add_epi32(s[j], _mm256_madd_epi16(a, a));
    for (int j = 0; j < 12; ++j) asm volatile("" : "+x"(s[j]));
  }
}
#endif

}  // namespace

MachineLimits MeasureMachineLimits(ThreadPool* pool) {
  MachineLimits limits;
  const int64_t threads = pool->num_threads(), part_bytes = kReadBytes / threads / 256 * 256;
  AlignedBuffer<std::byte> memory(part_bytes * threads);
  pool->ParallelFor(threads, [&](int64_t part, int) { std::memset(memory.data() + part * part_bytes, 1, part_bytes); });
  void (*read)(const std::byte*, int64_t) = [](const std::byte* p, int64_t n) {
    volatile float sum = Dot(reinterpret_cast<const float*>(p), reinterpret_cast<const float*>(p), n / 4);
    (void)sum;
  };
#if defined(__x86_64__) && defined(__GNUC__)
  const double steps = kSteps;
  if (CpuHas(CpuFeature::kAvx512Vnni)) {
    read = ReadAvx512;
    limits.int8_ops = BestRate(pool, 5, steps * kSums * 128, [](int64_t) { PeakInt8(); });
    limits.f32_ops = BestRate(pool, 5, steps * kSums * 32, [](int64_t) { PeakF32Avx512(); });
  } else if (CpuHas(CpuFeature::kAvx2)) {
    limits.int8_ops = BestRate(pool, 5, steps * 12 * 32, [](int64_t) { PeakInt16Avx2(); });
    limits.f32_ops = BestRate(pool, 5, steps * 12 * 16, [](int64_t) { PeakF32Avx2(); });
  }
  if (CpuHas(CpuFeature::kAvx512BF16)) {
    limits.bf16_ops = BestRate(pool, 5, steps * kSums * 64, [](int64_t) { PeakBF16(); });
  }
#endif
  limits.read_bytes = BestRate(pool, 8, static_cast<double>(part_bytes), [&](int64_t part) {
    read(memory.data() + part * part_bytes, part_bytes);
  });
  return limits;
}

}  // namespace optiq
