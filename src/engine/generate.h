// Text generation for one sequence: prefill, decode, stop.
#ifndef OPTIQ_ENGINE_GENERATE_H_
#define OPTIQ_ENGINE_GENERATE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/progress.h"
#include "base/status.h"
#include "engine/sampler.h"
#include "model/decoder.h"
#include "text/tokenizer.h"

namespace optiq {

struct GenerationRequest {
  std::vector<int32_t> prompt;  // at least one token
  int64_t max_tokens = 256;     // at least one
  SamplingParams sampling;
  std::vector<std::string> stop;  // texts that end the answer and are not part of it
  bool ignore_eos = false;
  int64_t prefill_chunk = 512;  // prompt tokens per forward pass
  // Guess the next tokens from earlier repetitions and check several in one pass where that pays. Changes the time, not the answer.
  bool draft = true;
};

struct GenerationHooks {
  // The next piece of text: valid UTF-8, never empty, never part of a stop string. An error ends the generation.
  std::function<Status(std::string_view)> on_text;
  // Looked at between forward passes; the result is then what there is so far, with kCancelled.
  const std::atomic<bool>* cancel = nullptr;
  ProgressSink* progress = nullptr;  // of the prefill
  // Called when the cache holds the prompt and nothing more. An error ends the generation.
  std::function<Status(const KvCache&, std::span<const int32_t> ids)> on_prefilled;
};

enum class FinishReason {
  kStop,    // an end-of-text token or a stop string
  kLength,  // max_tokens, or the model's context is full
  kCancelled,
};
std::string_view FinishReasonName(FinishReason reason);  // "stop", "length", "cancelled"

struct GenerationResult {
  std::string text;
  std::vector<int32_t> tokens;  // without the end-of-text token
  FinishReason finish = FinishReason::kLength;
  std::string stop;        // the stop string that ended it, if one did
  int32_t eos_token = -1;  // the end-of-text token that ended it, if one did
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;       // of these, taken from the cache of the run before
  double prefill_seconds = 0;      // forward passes over the prompt
  double first_token_seconds = 0;  // from the start to the first sampled token
  int64_t decode_steps = 0;        // tokens after the first
  int64_t decode_passes = 0;       // forward passes for them: fewer when drafts were right
  int64_t drafted_tokens = 0, accepted_tokens = 0;
  double decode_seconds = 0;       // from the first sampled token to the end

  double PrefillRate() const;  // tokens per second; 0 when there is nothing to measure
  double DecodeRate() const;
};

class Generator {
 public:
  // `decoder` and `tokenizer` must outlive the generator. `end_ids` end a text.
  Generator(Decoder* decoder, const Tokenizer* tokenizer, std::vector<int32_t> end_ids);

  // One answer. The keys and values of the longest common prefix with the run before are used again, so a chat's next
  // turn costs its new tokens only. Errors: kInvalidArgument for an impossible request (a prompt as long as the model's
  // context, unknown tokens, parameters out of range), those of Decoder::Forward, and what on_text returned.
  StatusOr<GenerationResult> Run(const GenerationRequest& request, const GenerationHooks& hooks = {});

  // Drops the cache's contents.
  void Reset();
  // Goes on with another cache, which holds the keys and values of `ids` (none: an empty one).
  void UseCache(std::unique_ptr<KvCache> cache, std::vector<int32_t> ids = {});
  const KvCache& cache() const { return *cache_; }

 private:
  Status Check(const GenerationRequest& request) const;
  // Feeds the prompt but for what is cached; logits of its last token. False when cancelled.
  StatusOr<bool> Prefill(const GenerationRequest& request, const GenerationHooks& hooks, GenerationResult* result,
                         std::vector<float>* logits);
  // Appends ids to the cache; logits of the last, or of all.
  Status Forward(std::span<const int32_t> ids, std::vector<float>* logits, bool all_logits = false);
  // Forgets what the cache holds beyond `length`.
  Status Rewind(int64_t length);
  // Whether Rewind is exact for this model: no layer overwrites its past.
  bool CanRewind() const;

  Decoder* decoder_;
  const Tokenizer* tokenizer_;
  std::vector<int32_t> end_ids_;
  std::unique_ptr<KvCache> cache_;
  std::vector<int32_t> cached_ids_;  // what cache_ holds
};

}  // namespace optiq

#endif  // OPTIQ_ENGINE_GENERATE_H_
