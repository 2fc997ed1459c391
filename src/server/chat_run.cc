#include "server/chat_run.h"

#include "server/submission.h"
#include "server/token_queue.h"

namespace optiq {
namespace {

class ChatRun : public std::enable_shared_from_this<ChatRun> {
 public:
  ChatRun(const Call& call, const OutputParserOptions& parser, int64_t n, bool stream, std::string prefix,
          std::unique_ptr<ChatWriter> writer)
      : call_(call),
        stream_(stream),
        call_id_prefix_(std::move(prefix)),
        writer_(std::move(writer)),
        submission_(call.app) {
    choices_.reserve(n);
    OutputParserOptions options = parser;
    options.stream_arguments = stream;
    for (int64_t i = 0; i < n; ++i) choices_.push_back(Choice{OutputParser(options)});
    answers_.resize(n);
  }

  void Start(const EngineRequest& request, const std::vector<std::shared_ptr<TokenConstraint>>& constraints) {
    const auto self = shared_from_this();
    call_.exchange->OnLeave([self] {
      self->submission_.Cancel("disconnect");
      self->done_ = true;
      self->Release();
      LogRequest(self->call_.app, self->call_.request(), self->call_.endpoint, self->call_.request_id, 499,
                 self->call_.seconds());
    });
    std::vector<std::shared_ptr<TokenQueue>> queues;
    for (size_t i = 0; i < choices_.size(); ++i) {
      EngineRequest mine = request;
      mine.sampling.seed += i;
      if (!constraints.empty()) mine.constraint = constraints[i];
      queues.push_back(std::make_shared<TokenQueue>(call_.exchange, [self, i] { self->Advance(i); }));
      if (const Status status = submission_.Add(std::move(mine), queues.back()); !status.ok()) {
        submission_.Cancel("rejected");
        call_.exchange->Post([self, status] {
          self->done_ = true;
          self->call_.Fail(ToApiError(status), self->writer_->protocol());
        });
        return;
      }
    }
    EngineUsage prompt;
    prompt.prompt_tokens = static_cast<int64_t>(request.prompt.size());
    call_.exchange->Post([self, prompt, queues] {
      for (size_t i = 0; i < queues.size(); ++i) self->choices_[i].queue = queues[i];
      self->Begin(prompt);
    });
  }

 private:
  struct Choice {
    OutputParser parser;
    std::shared_ptr<TokenQueue> queue;
    std::vector<TokenLogprobs> held_logprobs = {};  // of tokens whose text has not come out yet
    bool finished = false, satisfied = false, waiting = false;
  };

  void Begin(const EngineUsage& prompt) {
    begun_ = true;
    if (stream_) {
      HttpResponse head;
      head.content_type = "text/event-stream";
      head.headers = {{"Cache-Control", "no-cache, no-transform"}, {"X-Accel-Buffering", "no"}};
      call_.exchange->BeginStream(std::move(head), writer_->Heartbeat());
      call_.exchange->Write(writer_->Begin(prompt));
    }
    for (size_t i = 0; i < choices_.size() && !done_; ++i) Advance(i);
  }

  void Advance(size_t i) {
    if (!begun_ || done_) return;
    Choice& choice = choices_[i];
    if (choice.finished) return;
    if (stream_ && call_.exchange->unsent() >
                       kStreamBufferBytes) {  // the client reads slowly: wait, what comes is joined meanwhile
      if (!choice.waiting) {
        choice.waiting = true;
        waiting_.push_back(i);
      }
      call_.exchange->OnDrained([self = shared_from_this()] {
        for (const size_t j : std::exchange(self->waiting_, {})) {
          self->choices_[j].waiting = false;
          self->Advance(j);
        }
      });
      return;
    }
    TokenQueue::Taken taken = choice.queue->Take();
    ChatAnswer& answer = answers_[i];
    OutputEvents events;
    for (TokenBatch& batch : taken.batches) {
      choice.parser.Push(batch.text, &events);
      if (choice.parser.in_reasoning()) answer.reasoning_tokens += static_cast<int64_t>(batch.ids.size());
      std::move(batch.logprobs.begin(), batch.logprobs.end(), std::back_inserter(choice.held_logprobs));
    }
    if (taken.finished) choice.parser.Finish(&events);
    Record(events, &answer);
    if (stream_ && !events.empty()) {
      call_.exchange->Write(writer_->Events(i, events, choice.held_logprobs, answer));
      Keep(&choice, &answer);
    }
    if (!taken.finished && choice.parser.satisfied() && !choice.satisfied) {
      choice.satisfied = true;  // the one call that was wanted is there
      submission_.CancelOne(i);
    }
    if (!taken.finished) return;
    if (!taken.status.ok() && !choice.satisfied) return Fail(taken.status);
    choice.finished = true;
    answer.ended_by_length = taken.reason == FinishReason::kLength;
    answer.stop = taken.stop;
    answer.usage = taken.usage;
    if (stream_) {
      call_.exchange->Write(writer_->Finish(i, answer, choice.held_logprobs));
    }
    Keep(&choice, &answer);
    call_.app->metrics.AddGeneration(taken.usage, call_.seconds());
    if (++finished_ == choices_.size()) End();
  }

