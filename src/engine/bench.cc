#include "engine/bench.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <string>

#include "base/memory.h"

namespace optiq {
namespace {

using Clock = std::chrono::steady_clock;

double Since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Some text-like sequence of ids: they only have to differ.
std::vector<int32_t> Tokens(int64_t n, int64_t vocab_size, int64_t salt) {
  std::vector<int32_t> ids(n);
  uint64_t state = 88172645463325252ull + static_cast<uint64_t>(salt);
  for (int32_t& id : ids) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    id = static_cast<int32_t>(state % static_cast<uint64_t>(vocab_size));
  }
  return ids;
}

class Bench {
 public:
  Bench(Decoder* decoder, const BenchOptions& options, const std::atomic<bool>* cancel)
      : decoder_(*decoder),
        options_(options),
        cancel_(cancel),
        work_(WorkOf(*decoder)),
        geometry_(KvGeometryOf(decoder->spec())) {}

  StatusOr<BenchCase> Prefill(int64_t n) {
    BenchCase c{.kind = BenchCase::kPrefill, .size = n, .tokens = n};
    c.ops = 2 * (work_.block_products * static_cast<double>(n) + work_.head_products);
    for (int i = 0; i < options_.repeats; ++i) {
      ASSIGN_OR_RETURN(const auto cache, decoder_.MakeCache(options_.kv_plan));
      const auto start = Clock::now();
      RETURN_IF_ERROR(Feed(n, i, cache.get()));
      c.seconds.push_back(Since(start));
    }
    return c;
  }

  StatusOr<BenchCase> Decode(int64_t depth) {
    BenchCase c{.kind = BenchCase::kDecode, .size = depth, .tokens = options_.steps};
    ASSIGN_OR_RETURN(const auto cache, decoder_.MakeCache(options_.kv_plan));
    RETURN_IF_ERROR(Feed(std::max<int64_t>(depth, 1), 0, cache.get()));
    KvCache* one[] = {cache.get()};
    RETURN_IF_ERROR(Steps(one));  // fresh pages of the cache
    const int64_t length = cache->length();
    for (int i = 0; i < options_.repeats; ++i) {
      const auto start = Clock::now();
      RETURN_IF_ERROR(Steps(one));
      c.seconds.push_back(Since(start));
    }
    c.bytes = work_.step_bytes + CacheBytes((length + cache->length()) / 2);
    return c;
  }

  StatusOr<BenchCase> Batch(int64_t batch) {
    BenchCase c{.kind = BenchCase::kBatch, .size = batch, .tokens = batch * options_.steps};
    std::vector<std::unique_ptr<KvCache>> caches;
    std::vector<KvCache*> pointers;
    for (int64_t i = 0; i < batch; ++i) {
      ASSIGN_OR_RETURN(std::unique_ptr<KvCache> cache, decoder_.MakeCache(options_.kv_plan));
      caches.push_back(std::move(cache));
      pointers.push_back(caches.back().get());
      RETURN_IF_ERROR(Feed(1, i, pointers.back()));
    }
    RETURN_IF_ERROR(Steps(pointers));
    for (int i = 0; i < options_.repeats; ++i) {
      const auto start = Clock::now();
      RETURN_IF_ERROR(Steps(pointers));
      c.seconds.push_back(Since(start));
    }
    c.bytes = work_.step_bytes + static_cast<double>(batch) * CacheBytes(options_.steps * (options_.repeats + 2) / 2);
    c.ops = 2 * (work_.block_products + work_.head_products) * static_cast<double>(c.tokens);
    return c;
  }

 private:
  Status Feed(int64_t n, int64_t salt, KvCache* cache) {
    const std::vector<int32_t> ids = Tokens(n, decoder_.spec().vocab_size, salt);
    for (int64_t done = 0; done < n;) {
      if (cancel_ != nullptr && cancel_->load()) return Cancelled("interrupted");
      const int64_t count = std::min(options_.prefill_chunk, n - done);
      RETURN_IF_ERROR(decoder_.Forward(std::span(ids).subspan(done, count), cache, false, &logits_));
      done += count;
    }
    return OkStatus();
  }

