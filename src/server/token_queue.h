// A sink that carries the engine's events to a connection's strand. Events that come while the strand is busy, or while
// the client reads slowly, are joined: nothing is dropped, and what waits is bounded by the answer's length.
#ifndef OPTIQ_SERVER_TOKEN_QUEUE_H_
#define OPTIQ_SERVER_TOKEN_QUEUE_H_

#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "server/exchange.h"

namespace optiq {

struct TokenBatch {
  std::string text;
  std::vector<int32_t> ids;
  std::vector<TokenLogprobs> logprobs;
};

class TokenQueue : public EngineSink {
 public:
  struct Taken {
    std::vector<TokenBatch> batches;
    std::vector<TokenLogprobs> prompt;
    bool has_prompt = false, finished = false;
    Status status;
    FinishReason reason = FinishReason::kStop;
    std::string stop;
    EngineUsage usage;
  };

  // on_change runs on the exchange's strand.
  TokenQueue(ExchangePtr exchange, std::function<void()> on_change)
      : exchange_(std::move(exchange)), on_change_(std::move(on_change)) {}

  void OnPrompt(std::vector<TokenLogprobs> logprobs) override {
    std::lock_guard lock(mutex_);
    waiting_.prompt = std::move(logprobs);
    waiting_.has_prompt = true;
  }
  void OnTokens(std::string_view text, std::span<const int32_t> ids, std::span<const TokenLogprobs> logprobs) override {
    {
      std::lock_guard lock(mutex_);
      waiting_.batches.push_back({std::string(text), {ids.begin(), ids.end()}, {logprobs.begin(), logprobs.end()}});
    }
    Signal();
  }
  void OnFinish(const Status& status, FinishReason reason, const std::string& stop, const EngineUsage& usage) override {
    {
      std::lock_guard lock(mutex_);
      waiting_.finished = true;
      waiting_.status = status;
      waiting_.reason = reason;
      waiting_.stop = stop;
      waiting_.usage = usage;
    }
    Signal();
  }

  // Everything that came since the last call.
  Taken Take() {
    std::lock_guard lock(mutex_);
    signalled_ = false;
    Taken out = std::move(waiting_);
    waiting_ = Taken{};
    return out;
  }

 private:
  void Signal() {
    {
      std::lock_guard lock(mutex_);
      if (signalled_) return;
      signalled_ = true;
    }
    exchange_->Post(on_change_);
  }

  ExchangePtr exchange_;
  std::function<void()> on_change_;
  std::mutex mutex_;
  Taken waiting_;
  bool signalled_ = false;
};

}  // namespace optiq

#endif  // OPTIQ_SERVER_TOKEN_QUEUE_H_