  // The logprobs have been written out.
  static void Keep(Choice* choice, ChatAnswer* answer) {
    std::move(choice->held_logprobs.begin(), choice->held_logprobs.end(), std::back_inserter(answer->logprobs));
    choice->held_logprobs.clear();
  }

  void Record(const OutputEvents& events, ChatAnswer* answer) {
    for (const OutputEvent& event : events) {
      switch (event.kind) {
        case OutputEvent::kReasoning:
          answer->reasoning += event.text;
          break;
        case OutputEvent::kContent:
          answer->content += event.text;
          break;
        case OutputEvent::kToolCall:
          answer->calls.push_back({MakeId(call_id_prefix_), event.name, event.text});
          break;
        case OutputEvent::kToolArguments:
          answer->calls.back().arguments += event.text;
          break;
      }
    }
  }

  void End() {
    done_ = true;
    const EngineUsage usage = TotalUsage(answers_);
    const char* finish = answers_[0].called() ? "tool_calls" : answers_[0].ended_by_length ? "length" : "stop";
    if (stream_) {
      call_.exchange->Write(writer_->End(answers_));
      call_.exchange->EndStream();
    } else {
      call_.exchange->Send(JsonResponse(writer_->Body(answers_)));
    }
    LogRequest(call_.app, call_.request(), call_.endpoint, call_.request_id, 200, call_.seconds(), &usage, finish);
    Release();
  }

  void Fail(const Status& status) {
    done_ = true;
    submission_.Cancel("failed");
    ApiError error = ToApiError(status);
    if (absl::IsCancelled(status)) error = {503, "the server is shutting down", "", "shutting_down"};
    if (stream_) {
      call_.exchange->Write(writer_->Error(error, call_.request_id));
      call_.exchange->EndStream();
      LogRequest(call_.app, call_.request(), call_.endpoint, call_.request_id, error.status, call_.seconds());
    } else {
      call_.Fail(error, writer_->protocol());
    }
    Release();
  }

  // Queues and run hold each other until here.
  void Release() {
    for (Choice& choice : choices_) choice.queue.reset();
  }

  Call call_;
  const bool stream_;
  const std::string call_id_prefix_;
  std::unique_ptr<ChatWriter> writer_;
  Submission submission_;
  std::vector<Choice> choices_;
  std::vector<ChatAnswer> answers_;
  std::vector<size_t> waiting_;
  size_t finished_ = 0;
  bool begun_ = false, done_ = false;
};

}  // namespace

EngineUsage TotalUsage(const std::vector<ChatAnswer>& answers) {
  EngineUsage total = answers.front().usage;
  for (size_t i = 1; i < answers.size(); ++i) {
    total.completion_tokens += answers[i].usage.completion_tokens;
    total.drafted_tokens += answers[i].usage.drafted_tokens;
    total.accepted_tokens += answers[i].usage.accepted_tokens;
  }
  return total;
}

int64_t TotalReasoningTokens(const std::vector<ChatAnswer>& answers) {
  int64_t total = 0;
  for (const ChatAnswer& answer : answers) total += answer.reasoning_tokens;
  return total;
}

void StartChat(const Call& call, ChatPrompt prompt, int64_t n, bool stream, std::string prefix,
               std::unique_ptr<ChatWriter> writer) {
  std::make_shared<ChatRun>(call, prompt.parser, n, stream, std::move(prefix), std::move(writer))
      ->Start(prompt.request, prompt.constraints);
}

}  // namespace optiq