  Status Steps(std::span<KvCache* const> caches) {
    const std::vector<int32_t> ids = Tokens(static_cast<int64_t>(caches.size()) * options_.steps,
                                            decoder_.spec().vocab_size, 12345);
    std::vector<Decoder::Input> batch(caches.size());
    for (int64_t step = 0; step < options_.steps; ++step) {
      if (cancel_ != nullptr && cancel_->load()) return Cancelled("interrupted");
      for (size_t i = 0; i < caches.size(); ++i) {
        batch[i] = {.ids = {&ids[step * caches.size() + i], 1}, .cache = caches[i]};
      }
      RETURN_IF_ERROR(decoder_.ForwardBatch(batch, &logits_));
    }
    return OkStatus();
  }

  double CacheBytes(int64_t length) const { return static_cast<double>(KvPlanBytes(options_.kv_plan, geometry_, length)); }

  Decoder& decoder_;
  const BenchOptions& options_;
  const std::atomic<bool>* cancel_;
  DecoderWork work_;
  KvGeometry geometry_;
  std::vector<float> logits_;
};

}  // namespace

double BenchCase::MedianSeconds() const {
  std::vector<double> sorted = seconds;
  std::sort(sorted.begin(), sorted.end());
  return sorted[sorted.size() / 2];
}

DecoderWork WorkOf(const Decoder& decoder) {
  DecoderWork work;
  const DecoderWeights& weights = decoder.weights();
  work.step_bytes = static_cast<double>(weights.BytesPerToken(decoder.spec()));
  const auto products = [](const WeightMatrix& m) { return static_cast<double>(m.rows) * static_cast<double>(m.cols); };
  for (size_t i = 0; i < weights.blocks.size(); ++i) {
    const BlockWeights& block = weights.blocks[i];
    for (const WeightMatrix* m : block.matrices()) work.block_products += products(*m);
    for (const ExpertWeights* x : {&block.expert_gate, &block.expert_up, &block.expert_down}) {
      for (const WeightMatrix& m : x->experts) work.block_products -= products(m);
      if (!x->experts.empty()) {
        work.block_products += products(x->experts[0]) * static_cast<double>(decoder.spec().layers[i].moe.experts_per_token);
      }
    }
  }
  work.head_products = static_cast<double>(weights.head.rows) * static_cast<double>(weights.head.cols);
  return work;
}

StatusOr<std::vector<BenchCase>> RunBench(Decoder* decoder, const BenchOptions& options, const std::atomic<bool>* cancel,
                                          ProgressSink* progress) {
  const int64_t context = decoder->spec().max_position_embeddings;
  const auto fits = [&](int64_t n) { return context <= 0 || n <= context; };
  // Prompts share a cache's memory in turn; a batch has all of its caches at once. Caches grow by half.
  const KvGeometry geometry = KvGeometryOf(decoder->spec());
  const auto cache_bytes = [&](int64_t n) { return 1.5 * static_cast<double>(KvPlanBytes(options.kv_plan, geometry, n)); };
  const int64_t decoded = options.steps * (options.repeats + 1);
  double most = 0;
  for (int64_t n : options.prefill) most = std::max(most, fits(n) ? cache_bytes(n) : 0);
  for (int64_t n : options.depths) most = std::max(most, fits(n) ? cache_bytes(n + decoded) : 0);
  for (int64_t n : options.batches) {
    const double logits = static_cast<double>(decoder->spec().vocab_size) * sizeof(float);
    most = std::max(most, static_cast<double>(n) * (cache_bytes(decoded + 1) + logits));
  }
  const double available = static_cast<double>(AvailableMemory());
  if (most > available) {
    return ResourceExhausted("the caches of this benchmark need about {:.1f} GB and {:.1f} GB are free; use shorter --depth or "
                             "smaller --batch", most / 1e9, available / 1e9);
  }
  Bench bench(decoder, options, cancel);
  std::vector<BenchCase> out;
  if (progress != nullptr) {
    progress->Begin("measuring", options.prefill.size() + options.depths.size() + options.batches.size(), "cases");
  }
  const auto add = [&](StatusOr<BenchCase> result) -> Status {
    RETURN_IF_ERROR(result.status());
    out.push_back(std::move(*result));
    if (progress != nullptr) progress->Update(out.size(), "");
    return OkStatus();
  };
  for (int64_t n : options.prefill) {
    if (fits(n)) RETURN_IF_ERROR(add(bench.Prefill(n)));
  }
  for (int64_t n : options.depths) {
    if (fits(n)) RETURN_IF_ERROR(add(bench.Decode(n)));
  }
  for (int64_t n : options.batches) RETURN_IF_ERROR(add(bench.Batch(n)));
  if (progress != nullptr) progress->End();
  return out;
}

}  // namespace optiq
