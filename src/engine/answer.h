// From logits to a request's answer: sampling, text, stop strings, limits.
#ifndef OPTIQ_ENGINE_ANSWER_H_
#define OPTIQ_ENGINE_ANSWER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "engine/engine.h"
#include "engine/ngram_draft.h"
#include "engine/sampler.h"
#include "engine/scoped_stops.h"
#include "text/text_stream.h"

namespace optiq {

// One thread at a time. What is sampled depends on the request and on the logits alone.
class Answer {
 public:
  // `end_ids` (sorted) must outlive it; with `drafts` it proposes tokens. context: positions that a sequence may have.
  // kInvalidArgument, naming the parameter, for a request that makes no sense.
  static StatusOr<std::unique_ptr<Answer>> Create(EngineRequest request, const Tokenizer& tokenizer,
                                                  std::span<const int32_t> end_ids, int64_t vocab_size, int64_t context,
                                                  bool drafts);

  const EngineRequest& request() const { return request_; }
  // Prompt and answer. All but the last token have been fed once the prompt has.
  std::span<const int32_t> tokens() const { return tokens_; }
  int64_t prompt_length() const { return static_cast<int64_t>(request_.prompt.size()); }
  int64_t completion_tokens() const { return static_cast<int64_t>(tokens_.size()) - prompt_length(); }
  // Rows that the cache will hold at most.
  int64_t positions() const;

  // Tokens that may follow the last one, at most `most`; the next Sample gets a row of logits for each. Kept until
  // then.
  std::span<const int32_t> Draft(int64_t most);
  std::span<const int32_t> draft() const { return draft_; }
  int64_t drafted_tokens() const { return drafted_; }
  int64_t accepted_tokens() const { return accepted_; }

  // The constraint's mask of the row that Sample gets. Only on the thread that owns the constraint.
  Status Mask(std::span<float> row);
  // rows: logits after the last token, and after each token of the draft. Takes tokens until one is not the draft's, or
  // the end. Does not throw.
  void Sample(std::span<float> rows);
  // Gives the sink what Sample brought, and the constraint its token; true when the answer is complete: status() and
  // the others below say how.
  bool Deliver(EngineSink* sink);

  const Status& status() const { return status_; }
  FinishReason reason() const { return reason_; }
  std::string stop() const { return stops_.matched() ? stops_.stop() : ""; }

 private:
  Answer(EngineRequest request, TextStream stream, ScopedStops stops, std::span<const int32_t> end_ids,
         int64_t vocab_size, int64_t context, bool drafts);
  Status SampleRows(std::span<float> rows);
  // Takes one token; false when it was the last.
  StatusOr<bool> Take(int32_t token);
  void End(FinishReason reason) {
    ended_ = true;
    reason_ = reason;
  }

  EngineRequest request_;
  TextStream stream_;
  ScopedStops stops_;
  Sampler sampler_;
  std::span<const int32_t> end_ids_;
  int64_t vocab_size_, context_;
  std::vector<int32_t> tokens_;
  std::vector<float> raw_;  // the row before masks and penalties, where logprobs are wanted

  std::optional<NgramIndex> index_;
  std::vector<int32_t> draft_;
  int64_t draft_size_ = 2, draft_pause_ = 0;
  int64_t drafted_ = 0, accepted_ = 0;

  // Of the last Sample.
  std::vector<int32_t> ids_;
  std::vector<TokenLogprobs> logprobs_;
  std::string text_;

  bool ended_ = false;
  Status status_;
  FinishReason reason_ = FinishReason::kLength;
};

}  // namespace optiq

#endif  // OPTIQ_ENGINE_ANSWER_H_
