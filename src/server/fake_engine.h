// An engine that says what it is told, for tests of the server. Test code only.
#ifndef OPTIQ_SERVER_FAKE_ENGINE_H_
#define OPTIQ_SERVER_FAKE_ENGINE_H_

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "engine/engine.h"

namespace optiq {

class FakeEngine : public Engine {
 public:
  // The answer to a prompt; cut into pieces of `piece` bytes (of ASCII), one token each.
  std::function<std::string(const EngineRequest&)> answer = [](const EngineRequest&) {
    return std::string("Hello there.");
  };
  size_t piece = 3;
  std::chrono::milliseconds step{0};
  Status submit_status, finish_status;

  FakeEngine() {
    options_.context_length = 100;
    thread_ = std::thread([this] { Loop(); });
  }
  ~FakeEngine() override {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  StatusOr<RequestId> Submit(EngineRequest request, std::shared_ptr<EngineSink> sink) override {
    std::lock_guard lock(mutex_);
    if (!submit_status.ok()) return submit_status;
    if (draining_) return Unavailable("the server is shutting down");
    Job job{next_, request, std::move(sink), answer(request), 0, 0, false};
    jobs_.emplace(next_, std::move(job));
    changed_.notify_all();
    return next_++;
  }
  void Cancel(RequestId id) override {
    std::lock_guard lock(mutex_);
    if (const auto it = jobs_.find(id); it != jobs_.end()) it->second.cancelled = true;
  }
  StatusOr<std::vector<std::vector<float>>> Embed(std::vector<std::vector<int32_t>> prompts, Pooling) override {
    return std::vector<std::vector<float>>(prompts.size(), {3, 4});
  }
  EngineStats stats() const override {
    std::lock_guard lock(mutex_);
    EngineStats stats;
    stats.running = static_cast<int64_t>(jobs_.size());
    stats.cancelled = cancelled_;
    return stats;
  }
  const EngineOptions& options() const override { return options_; }
  EngineOptions& mutable_options() { return options_; }
  std::vector<std::string> adapters() const override { return {"french"}; }
  void Drain(std::chrono::milliseconds deadline) override {
    const auto end = std::chrono::steady_clock::now() + deadline;
    std::unique_lock lock(mutex_);
    draining_ = true;
    changed_.wait_until(lock, end, [this] { return jobs_.empty(); });
    for (auto& [id, job] : jobs_) job.cancelled = true;
  }

 private:
  struct Job {
    RequestId id;
    EngineRequest request;
    std::shared_ptr<EngineSink> sink;
    std::string text;
    size_t at;
    int64_t tokens;
    bool cancelled;
  };

  void Loop() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return stopping_ || !jobs_.empty(); });
      if (stopping_) return;
      std::vector<RequestId> ids;
      for (const auto& [id, job] : jobs_) ids.push_back(id);
      for (const RequestId id : ids) Step(&jobs_.at(id));
      changed_.notify_all();
      if (step.count() > 0) {
        lock.unlock();
        std::this_thread::sleep_for(step);
        lock.lock();
      }
    }
  }

  void Step(Job* job) {
    const bool length = job->tokens >= job->request.max_tokens;
    if (job->cancelled || length || job->at >= job->text.size()) {
      EngineUsage usage;
      usage.prompt_tokens = static_cast<int64_t>(job->request.prompt.size());
      usage.completion_tokens = job->tokens;
      cancelled_ += job->cancelled;
      const Status status = job->cancelled ? Cancelled("cancelled") : finish_status;
      job->sink->OnFinish(status,
                          job->cancelled                         ? FinishReason::kCancelled
                          : length && job->at < job->text.size() ? FinishReason::kLength
                                                                 : FinishReason::kStop,
                          "", usage);
      jobs_.erase(job->id);
      return;
    }
    const std::string text = job->text.substr(job->at, piece);
    job->at += piece;
    ++job->tokens;
    const int32_t id = 5;
    TokenLogprobs logprobs{id, -0.5f, {{id, -0.5f}, {6, -1.5f}}};
    const std::span<const TokenLogprobs> list(&logprobs, job->request.top_logprobs >= 0 ? 1 : 0);
    job->sink->OnTokens(text, std::span<const int32_t>(&id, 1), list);
  }

  EngineOptions options_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::map<RequestId, Job> jobs_;
  RequestId next_ = 1;
  bool stopping_ = false, draining_ = false;
  int64_t cancelled_ = 0;
  std::thread thread_;
};

}  // namespace optiq

#endif  // OPTIQ_SERVER_FAKE_ENGINE_H_
