// POST /v1/completions: text or ids in, text out; echo and logprobs as lm-eval's loglikelihood needs them.
#include <cmath>

#include "server/api.h"
#include "server/sampling_fields.h"
#include "server/submission.h"
#include "server/token_queue.h"
#include "server/token_text.h"

namespace optiq {
namespace {

constexpr size_t kMaxPrompts = 128;

struct CompletionPrompt {
  std::string text;
  std::vector<int32_t> ids;
};

struct CompletionOptions {
  std::string model;
  int64_t n = 1;
  int logprobs = -1;
  bool echo = false, stream = false, include_usage = false;
};

class CompletionRun : public std::enable_shared_from_this<CompletionRun> {
 public:
  CompletionRun(const Call& call, CompletionOptions options, std::vector<CompletionPrompt> prompts)
      : call_(call), options_(std::move(options)), prompts_(std::move(prompts)), submission_(call.app) {
    choices_.resize(prompts_.size() * options_.n);
  }

  void Start(const EngineRequest& request, const std::vector<int64_t>& max_tokens) {
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
      mine.prompt = prompts_[i / options_.n].ids;
      mine.max_tokens = max_tokens[i / options_.n];
      mine.sampling.seed += i % options_.n;
      queues.push_back(std::make_shared<TokenQueue>(call_.exchange, [self, i] { self->Advance(i); }));
      if (const Status status = submission_.Add(std::move(mine), queues.back()); !status.ok()) {
        submission_.Cancel("rejected");
        call_.exchange->Post([self, status] {
          self->done_ = true;
          self->call_.Fail(ToApiError(status));
        });
        return;
      }
    }
    call_.exchange->Post([self, queues] {
      for (size_t i = 0; i < queues.size(); ++i) self->choices_[i].queue = queues[i];
      self->Begin();
    });
  }

 private:
  struct Choice {
    std::shared_ptr<TokenQueue> queue;
    std::string text, new_text;
    // logprobs' four lists; `written` of them are in the stream.
    OrderedJson tokens = OrderedJson::array(), token_logprobs = OrderedJson::array(), top = OrderedJson::array(),
                offsets = OrderedJson::array();
    size_t characters = 0;
    std::string finish;
    EngineUsage usage;
  };

  void Begin() {
    begun_ = true;
    if (options_.stream) {
      HttpResponse head;
      head.content_type = "text/event-stream";
      head.headers = {{"Cache-Control", "no-cache, no-transform"}, {"X-Accel-Buffering", "no"}};
      call_.exchange->BeginStream(std::move(head), ": keep-alive\n\n");
    }
    for (size_t i = 0; i < choices_.size() && !done_; ++i) {
      if (options_.echo) choices_[i].text = choices_[i].new_text = prompts_[i / options_.n].text;
      Advance(i);
    }
  }

  void AddToken(Choice* choice, const TokenLogprobs& token, bool known) {
    const std::string text = ValidUtf8(TokenBytes(*call_.app->tokenizer, token.id));
    choice->tokens.push_back(text);
    choice->offsets.push_back(choice->characters);
    for (const char c : text) choice->characters += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
    if (!known) {  // the first token of a text has nothing before it
      choice->token_logprobs.push_back(nullptr);
      choice->top.push_back(nullptr);
      return;
    }
    choice->token_logprobs.push_back(token.logprob);
    OrderedJson top = OrderedJson::object();
    const auto add = [&](int32_t id, float logprob) {
      const std::string key = ValidUtf8(TokenBytes(*call_.app->tokenizer, id));
      if (!top.contains(key) || top[key].get<float>() < logprob) top[key] = logprob;
    };
    for (const auto& [id, logprob] : token.top) add(id, logprob);
    if (options_.logprobs > 0) add(token.id, token.logprob);
    choice->top.push_back(std::move(top));
  }

  void Advance(size_t i) {
    if (!begun_ || done_) return;
    Choice& choice = choices_[i];
    if (!choice.finish.empty()) return;
    if (options_.stream && call_.exchange->unsent() > kStreamBufferBytes) {
      waiting_.push_back(i);
      call_.exchange->OnDrained([self = shared_from_this()] {
        for (const size_t j : std::exchange(self->waiting_, {})) self->Advance(j);
      });
      return;
    }
    TokenQueue::Taken taken = choice.queue->Take();
    if (taken.has_prompt && options_.echo) {
      for (const TokenLogprobs& token : taken.prompt) AddToken(&choice, token, !std::isnan(token.logprob));
    }
    for (const TokenBatch& batch : taken.batches) {
      choice.text += batch.text;
      choice.new_text += batch.text;
      if (options_.logprobs >= 0) {
        for (const TokenLogprobs& token : batch.logprobs) AddToken(&choice, token, true);
      }
    }
    if (taken.finished && !taken.status.ok()) return Fail(taken.status);
    if (taken.finished) {
      choice.finish = taken.reason == FinishReason::kLength ? "length" : "stop";
      choice.usage = taken.usage;
      call_.app->metrics.AddGeneration(taken.usage, call_.seconds());
    }
    if (options_.stream && (!choice.new_text.empty() || taken.finished)) Write(i);
    if (taken.finished && ++finished_ == choices_.size()) End();
  }

