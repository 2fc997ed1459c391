// Many generations at once on one model: continuous batching over Decoder::ForwardBatch.
#ifndef OPTIQ_ENGINE_ENGINE_H_
#define OPTIQ_ENGINE_ENGINE_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "engine/generate.h"
#include "engine/sampler.h"
#include "engine/scoped_stops.h"
#include "kv/kv_plan.h"
#include "model/decoder.h"
#include "text/tokenizer.h"

namespace optiq {

// What an answer's next token may be (JSON schema, grammar, forced tool call). Used by the engine thread only.
class TokenConstraint {
 public:
  virtual ~TokenConstraint() = default;
  // Sets the logits of tokens that may not come next to -infinity. [vocab_size] f32.
  virtual Status Mask(std::span<float> logits) = 0;
  // The token that was sampled.
  virtual Status Accept(int32_t id) = 0;
  // Nothing but an end-of-text token may follow.
  virtual bool done() const = 0;
};

struct EngineRequest {
  std::vector<int32_t> prompt;  // at least one token
  int64_t max_tokens = 256;     // 0 only together with prompt_logprobs
  SamplingParams sampling;      // the same seed gives the same tokens, whatever else runs
  std::vector<std::string> stop;
  StopScope stop_scope;          // the thoughts, where stop strings do not apply
  bool ignore_eos = false;
  int top_logprobs = -1;         // 0..20 alternatives per token beside its own logprob; -1: no logprobs
  bool prompt_logprobs = false;  // of the prompt's tokens too (echo)
  std::string adapter;           // a mounted LoRA adapter's name; empty: the model alone
  std::shared_ptr<TokenConstraint> constraint;
  bool keep_special = false;     // control tokens appear in the text (for parsers of tool calls and thoughts)
};

// Log-softmax of the raw logits, before penalties and temperature.
struct TokenLogprobs {
  int32_t id = -1;
  float logprob = 0;                           // minus infinity never: the lowest value is -9999
  std::vector<std::pair<int32_t, float>> top;  // most likely first, ties by lower id
};

struct EngineUsage {
  int64_t prompt_tokens = 0, cached_tokens = 0, completion_tokens = 0;
  int64_t drafted_tokens = 0, accepted_tokens = 0;
  double queue_seconds = 0, prefill_seconds = 0, first_token_seconds = 0, decode_seconds = 0;
};

// Receives one request's events, in order, on the engine thread: none of them may block or throw. After OnFinish nothing comes.
class EngineSink {
 public:
  virtual ~EngineSink() = default;
  virtual void OnStart() {}                                            // admitted: prefill begins
  virtual void OnPrompt(std::vector<TokenLogprobs> /*per token*/) {}   // prompt_logprobs; the first entry has no logprob (NaN)
  // text: what may be shown now (valid UTF-8, perhaps empty, never part of a stop string). ids: the tokens sampled since the last call,
  // logprobs: one for each of them where asked for.
  virtual void OnTokens(std::string_view text, std::span<const int32_t> ids, std::span<const TokenLogprobs> logprobs) = 0;
  // status: OK, or why the request failed (kResourceExhausted: did not fit; kDataLoss: logits not finite; kCancelled).
  // stop: the stop string that ended it, if one did.
  virtual void OnFinish(const Status& status, FinishReason reason, const std::string& stop, const EngineUsage& usage) = 0;
};

struct EngineOptions {
  int64_t max_concurrent = 16;        // sequences in one batch
  int64_t max_queued = 256;           // beyond it Submit refuses (kAborted)
  int64_t context_length = 0;         // tokens per sequence; 0: the model's own
  int64_t kv_bytes = 0;               // budget of all live caches; 0: from the machine's free memory
  int64_t prefix_cache_bytes = 0;     // of it, for keys and values of earlier prompts; 0: off
  int64_t prefill_chunk = 512;        // prompt tokens between two decode steps, at most
  // While answers are being written, a step takes no more prompt tokens than about this many milliseconds allow (at least 32 tokens).
  int64_t stall_ms = 250;
  bool draft = false;                 // n-gram speculation
  KvPlan kv_plan;                     // of every sequence; no layers: bf16 throughout, f32 when the decoder's products are exact
  // LoRA adapters of mlx-lm or PEFT: NAME, DIR.
  std::vector<std::pair<std::string, std::string>> adapters;
};

struct EngineStats {
  int64_t running = 0, prefilling = 0, waiting = 0;
  int64_t kv_bytes_active = 0, kv_bytes_cached = 0, kv_bytes_budget = 0;
  int64_t prompt_tokens = 0, cached_tokens = 0, completion_tokens = 0;  // totals
  int64_t finished_stop = 0, finished_length = 0, cancelled = 0, failed = 0, rejected = 0;
  int64_t prefix_queries = 0, prefix_hits = 0;
  int64_t drafted_tokens = 0, accepted_tokens = 0;
  int64_t steps = 0;
  int64_t adapter_bytes = 0;
  double heartbeat_seconds = 0;  // since the engine thread last came round
};

using RequestId = uint64_t;

class Engine {
 public:
  // decoder and tokenizer must outlive the engine, and no one else may use the decoder meanwhile: its products become ones of a fixed
  // order (WithFixedOrder). Starts the engine's thread. A context_length that is not given is as long as the model's and the budget
  // allow.
  static StatusOr<std::unique_ptr<Engine>> Create(Decoder* decoder, const Tokenizer* tokenizer, std::vector<int32_t> end_ids,
                                                  EngineOptions options);
  virtual ~Engine() = default;

  // From any thread. Refuses at once what can never run: kInvalidArgument (parameters, an unknown adapter), kOutOfRange (longer than the
  // context; the message has both numbers), kAborted (the queue is full: come again), kUnavailable (draining).
  virtual StatusOr<RequestId> Submit(EngineRequest request, std::shared_ptr<EngineSink> sink) = 0;
  // From any thread; takes effect within one step, OnFinish follows with kCancelled. Unknown or finished ids are ignored.
  virtual void Cancel(RequestId id) = 0;

  // Last hidden state (after the final norm) of each prompt, pooled: [hidden_size] each. Queued like other requests; blocks the caller.
  enum class Pooling { kMean, kLast };
  virtual StatusOr<std::vector<std::vector<float>>> Embed(std::vector<std::vector<int32_t>> prompts, Pooling pooling) = 0;

  virtual EngineStats stats() const = 0;
  // What is in force: 0 filled in; draft and prefix_cache_bytes off where the model or the plan cannot have them (docs/engine.md).
  virtual const EngineOptions& options() const = 0;
  virtual std::vector<std::string> adapters() const = 0;

  // Refuses new requests, lets the running ones finish until the deadline, then cancels them. Blocks.
  virtual void Drain(std::chrono::milliseconds deadline) = 0;
};

}  // namespace optiq

#endif  // OPTIQ_ENGINE_ENGINE_H_
