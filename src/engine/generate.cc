#include "engine/generate.h"

#include <algorithm>
#include <chrono>
#include <span>

#include "engine/stop_matcher.h"
#include "text/text_stream.h"

namespace optiq {
namespace {

class Stopwatch {
 public:
  double Seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

bool Cancelled(const GenerationHooks& hooks) { return hooks.cancel != nullptr && hooks.cancel->load(); }

// Token ids to text that may be shown: detokenizer, then stop strings, then the listener.
class TextOutput {
 public:
  TextOutput(TextStream stream, StopMatcher stops, const GenerationHooks& hooks, std::string* text)
      : stream_(std::move(stream)), stops_(std::move(stops)), hooks_(hooks), text_(text) {}

  Status Push(int32_t token) {
    ASSIGN_OR_RETURN(const std::string piece, stream_.Push(token));
    return Show(stops_.Push(piece));
  }
  Status Finish() {
    if (stops_.matched()) return OkStatus();
    ASSIGN_OR_RETURN(const std::string rest, stream_.Flush());
    RETURN_IF_ERROR(Show(stops_.Push(rest)));
    return Show(stops_.Flush());
  }
  bool stopped() const { return stops_.matched(); }
  std::string stop() const { return stopped() ? stops_.stop() : ""; }

 private:
  Status Show(const std::string& piece) {
    if (piece.empty()) return OkStatus();
    *text_ += piece;
    return hooks_.on_text ? hooks_.on_text(piece) : OkStatus();
  }

  TextStream stream_;
  StopMatcher stops_;
  const GenerationHooks& hooks_;
  std::string* text_;
};

}  // namespace

std::string_view FinishReasonName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
  }
  return "unknown";
}

double GenerationResult::PrefillRate() const {
  return prefill_seconds > 0 ? (prompt_tokens - cached_tokens) / prefill_seconds : 0;
}

double GenerationResult::DecodeRate() const { return decode_seconds > 0 ? decode_steps / decode_seconds : 0; }

Generator::Generator(Decoder* decoder, const Tokenizer* tokenizer, std::vector<int32_t> end_ids)
    : decoder_(decoder), tokenizer_(tokenizer), end_ids_(std::move(end_ids)), cache_(decoder->MakeCache()) {}

void Generator::Reset() {
  cache_->Trim(0);
  cached_ids_.clear();
}

void Generator::UseCache(std::unique_ptr<KvCache> cache, std::vector<int32_t> ids) {
  OPTIQ_CHECK(cache->length() == static_cast<int64_t>(ids.size()));
  cache_ = std::move(cache);
  cached_ids_ = std::move(ids);
}

Status Generator::Check(const GenerationRequest& request) const {
  const DecoderSpec& spec = decoder_->spec();
  if (request.prompt.empty()) return InvalidArgument("the prompt has no tokens");
  if (request.max_tokens < 1) return InvalidArgument("max_tokens is {}; it must be at least 1", request.max_tokens);
  if (request.prefill_chunk < 1)
    return InvalidArgument("prefill_chunk is {}; it must be at least 1", request.prefill_chunk);
  for (int32_t id : request.prompt) {
    if (id < 0 || id >= spec.vocab_size) {
      return InvalidArgument("the prompt's token {} is not in the model's vocabulary of {}", id, spec.vocab_size);
    }
  }
  const int64_t length = static_cast<int64_t>(request.prompt.size());
  if (spec.max_position_embeddings > 0 && length > spec.max_position_embeddings) {
    return InvalidArgument("the prompt has {} tokens, more than the model's context of {}; shorten it", length,
                           spec.max_position_embeddings);
  }
  return ValidateSampling(request.sampling, spec.vocab_size);
}

Status Generator::Forward(std::span<const int32_t> ids, std::vector<float>* logits) {
  const Status status = decoder_->Forward(ids, cache_.get(), /*all_logits=*/false, logits);
  if (status.ok()) {
    cached_ids_.insert(cached_ids_.end(), ids.begin(), ids.end());
  } else {
    Reset();
  }
  return status;
}

