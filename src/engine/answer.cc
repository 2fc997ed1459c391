#include "engine/answer.h"

#include <algorithm>
#include <new>
#include <utility>

#include "engine/logprobs.h"

namespace optiq {
namespace {

constexpr int64_t kMostDrafted = 8;
// Steps without a draft after one that was wrong from the start.
constexpr int64_t kDraftPause = 12;
constexpr size_t kStops = 64, kStopBytes = 4096;

Status Check(const EngineRequest& r, int64_t vocab_size, int64_t context) {
  if (r.prompt.empty()) return InvalidArgument("the prompt has no tokens");
  for (int32_t id : r.prompt) {
    if (id < 0 || id >= vocab_size) {
      return InvalidArgument("the prompt's token {} is not in the model's vocabulary of {}", id, vocab_size);
    }
  }
  const int64_t least = r.prompt_logprobs ? 0 : 1;
  if (r.max_tokens < least) return InvalidArgument("max_tokens is {}; it must be at least {}", r.max_tokens, least);
  if (r.top_logprobs < -1 || r.top_logprobs > 20) {
    return InvalidArgument("top_logprobs is {}; it must be between 0 and 20", r.top_logprobs);
  }
  if (r.stop.size() > kStops)
    return InvalidArgument("stop: {} strings are given; there may be {}", r.stop.size(), kStops);
  for (const std::string& stop : r.stop) {
    if (stop.size() > kStopBytes)
      return InvalidArgument("stop: a string has {} bytes; there may be {}", stop.size(), kStopBytes);
  }
  const int64_t length = static_cast<int64_t>(r.prompt.size());
  if (length > context) {
    return absl::OutOfRangeError(
        fmt::format("the prompt has {} tokens, more than the context of {}; shorten it", length, context));
  }
  return ValidateSampling(r.sampling, vocab_size);
}

}  // namespace

StatusOr<std::unique_ptr<Answer>> Answer::Create(EngineRequest request, const Tokenizer& tokenizer,
                                                 std::span<const int32_t> end_ids, int64_t vocab_size, int64_t context,
                                                 bool drafts) {
  RETURN_IF_ERROR(Check(request, vocab_size, context));
  ASSIGN_OR_RETURN(ScopedStops stops, ScopedStops::Create(request.stop, request.stop_scope));
  ASSIGN_OR_RETURN(TextStream stream, TextStream::Create(tokenizer, !request.keep_special));
  // A draft would have to be checked against the constraint token by token: it has one row at a time.
  drafts = drafts && request.constraint == nullptr;
  return std::unique_ptr<Answer>(
      new Answer(std::move(request), std::move(stream), std::move(stops), end_ids, vocab_size, context, drafts));
}

Answer::Answer(EngineRequest request, TextStream stream, ScopedStops stops, std::span<const int32_t> end_ids,
               int64_t vocab_size, int64_t context, bool drafts)
    : request_(std::move(request)),
      stream_(std::move(stream)),
      stops_(std::move(stops)),
      sampler_(request_.sampling),
      end_ids_(end_ids),
      vocab_size_(vocab_size),
      context_(context),
      tokens_(request_.prompt) {
  if (!drafts) return;
  index_.emplace();
  index_->Append(tokens_);
}

int64_t Answer::positions() const {
  // The last token is not fed.
  const int64_t answer = std::max<int64_t>(0, request_.max_tokens - 1);
  return answer > context_ - prompt_length() ? context_ : prompt_length() + answer;
}

std::span<const int32_t> Answer::Draft(int64_t most) {
  draft_.clear();
  if (!index_ || most <= 0) return draft_;
  if (draft_pause_ > 0) {
    --draft_pause_;
    return draft_;
  }
  // Tokens that would not be fed are not worth a row.
  most = std::min({most, draft_size_, request_.max_tokens - completion_tokens() - 1,
                   context_ - static_cast<int64_t>(tokens_.size())});
  draft_ = index_->Draft(most);
  return draft_;
}

Status Answer::Mask(std::span<float> row) {
  if (request_.constraint == nullptr) return OkStatus();
  if (request_.top_logprobs >= 0) raw_.assign(row.begin(), row.end());
  return request_.constraint->Mask(row);
}

StatusOr<bool> Answer::Take(int32_t token) {
  if (!request_.ignore_eos && std::binary_search(end_ids_.begin(), end_ids_.end(), token)) {
    End(FinishReason::kStop);
    return false;
  }
  ids_.push_back(token);
  if (request_.top_logprobs >= 0) logprobs_.push_back(LogprobsOf(raw_, token, request_.top_logprobs));
  tokens_.push_back(token);
  if (index_) index_->Append(token);
  ASSIGN_OR_RETURN(const std::string piece, stream_.Push(token));
  text_ += stops_.Push(piece);
  if (stops_.matched()) {
    End(FinishReason::kStop);
  } else if (completion_tokens() >= request_.max_tokens || static_cast<int64_t>(tokens_.size()) > context_) {
    End(FinishReason::kLength);
  }
  return !ended_;
}

Status Answer::SampleRows(std::span<float> rows) {
  size_t accepted = 0;
  for (size_t i = 0; i <= draft_.size(); ++i) {
    const std::span<float> row = rows.subspan(i * vocab_size_, vocab_size_);
    if (request_.top_logprobs >= 0 && request_.constraint == nullptr) raw_.assign(row.begin(), row.end());
    ASSIGN_OR_RETURN(const int32_t token, sampler_.Sample(tokens_, row));
    ASSIGN_OR_RETURN(const bool more, Take(token));
    const bool fed = i < draft_.size() && draft_[i] == token;
    accepted += fed;
    if (!more || !fed) break;
  }
  if (!draft_.empty()) {
    drafted_ += static_cast<int64_t>(draft_.size());
    accepted_ += static_cast<int64_t>(accepted);
    if (accepted == draft_.size()) {
      draft_size_ = std::min(kMostDrafted, 2 * draft_size_);
    } else {
      draft_size_ = std::max<int64_t>(1, draft_size_ / 2);
      if (accepted == 0) draft_pause_ = kDraftPause;
    }
  }
  if (!ended_ || stops_.matched()) return OkStatus();
  ASSIGN_OR_RETURN(const std::string rest, stream_.Flush());
  text_ += stops_.Finish(rest);
  if (stops_.matched()) reason_ = FinishReason::kStop;  // completed by the last, held-back bytes
  return OkStatus();
}

void Answer::Sample(std::span<float> rows) {
  ids_.clear();
  logprobs_.clear();
  text_.clear();
  try {
    status_ = SampleRows(rows);
  } catch (const std::bad_alloc&) {
    status_ = ResourceExhausted("no memory to sample a token");
  }
  draft_.clear();
  if (!status_.ok()) End(FinishReason::kCancelled);
}

bool Answer::Deliver(EngineSink* sink) {
  if (request_.constraint != nullptr && status_.ok()) {
    for (int32_t id : ids_) {
      if (Status status = request_.constraint->Accept(id); !status.ok()) {
        status_ = std::move(status);
        End(FinishReason::kCancelled);
        break;
      }
    }
    if (!ended_ && request_.constraint->done()) {
      End(FinishReason::kStop);
      auto rest = stream_.Flush();
      text_ += stops_.Finish(rest.ok() ? *rest : "");
    }
  }
  if (!text_.empty() || !ids_.empty()) sink->OnTokens(text_, ids_, logprobs_);
  return ended_;
}

}  // namespace optiq