  OrderedJson Head() const {
    return {{"id", id_},
            {"object", "text_completion"},
            {"created", created_},
            {"model", options_.model},
            {"system_fingerprint", "optiq-" OPTIQ_VERSION}};
  }

  OrderedJson ChoiceJson(size_t i, const std::string& text) {
    Choice& c = choices_[i];
    OrderedJson json = {{"text", text}, {"index", i}, {"logprobs", nullptr}, {"finish_reason", nullptr}};
    if (options_.logprobs >= 0) {
      json["logprobs"] = {{"tokens", c.tokens},
                          {"token_logprobs", c.token_logprobs},
                          {"top_logprobs", c.top},
                          {"text_offset", c.offsets}};
    }
    if (!c.finish.empty()) json["finish_reason"] = c.finish;
    return json;
  }

  void Write(size_t i) {
    Choice& c = choices_[i];
    OrderedJson chunk = Head();
    chunk["choices"] = OrderedJson::array();
    chunk["choices"].push_back(ChoiceJson(i, c.new_text));
    if (options_.include_usage) chunk["usage"] = nullptr;
    c.new_text.clear();
    c.tokens = c.token_logprobs = c.top = c.offsets = OrderedJson::array();
    call_.exchange->Write("data: " + Dump(chunk) + "\n\n");
  }

  EngineUsage Usage() const {
    EngineUsage total = choices_.front().usage;
    for (size_t i = 1; i < choices_.size(); ++i) {
      if (i % options_.n == 0) {  // a prompt counts once
        total.prompt_tokens += choices_[i].usage.prompt_tokens;
        total.cached_tokens += choices_[i].usage.cached_tokens;
      }
      total.completion_tokens += choices_[i].usage.completion_tokens;
    }
    return total;
  }

  void End() {
    done_ = true;
    const EngineUsage usage = Usage();
    if (options_.stream) {
      if (options_.include_usage) {
        OrderedJson chunk = Head();
        chunk["choices"] = OrderedJson::array();
        chunk["usage"] = UsageJson(usage, 0);
        call_.exchange->Write("data: " + Dump(chunk) + "\n\n");
      }
      call_.exchange->Write("data: [DONE]\n\n");
      call_.exchange->EndStream();
    } else {
      OrderedJson body = Head();
      body["choices"] = OrderedJson::array();
      for (size_t i = 0; i < choices_.size(); ++i) body["choices"].push_back(ChoiceJson(i, choices_[i].text));
      body["usage"] = UsageJson(usage, 0);
      call_.exchange->Send(JsonResponse(body));
    }
    LogRequest(call_.app, call_.request(), call_.endpoint, call_.request_id, 200, call_.seconds(), &usage,
               choices_[0].finish);
    Release();
  }

  void Fail(const Status& status) {
    done_ = true;
    submission_.Cancel("failed");
    ApiError error = ToApiError(status);
    if (absl::IsCancelled(status)) error = {503, "the server is shutting down", "", "shutting_down"};
    if (options_.stream) {
      call_.exchange->Write("data: " + Dump(ErrorJson(error, Protocol::kOpenAi)) + "\n\n");
      call_.exchange->EndStream();
      LogRequest(call_.app, call_.request(), call_.endpoint, call_.request_id, error.status, call_.seconds());
    } else {
      call_.Fail(error);
    }
    Release();
  }

  void Release() {
    for (Choice& choice : choices_) choice.queue.reset();
  }

  Call call_;
  const CompletionOptions options_;
  const std::vector<CompletionPrompt> prompts_;
  const std::string id_ = MakeId("cmpl-");
  const int64_t created_ = UnixTime();
  Submission submission_;
  std::vector<Choice> choices_;
  std::vector<size_t> waiting_;
  size_t finished_ = 0;
  bool begun_ = false, done_ = false;
};

bool IsIds(const OrderedJson& json) { return json.is_array() && !json.empty() && json[0].is_number(); }

}  // namespace

std::optional<ApiError> ReadPrompt(const App& app, const OrderedJson& json, const char* param, std::string* text,
                                   std::vector<int32_t>* ids) {
  if (json.is_string()) {
    *text = json.get<std::string>();
    StatusOr<std::vector<int32_t>> encoded = app.tokenizer->Encode(*text, EncodeMode::kWithSpecial);
    if (!encoded.ok()) return ApiError{400, Message(encoded.status()), param, "invalid_value"};
    *ids = *std::move(encoded);
  } else {
    for (const OrderedJson& id : json) {
      if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= app.vocab_size) {
        return ApiError{400, fmt::format("'{}' must hold token ids from 0 to {}", param, app.vocab_size - 1), param,
                        "invalid_value"};
      }
      ids->push_back(id.get<int32_t>());
    }
    StatusOr<std::string> decoded = app.tokenizer->Decode(*ids, true);
    if (!decoded.ok()) return ToApiError(decoded.status());
    *text = *std::move(decoded);
  }
  if (ids->empty())
    return ApiError{400, fmt::format("'{}' is empty; at least one token is needed", param), param, "invalid_value"};
  return std::nullopt;
}

