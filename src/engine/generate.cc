#include "engine/generate.h"

#include <algorithm>
#include <chrono>
#include <span>

#include "engine/ngram_draft.h"
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

Status Generator::Rewind(int64_t length) {
  if (cache_->length() == length) return OkStatus();
  const int64_t kept = cache_->Trim(length);
  OPTIQ_CHECK(kept == length);
  cached_ids_.resize(length);
  return OkStatus();
}

bool Generator::CanRewind() const {
  // Rings overwrite rows, states move on, and rows that were converted with age cannot be what they were.
  for (const KvLayerGeometry& layer : cache_->geometry()) {
    if (layer.window > 0 || layer.state > 0) return false;
  }
  for (const KvLayerPlan& layer : cache_->plan().layers) {
    if (layer.dense_recent > 0) return false;
  }
  return cache_->plan().quantized_start == 0;
}

Status Generator::Forward(std::span<const int32_t> ids, std::vector<float>* logits, bool all_logits) {
  const Status status = decoder_->Forward(ids, cache_.get(), all_logits, logits);
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
  const size_t vocab = static_cast<size_t>(decoder_->spec().vocab_size);
  Sampler sampler(request.sampling);
  std::vector<int32_t> history = request.prompt;
  // Only the fast arithmetic gives a row the same bits whatever rows are beside it, so that drafts cannot change the answer.
  const bool drafts = request.draft && decoder_->products() == Products::kFast && CanRewind();
  NgramIndex index;
  DraftGate gate;
  if (drafts) index.Append(history);
  // The last pass fed a token and this draft after it; row i of the logits follows the first i drafted tokens.
  std::vector<int32_t> draft;
  size_t row = 0;
  double pass_seconds = 0;
  const auto end_pass = [&]() -> Status {
    if (drafts && result.decode_passes > 0) gate.Record(static_cast<int64_t>(draft.size()), static_cast<int64_t>(row), pass_seconds);
    result.accepted_tokens += static_cast<int64_t>(row);
    const int64_t wrong = static_cast<int64_t>(draft.size() - row);
    draft.clear();
    row = 0;
    return wrong > 0 ? Rewind(cache_->length() - wrong) : OkStatus();
  };
  for (;;) {
    ASSIGN_OR_RETURN(const int32_t token, sampler.Sample(history, std::span(logits).subspan(row * vocab, vocab)));
    if (result.first_token_seconds == 0) result.first_token_seconds = watch.Seconds();
    if (!request.ignore_eos && std::binary_search(end_ids_.begin(), end_ids_.end(), token)) {
      result.eos_token = token;
      result.finish = FinishReason::kStop;
      break;
    }
    result.tokens.push_back(token);
    history.push_back(token);
    if (drafts) index.Append(token);
    RETURN_IF_ERROR(output.Push(token));
    if (output.stopped()) {
      result.finish = FinishReason::kStop;
      break;
    }
    const int64_t left = request.max_tokens - static_cast<int64_t>(result.tokens.size());
    const bool fed = row < draft.size() && draft[row] == token;
    const int64_t length = cache_->length() - static_cast<int64_t>(draft.size() - row);  // without what was guessed wrong
    if ((context > 0 && !fed && length >= context) || left <= 0) {
      result.finish = FinishReason::kLength;
      break;
    }
    if (Cancelled(hooks)) {
      result.finish = FinishReason::kCancelled;
      break;
    }
    ++result.decode_steps;
    if (fed) {
      ++row;
      continue;
    }
    RETURN_IF_ERROR(end_pass());
    if (drafts) {
      int64_t most = std::min(gate.Size(), left - 1);
      if (context > 0) most = std::min(most, context - cache_->length() - 1);
      draft = index.Draft(most);
    }
    std::vector<int32_t> ids = {token};
    ids.insert(ids.end(), draft.begin(), draft.end());
    const Stopwatch pass;
    RETURN_IF_ERROR(Forward(ids, &logits, /*all_logits=*/true));
    pass_seconds = pass.Seconds();
    ++result.decode_passes;
    result.drafted_tokens += static_cast<int64_t>(draft.size());
  }
  RETURN_IF_ERROR(end_pass());
  result.decode_seconds = watch.Seconds() - result.first_token_seconds;
  RETURN_IF_ERROR(output.Finish());
  if (output.stopped()) result.finish = FinishReason::kStop;  // completed by the last, held-back bytes
  result.stop = output.stop();
  return result;
}

}  // namespace optiq