StatusOr<bool> Generator::Prefill(const GenerationRequest& request, const GenerationHooks& hooks,
                                  GenerationResult* result, std::vector<float>* logits) {
  const std::span<const int32_t> prompt(request.prompt);
  // The last token is always fed: its logits are needed.
  const size_t reusable = std::min(prompt.size() - 1, cached_ids_.size());
  size_t common =
      std::mismatch(prompt.begin(), prompt.begin() + reusable, cached_ids_.begin()).first - prompt.begin();
  common = static_cast<size_t>(cache_->Trim(static_cast<int64_t>(common)));
  cached_ids_.resize(common);
  result->cached_tokens = static_cast<int64_t>(common);

  const Stopwatch watch;
  const size_t total = prompt.size() - common;
  if (hooks.progress != nullptr) hooks.progress->Begin("reading the prompt", total, "tokens");
  Status status = OkStatus();
  for (size_t done = 0; done < total && status.ok() && !Cancelled(hooks);) {
    const size_t n = std::min<size_t>(request.prefill_chunk, total - done);
    status = Forward(prompt.subspan(common + done, n), logits);
    done += n;
    if (hooks.progress != nullptr) hooks.progress->Update(done, "");
  }
  if (hooks.progress != nullptr) hooks.progress->End();
  RETURN_IF_ERROR(status);
  result->prefill_seconds = watch.Seconds();
  return cached_ids_.size() == prompt.size();
}

StatusOr<GenerationResult> Generator::Run(const GenerationRequest& request, const GenerationHooks& hooks) {
  RETURN_IF_ERROR(Check(request));
  ASSIGN_OR_RETURN(StopMatcher stops, StopMatcher::Create(request.stop));
  ASSIGN_OR_RETURN(TextStream stream, TextStream::Create(*tokenizer_, /*skip_special=*/true));
  GenerationResult result;
  result.prompt_tokens = static_cast<int64_t>(request.prompt.size());
  TextOutput output(std::move(stream), std::move(stops), hooks, &result.text);

  const Stopwatch watch;
  std::vector<float> logits;
  ASSIGN_OR_RETURN(const bool prefilled, Prefill(request, hooks, &result, &logits));
  if (!prefilled) {
    result.finish = FinishReason::kCancelled;
    return result;
  }
  if (hooks.on_prefilled) RETURN_IF_ERROR(hooks.on_prefilled(*cache_, cached_ids_));
  const int64_t context = decoder_->spec().max_position_embeddings;
  Sampler sampler(request.sampling);
  std::vector<int32_t> history = request.prompt;
  for (;;) {
    ASSIGN_OR_RETURN(const int32_t token, sampler.Sample(history, logits));
    if (result.first_token_seconds == 0) result.first_token_seconds = watch.Seconds();
    if (!request.ignore_eos && std::binary_search(end_ids_.begin(), end_ids_.end(), token)) {
      result.eos_token = token;
      result.finish = FinishReason::kStop;
      break;
    }
    result.tokens.push_back(token);
    history.push_back(token);
    RETURN_IF_ERROR(output.Push(token));
    if (output.stopped()) {
      result.finish = FinishReason::kStop;
      break;
    }
    const bool full = context > 0 && cache_->length() >= context;
    if (full || static_cast<int64_t>(result.tokens.size()) >= request.max_tokens) {
      result.finish = FinishReason::kLength;
      break;
    }
    if (Cancelled(hooks)) {
      result.finish = FinishReason::kCancelled;
      break;
    }
    RETURN_IF_ERROR(Forward({&token, 1}, &logits));
    ++result.decode_steps;
  }
  result.decode_seconds = watch.Seconds() - result.first_token_seconds;
  RETURN_IF_ERROR(output.Finish());
  if (output.stopped()) result.finish = FinishReason::kStop;  // completed by the last, held-back bytes
  result.stop = output.stop();
  return result;
}

}  // namespace optiq