std::optional<ApiError> ReadPrompts(const App& app, const OrderedJson* json, const char* param, size_t most,
                                    std::vector<std::pair<std::string, std::vector<int32_t>>>* prompts) {
  if (json == nullptr) return ApiError{400, fmt::format("'{}' is missing", param), param, "missing_required_parameter"};
  std::vector<const OrderedJson*> list;
  if (json->is_string() || IsIds(*json)) {
    list.push_back(json);
  } else if (json->is_array() && !json->empty()) {
    for (const OrderedJson& item : *json) list.push_back(&item);
  }
  const bool fine = !list.empty() && std::all_of(list.begin(), list.end(),
                                                 [](const OrderedJson* j) { return j->is_string() || IsIds(*j); });
  if (!fine)
    return ApiError{400,
                    fmt::format("'{}' must be a string, an array of strings, token ids, or an array of those", param),
                    param, "invalid_type"};
  if (list.size() > most)
    return ApiError{400, fmt::format("'{}' has {} entries; at most {} are taken", param, list.size(), most), param,
                    "too_long"};
  for (const OrderedJson* item : list) {
    auto& [text, ids] = prompts->emplace_back();
    if (auto error = ReadPrompt(app, *item, param, &text, &ids)) return error;
  }
  return std::nullopt;
}

void HandleCompletions(const Call& call) {
  const App& app = *call.app;
  OrderedJson body;
  if (const auto error = ParseBody(call.request(), &body)) return call.Fail(*error);
  std::optional<ApiError> error;
  Fields fields(body, "", &error);
  CompletionOptions options;
  EngineRequest request;
  options.model = ReadModel(&fields, app);
  const OrderedJson* prompt = fields.Any("prompt");
  request.sampling = ReadSampling(&fields, app);
  options.echo = fields.Bool("echo").value_or(false);
  // The default of 16 is the protocol's.
  int64_t max_tokens = fields.Int("max_tokens", 0, int64_t{1} << 40).value_or(16);
  request.stop = fields.Strings("stop", kMaxStops, kMaxStopBytes).value_or(std::vector<std::string>{});
  std::erase(request.stop, "");
  options.n = fields.Int("n", 1, kMaxChoices).value_or(1);
  options.logprobs = static_cast<int>(fields.Int("logprobs", 0, 20).value_or(-1));
  options.stream = fields.Bool("stream").value_or(false);
  request.ignore_eos = fields.Bool("ignore_eos").value_or(false);
  if (const OrderedJson* stream_options = fields.Object("stream_options")) {
    Fields inner(*stream_options, "stream_options", &error);
    options.include_usage = inner.Bool("include_usage").value_or(false);
    if (!options.stream) fields.Fail("stream_options", "needs 'stream': true", "invalid_value");
  }
  if (const auto best = fields.Int("best_of", 1, 20); best && *best != options.n) {
    fields.Fail("best_of", "is not supported beyond 'n'", "unsupported_parameter");
  }
  fields.Accept({"user"});
  fields.Refuse("suffix", "the model continues text only", "");
  if (max_tokens == 0 && !(options.echo && options.logprobs >= 0)) {
    fields.Fail("max_tokens", "is 0; that needs 'echo' and 'logprobs'", "out_of_range");
  }
  if (error) return call.Fail(*error);
  if (auto e = app.FindModel(options.model, &request.adapter)) return call.Fail(*e);
  std::vector<std::pair<std::string, std::vector<int32_t>>> read;
  if (auto e = ReadPrompts(app, prompt, "prompt", kMaxPrompts, &read)) return call.Fail(*e);
  if (static_cast<int64_t>(read.size()) * options.n > app.engine->options().max_queued) {
    return call.Fail(
        {400,
         fmt::format("'prompt' times 'n' is more than the {} requests that may wait", app.engine->options().max_queued),
         "prompt", "too_long"});
  }
  std::vector<CompletionPrompt> prompts;
  std::vector<int64_t> lengths;
  for (auto& [text, ids] : read) {
    int64_t length = max_tokens;
    if (auto e = FitContext(app, ids.size(), "prompt", &length)) return call.Fail(*e);
    lengths.push_back(length);
    prompts.push_back({std::move(text), std::move(ids)});
  }
  request.top_logprobs = options.logprobs;
  request.prompt_logprobs = options.echo && options.logprobs >= 0;
  TellIgnored(call, fields);
  std::make_shared<CompletionRun>(call, options, std::move(prompts))->Start(request, lengths);
}

}  // namespace optiq
