#include "engine/engine_loop.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <new>
#include <span>
#include <utility>

#include "engine/logprobs.h"
#include "kernels/vector.h"

namespace optiq {
namespace {

// Rows of a decode step up to which another row costs little: drafts fill them.
constexpr int64_t kCheapRows = 16;
// Tokens that one step copies from the prefix cache.
constexpr int64_t kRestoreTokens = 4096;
// Rows of logits that prompt logprobs hold at once.
constexpr int64_t kLogprobRows = 16;

double SecondsBetween(EngineClock::time_point from, EngineClock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

// Nothing that a listener does may end the engine.
template <typename Fn>
void Tell(Sequence* s, Fn fn) {
  try {
    fn(s->sink.get());
  } catch (...) {
    s->cancelled = true;
  }
}

}  // namespace

bool CanRewind(const KvGeometry& geometry, const KvPlan& plan) {
  for (size_t i = 0; i < geometry.size(); ++i) {
    if (geometry[i].window > 0 || geometry[i].state > 0) return false;
    if (geometry[i].heads > 0 && plan.layers[i].quantized() && plan.layers[i].dense_recent > 0) return false;
  }
  return plan.quantized_start == 0;
}

EngineLoop::EngineLoop(Decoder* decoder, const EngineOptions& options)
    : decoder_(decoder),
      options_(options),
      geometry_(KvGeometryOf(decoder->spec())),
      pool_(decoder->pool()),
      pacer_(options.prefill_chunk, static_cast<double>(options.stall_ms) / 1000),
      prefixes_(geometry_, options.kv_plan, options.prefix_cache_bytes),
      can_draft_(options.draft) {
  stats_.kv_bytes_budget = options.kv_bytes;
}

bool EngineLoop::Admit(const std::shared_ptr<Sequence>& s) {
  if (static_cast<int64_t>(running_.size()) >= options_.max_concurrent) return false;
  const int64_t need = KvAllocatedBytes(geometry_, options_.kv_plan, s->answer->positions());
  if (need > options_.kv_bytes - reserved_) return false;
  try {
    s->cache = std::make_unique<KvCache>(geometry_, options_.kv_plan);
    running_.push_back(s);
  } catch (const std::bad_alloc&) {
    Refuse(s.get(), ResourceExhausted("no memory for another request"));
    return true;
  }
  s->reserved = need;
  reserved_ += need;
  // What it can use is not what gives way to it.
  if (!s->wants_hidden()) prefixes_.Find(s->root, s->answer->tokens());
  prefixes_.Limit(options_.kv_bytes - reserved_);
  s->admitted = EngineClock::now();
  if (s->sink != nullptr) Tell(s.get(), [](EngineSink* sink) { sink->OnStart(); });
  return true;
}

void EngineLoop::Round() {
  for (const auto& s : running_) {
    if (s->cancelled) Finish(s.get(), Cancelled("the request was cancelled"), FinishReason::kCancelled, "");
  }
  Sweep();
  if (running_.empty()) return;
  try {
    Step();
  } catch (const std::bad_alloc&) {
    for (const auto& s : running_) {
      if (!s->ended) Finish(s.get(), ResourceExhausted("the engine ran out of memory"), FinishReason::kCancelled, "");
    }
  }
  Sweep();
  // Nobody waits for the largest batch's logits.
  if (running_.empty()) logits_ = {};
}

bool EngineLoop::MustWait(const Sequence& s) const {
  if (s.wants_hidden()) return false;
  const auto tokens = s.answer->tokens();
  for (const auto& t : running_) {
    if (t.get() == &s) return false;  // the others came later
    if (t->root != s.root || !t->begun || t->ended || t->embedding != nullptr || t->prompt_left() == 0) continue;
    const auto other = t->answer->tokens();
    const int64_t common = std::mismatch(tokens.begin(), tokens.end() - 1, other.begin(), other.end()).first - tokens.begin();
    const int64_t shareable = prefixes_.Shareable(common, t->prompt_length());
    if (shareable >= 2 * PrefixCache::kBlock && t->cache->length() < shareable) return true;
  }
  return false;
}

void EngineLoop::Begin(Sequence* s) {
  s->begun = true;
  if (s->wants_hidden() || options_.prefix_cache_bytes == 0) return;
  s->prefix = prefixes_.Find(s->root, s->answer->tokens());
  s->branch = s->prefix.branch;
  ++stats_.prefix_queries;
  if (s->prefix.length == 0) return;
  ++stats_.prefix_hits;
  s->cached_tokens = s->prefix.length;
  stats_.cached_tokens += s->cached_tokens;
  stats_.prompt_tokens += s->cached_tokens;
  BeginKvRestore(s->cache.get(), s->prefix.length);
}

bool EngineLoop::Restore(Sequence* s) {
  const size_t most = s->restored + kRestoreTokens / PrefixCache::kBlock;
  for (; s->restored < s->prefix.rows.size(); ++s->restored) {
    if (s->restored == most) return false;
    RestoreKvRows(s->cache.get(), *std::exchange(s->prefix.rows[s->restored], nullptr));
  }
  if (s->prefix.tail != nullptr) RestoreKvTail(s->cache.get(), *std::exchange(s->prefix.tail, nullptr));
  return true;
}

void EngineLoop::Store(Sequence* s) {
  try {
    prefixes_.Store(s->root, s->answer->tokens().first(s->prompt_length()), *s->cache, s->branch);
  } catch (const std::bad_alloc&) {
    prefixes_.EvictTo(0);  // memory is short
  }
}

void EngineLoop::PlanPrompts(const std::vector<Sequence*>& prompts, int64_t budget, std::vector<Part>* parts) {
  std::vector<int64_t> most;  // tokens that each may take
  for (const Sequence* s : prompts) {
    const int64_t at = s->cache->length(), start = options_.kv_plan.quantized_start;
    int64_t end = prefixes_.PassEnd(at, s->prompt_length(), s->branch);
    // Rows become quantized between two passes: always between the same two.
    if (at < start) end = std::min(end, start);
    most.push_back(end - at);
  }
  std::vector<int64_t> shares;
  if (prefixes_.on_grid()) {
    shares.assign(prompts.size(), 0);
    for (size_t i = 0, first = turn_++; i < prompts.size(); ++i) {
      const size_t at = (first + i) % prompts.size();
      if (i > 0 && most[at] > budget) continue;
      shares[at] = most[at];
      budget -= most[at];
    }
  } else {
    shares = SharePrefill(most, budget);
  }
  for (size_t i = 0; i < prompts.size(); ++i) {
    if (shares[i] == 0) continue;
    Sequence* s = prompts[i];
    const auto ids = s->answer->tokens().subspan(s->cache->length(), shares[i]);
    Part part = {.sequence = s, .prompt = true, .ids = {ids.begin(), ids.end()}};
    part.logits = shares[i] == s->prompt_left() && !s->prompt_only();
    if (s->wants_hidden()) part.hidden.resize(shares[i] * decoder_->spec().hidden_size);
    parts->push_back(std::move(part));
  }
}

std::vector<EngineLoop::Part> EngineLoop::Plan() {
  std::vector<Part> parts;
  std::vector<Sequence*> prompts;
  for (const auto& s : running_) {
    if (!s->begun) {
      if (MustWait(*s)) continue;
      Begin(s.get());
    }
    if (!Restore(s.get())) continue;
    if (s->prompt_left() > 0) {
      prompts.push_back(s.get());
    } else {
      parts.push_back({.sequence = s.get(), .logits = true});
    }
  }
  const int64_t answers = static_cast<int64_t>(parts.size());
  for (Part& part : parts) {
    Answer& answer = *part.sequence->answer;
    part.ids = {answer.tokens().back()};
    const auto draft = answer.Draft(can_draft_ && prompts.empty() ? kCheapRows / answers - 1 : 0);
    part.ids.insert(part.ids.end(), draft.begin(), draft.end());
  }
  PlanPrompts(prompts, pacer_.Budget(answers > 0), &parts);
  return parts;
}

void EngineLoop::Step() {
  std::vector<Part> parts = Plan();
  if (parts.empty()) return;
  std::vector<Decoder::Input> batch;
  int64_t prompt_tokens = 0;
  size_t rows = 0;
  for (Part& part : parts) {
    part.logit_row = rows;
    batch.push_back({.ids = part.ids,
                     .cache = part.sequence->cache.get(),
                     .all_logits = !part.prompt,
                     .no_logits = !part.logits,
                     .kind = part.prompt ? RowKind::kPrompt : RowKind::kAnswer,
                     .adapter = part.sequence->adapter,
                     .hidden = part.hidden.empty() ? nullptr : part.hidden.data()});
    rows += !part.prompt ? part.ids.size() : part.logits;
    if (part.prompt) prompt_tokens += static_cast<int64_t>(part.ids.size());
  }
  const auto begin = EngineClock::now();
  const Status status = decoder_->ForwardBatch(batch, &logits_, &finite_);
  pacer_.Record(prompt_tokens, SecondsBetween(begin, EngineClock::now()));
  ++stats_.steps;
  if (!status.ok()) {
    for (Part& part : parts) Finish(part.sequence, status, FinishReason::kCancelled, "");
    return;
  }
  stats_.prompt_tokens += prompt_tokens;
  for (Part& part : parts) {  // whose numbers are broken fails alone
    const auto first = finite_.begin() + static_cast<std::ptrdiff_t>(part.logit_row);
    const size_t n = !part.prompt ? part.ids.size() : part.logits;
    if (std::find(first, first + static_cast<std::ptrdiff_t>(n), false) == first + static_cast<std::ptrdiff_t>(n)) continue;
    Finish(part.sequence, decoder_->NotFinite(), FinishReason::kCancelled, "");
    part.logits = false;
  }
  SampleAll(parts, &logits_);
  // Answers first: prompt logprobs take their time.
  for (Part& part : parts) {
    if (!part.prompt && part.logits) Deliver(&part);
  }
  for (Part& part : parts) {
    if (part.prompt) AfterPrompt(&part);
  }
}

void EngineLoop::SampleAll(std::vector<Part>& parts, std::vector<float>* logits) {
  const size_t vocab = static_cast<size_t>(decoder_->spec().vocab_size);
  std::vector<Part*> sampled;
  for (Part& part : parts) {
    if (!part.logits) continue;
    const std::span<float> row = std::span(*logits).subspan(part.logit_row * vocab, vocab);
    if (const Status status = part.sequence->answer->Mask(row); !status.ok()) {
      Finish(part.sequence, status, FinishReason::kCancelled, "");
      part.logits = false;
      continue;
    }
    sampled.push_back(&part);
  }
  pool_->ParallelFor(static_cast<int64_t>(sampled.size()), [&](int64_t i, int) {
    Answer& answer = *sampled[i]->sequence->answer;
    answer.Sample(std::span(*logits).subspan(sampled[i]->logit_row * vocab, (answer.draft().size() + 1) * vocab));
  });
}

void EngineLoop::Deliver(Part* part) {
  Sequence* s = part->sequence;
  const auto now = EngineClock::now();
  if (s->first_token == EngineClock::time_point()) {
    if (s->prefilled == EngineClock::time_point()) s->prefilled = now;
    s->first_token = now;
  }
  bool ended = true;
  Tell(s, [&](EngineSink* sink) { ended = s->answer->Deliver(sink); });
  if (ended) {
    const Status& status = s->answer->status();
    return Finish(s, status, s->answer->reason(), s->answer->stop());
  }
  // What was drafted and not taken.
  const int64_t fed = static_cast<int64_t>(s->answer->tokens().size()) - 1;
  if (s->cache->length() > fed) {
    const int64_t kept = s->cache->Trim(fed);
    OPTIQ_CHECK(kept == fed);
  }
}

void EngineLoop::AfterPrompt(Part* part) {
  Sequence* s = part->sequence;
  if (s->ended) return;
  const int64_t end = s->cache->length(), begin = end - static_cast<int64_t>(part->ids.size());
  const bool complete = end == s->prompt_length();
  if (complete && s->prefilled == EngineClock::time_point()) s->prefilled = EngineClock::now();
  if (s->embedding == nullptr) Store(s);
  if (s->embedding != nullptr) {
    AddHidden(*part);
    if (complete) FinishEmbedding(s, OkStatus());
    return;
  }
  if (!s->answer->request().prompt_logprobs) {
    if (part->logits) Deliver(part);
    return;
  }
  if (const Status status = AddPromptLogprobs(*part, begin); !status.ok()) {
    return Finish(s, status, FinishReason::kCancelled, "");
  }
  if (!complete) return;
  Tell(s, [&](EngineSink* sink) { sink->OnPrompt(std::move(s->prompt_logprobs)); });
  if (part->logits) return Deliver(part);
  Finish(s, OkStatus(), FinishReason::kLength, "");
}

// Row i of the part is position begin + i and says how likely the next token of the prompt was.
Status EngineLoop::AddPromptLogprobs(const Part& part, int64_t begin) {
  Sequence* s = part.sequence;
  const std::span<const int32_t> tokens = s->answer->tokens().first(s->prompt_length());
  const int top = s->answer->request().top_logprobs;
  if (begin == 0) {
    s->prompt_logprobs.push_back({.id = tokens[0], .logprob = std::numeric_limits<float>::quiet_NaN(), .top = {}});
  }
  const int64_t rows = std::min(static_cast<int64_t>(part.ids.size()), s->prompt_length() - 1 - begin);
  const int64_t vocab = decoder_->spec().vocab_size, width = decoder_->spec().hidden_size;
  std::vector<float> logits;
  for (int64_t r = 0; r < rows; r += kLogprobRows) {
    const int64_t n = std::min(kLogprobRows, rows - r);
    RETURN_IF_ERROR(decoder_->Logits(part.hidden.data() + r * width, n, &logits));
    std::vector<TokenLogprobs> out(n);
    pool_->ParallelFor(n, [&](int64_t i, int) {
      out[i] = LogprobsOf(std::span(logits).subspan(i * vocab, vocab), tokens[begin + r + i + 1], top);
    });
    std::move(out.begin(), out.end(), std::back_inserter(s->prompt_logprobs));
  }
  return OkStatus();
}

void EngineLoop::AddHidden(const Part& part) {
  Sequence* s = part.sequence;
  const size_t width = static_cast<size_t>(decoder_->spec().hidden_size);
  const bool mean = s->embedding->pooling == Engine::Pooling::kMean;
  if (mean) s->sum.resize(width, 0.0);
  const size_t first = mean ? 0 : part.ids.size() - 1;
  if (!mean) s->sum.assign(width, 0.0);
  for (size_t r = first; r < part.ids.size(); ++r) {
    for (size_t i = 0; i < width; ++i) s->sum[i] += part.hidden[r * width + i];
  }
}

void EngineLoop::FinishEmbedding(Sequence* s, const Status& status) {
  Status result = status;
  std::vector<float> vector;
  if (result.ok()) {
    const double rows = s->embedding->pooling == Engine::Pooling::kMean ? static_cast<double>(s->prompt_length()) : 1.0;
    for (double x : s->sum) vector.push_back(static_cast<float>(x / rows));
    if (!IsFiniteRow(vector.data(), static_cast<int64_t>(vector.size())))
      result = DataLoss("the model's states are not finite");
  }
  Release(s);
  ended_.push_back([call = s->embedding, index = s->embedding_index, vector = std::move(vector), result]() mutable {
    const std::lock_guard<std::mutex> lock(call->mutex);
    if (call->status.ok()) call->status = result;
    call->vectors[index] = std::move(vector);
    if (--call->left == 0) call->done.notify_all();
  });
}

void EngineLoop::TellEnded() {
  for (auto& tell : std::exchange(ended_, {})) {
    try {
      tell();
    } catch (...) {  // its own affair
    }
  }
}

void EngineLoop::Refuse(Sequence* s, const Status& status) {
  s->admitted = EngineClock::now();
  Finish(s, status, FinishReason::kCancelled, "");
}

void EngineLoop::Release(Sequence* s) {
  reserved_ -= s->reserved;
  prefixes_.Limit(options_.kv_bytes - reserved_);
  s->reserved = 0;
  s->cache.reset();
  s->ended = true;
}

void EngineLoop::Finish(Sequence* s, const Status& status, FinishReason reason, const std::string& stop) {
  if (s->embedding != nullptr) return FinishEmbedding(s, status);
  const auto now = EngineClock::now();
  Release(s);
  const Answer& answer = *s->answer;
  EngineUsage usage = {.prompt_tokens = answer.prompt_length(),
                       .cached_tokens = s->cached_tokens,
                       .completion_tokens = answer.completion_tokens(),
                       .drafted_tokens = answer.drafted_tokens(),
                       .accepted_tokens = answer.accepted_tokens(),
                       .queue_seconds = SecondsBetween(s->submitted, s->admitted)};
  const auto none = EngineClock::time_point();
  if (s->prefilled != none) usage.prefill_seconds = SecondsBetween(s->admitted, s->prefilled);
  if (s->first_token != none) {
    usage.first_token_seconds = SecondsBetween(s->submitted, s->first_token);
    usage.decode_seconds = SecondsBetween(s->first_token, now);
  }
  stats_.completion_tokens += usage.completion_tokens;
  stats_.drafted_tokens += usage.drafted_tokens;
  stats_.accepted_tokens += usage.accepted_tokens;
  if (status.code() == absl::StatusCode::kCancelled) {
    ++stats_.cancelled;
  } else if (!status.ok()) {
    ++stats_.failed;
  } else {
    ++(reason == FinishReason::kStop ? stats_.finished_stop : stats_.finished_length);
  }
  ended_.push_back(
      [sink = std::move(s->sink), status, reason, stop, usage] { sink->OnFinish(status, reason, stop, usage); });
}

void EngineLoop::Sweep() {
  std::erase_if(running_, [](const auto& s) { return s->ended; });
}

EngineStats EngineLoop::stats() const {
  EngineStats stats = stats_;
  stats.running = static_cast<int64_t>(running_.size());
  for (const auto& s : running_) stats.prefilling += s->prompt_left() > 0;
  stats.kv_bytes_active = reserved_;
  stats.kv_bytes_cached = prefixes_.bytes();
  return stats;
}

}  // namespace optiq
