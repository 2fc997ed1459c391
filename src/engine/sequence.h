// One request, or one text of an embedding call, on its way through the engine.
#ifndef OPTIQ_ENGINE_SEQUENCE_H_
#define OPTIQ_ENGINE_SEQUENCE_H_

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "engine/answer.h"
#include "engine/engine.h"
#include "engine/prefix_cache.h"
#include "kv/kv_cache.h"
#include "model/lora_adapter.h"

namespace optiq {

using EngineClock = std::chrono::steady_clock;

// A call of Engine::Embed that waits for its texts.
struct EmbeddingCall {
  Engine::Pooling pooling = Engine::Pooling::kMean;
  std::mutex mutex;
  std::condition_variable done;
  size_t left = 0;
  Status status;  // of the first text that failed
  std::vector<std::vector<float>> vectors;
};

struct Sequence {
  RequestId id = 0;
  std::shared_ptr<EngineSink> sink;
  std::unique_ptr<Answer> answer;
  std::atomic<bool> cancelled{false};  // from any thread
  EngineClock::time_point submitted;

  const LoraAdapter* adapter = nullptr;
  uint64_t root = 0;  // of the prefix cache: one for each adapter

  // An embedding: no answer is sampled.
  std::shared_ptr<EmbeddingCall> embedding;
  size_t embedding_index = 0;
  std::vector<double> sum;  // of hidden states

  // The engine thread's.
  EngineClock::time_point admitted, prefilled, first_token;
  std::unique_ptr<KvCache> cache;  // there while it runs
  int64_t reserved = 0;            // bytes of the budget
  int64_t cached_tokens = 0;
  bool begun = false;         // it has looked into the prefix cache
  PrefixCache::Match prefix;  // what is still to be copied from there
  size_t restored = 0;        // of its rows
  int64_t branch = 0;
  std::vector<TokenLogprobs> prompt_logprobs;
  bool ended = false;

  int64_t prompt_length() const { return answer->prompt_length(); }
  int64_t prompt_left() const { return prompt_length() - std::min(cache->length(), prompt_length()); }
  bool wants_hidden() const { return embedding != nullptr || answer->request().prompt_logprobs; }
  // No token follows the prompt.
  bool prompt_only() const { return embedding != nullptr || answer->request().max_tokens == 0; }
};

}  // namespace optiq

#endif  // OPTIQ_ENGINE_SEQUENCE_H_
