// Measures a model's speed: prefill, decode at a depth, decode of a batch.
#ifndef OPTIQ_ENGINE_BENCH_H_
#define OPTIQ_ENGINE_BENCH_H_

#include <atomic>
#include <cstdint>
#include <vector>

#include "base/progress.h"
#include "base/status.h"
#include "kv/kv_plan.h"
#include "model/decoder.h"

namespace optiq {

struct BenchOptions {
  std::vector<int64_t> prefill = {128, 512, 2048};  // prompt lengths
  std::vector<int64_t> depths = {0, 2048, 8192};    // tokens in the cache before a decode
  std::vector<int64_t> batches = {1, 4, 16};        // sequences decoded side by side, at depth 0
  int64_t steps = 32;                               // decode steps of one run
  int repeats = 3;
  int64_t prefill_chunk = 512;
  KvPlan kv_plan;  // of every sequence; checked (CheckKvPlan)
};

struct BenchCase {
  enum Kind { kPrefill, kDecode, kBatch } kind = kPrefill;
  int64_t size = 0;             // prompt length, depth or batch
  std::vector<double> seconds;  // one per run
  int64_t tokens = 0;           // of one run, all sequences together
  double bytes = 0;             // read from memory per decode step: weights, and the cache in the middle of a run
  double ops = 0;               // of the matrix products, per run

  double MedianSeconds() const;
  double Rate() const { return static_cast<double>(tokens) / MedianSeconds(); }
};

// Runs all cases. Lengths beyond the model's context are left out (and not in the result). kResourceExhausted with the estimate when
// the caches would not fit the memory that is free; kCancelled when `cancel` is set.
StatusOr<std::vector<BenchCase>> RunBench(Decoder* decoder, const BenchOptions& options, const std::atomic<bool>* cancel,
                                          ProgressSink* progress);

// Bytes of the weights that every decode step reads; multiplications of one token in the blocks, and in the head.
struct DecoderWork {
  double step_bytes = 0, block_products = 0, head_products = 0;
};
DecoderWork WorkOf(const Decoder& decoder);

}  // namespace optiq

#endif  // OPTIQ_ENGINE_BENCH_H_
