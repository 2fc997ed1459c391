#include "engine/engine.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "engine/engine_loop.h"
#include "engine/kv_budget.h"
#include "engine/sequence.h"

namespace optiq {
namespace {

// Positions of a sequence where neither the user nor the model names a number.
constexpr int64_t kDefaultContext = 131072;

Status CheckAtLeast(const char* name, int64_t value, int64_t least) {
  if (value >= least) return OkStatus();
  return InvalidArgument("{} is {}; it must be at least {}", name, value, least);
}

// Checks the options and fills in what was 0.
Status Complete(const Decoder& decoder, EngineOptions* o) {
  RETURN_IF_ERROR(CheckAtLeast("max_concurrent", o->max_concurrent, 1));
  RETURN_IF_ERROR(CheckAtLeast("max_queued", o->max_queued, 0));
  RETURN_IF_ERROR(CheckAtLeast("context_length", o->context_length, 0));
  RETURN_IF_ERROR(CheckAtLeast("kv_bytes", o->kv_bytes, 0));
  RETURN_IF_ERROR(CheckAtLeast("prefix_cache_bytes", o->prefix_cache_bytes, 0));
  RETURN_IF_ERROR(CheckAtLeast("prefill_chunk", o->prefill_chunk, 1));
  RETURN_IF_ERROR(CheckAtLeast("stall_ms", o->stall_ms, 1));
  const KvGeometry geometry = KvGeometryOf(decoder.spec());
  if (o->kv_plan.layers.empty()) {
    const int64_t start = o->kv_plan.quantized_start;
    o->kv_plan = UniformKvPlan(geometry, {.bits = IsFast(decoder.products()) ? 16 : 32});
    o->kv_plan.quantized_start = start;
  }
  RETURN_IF_ERROR(CheckKvPlan(o->kv_plan, geometry));
  if (o->kv_bytes == 0) o->kv_bytes = DefaultKvBytes();
  if (o->prefix_cache_bytes > o->kv_bytes) {
    return InvalidArgument("prefix_cache_bytes is {}, more than the budget of all caches, {}", o->prefix_cache_bytes,
                           o->kv_bytes);
  }
  // What this model and plan cannot have: options() tells.
  o->draft = o->draft && CanRewind(geometry, o->kv_plan);
  if (!HasPrefixes(o->kv_plan)) o->prefix_cache_bytes = 0;
  const int64_t model = decoder.spec().max_position_embeddings;
  if (model > 0 && o->context_length > model) {
    return InvalidArgument("context_length is {}, more than the model's {}", o->context_length, model);
  }
  const bool given = o->context_length > 0;
  if (!given) o->context_length = model > 0 ? model : kDefaultContext;
  const int64_t fits = PositionsThatFit(geometry, o->kv_plan, o->kv_bytes, o->context_length);
  if (fits == 0 || (given && fits < o->context_length)) {
    return ResourceExhausted(
        "a context of {} tokens takes {} bytes of keys and values, more than the budget of {}; give more memory, "
        "fewer bits or a shorter context",
        std::max<int64_t>(1, given ? o->context_length : 1),
        KvAllocatedBytes(geometry, o->kv_plan, given ? o->context_length : 1), o->kv_bytes);
  }
  o->context_length = fits;
  return OkStatus();
}

struct MountedAdapter {
  std::string name;
  std::unique_ptr<LoraAdapter> adapter;
};

StatusOr<std::vector<MountedAdapter>> Mount(const Decoder& decoder, const EngineOptions& o) {
  std::vector<MountedAdapter> out;
  for (const auto& [name, directory] : o.adapters) {
    if (name.empty()) return InvalidArgument("adapter {}: the name is empty; NAME=DIR is needed", directory);
    for (const MountedAdapter& other : out) {
      if (other.name == name) return InvalidArgument("adapter '{}' is given twice", name);
    }
    auto adapter = LoraAdapter::Load(directory, decoder.weights());
    if (!adapter.ok()) return Annotate(adapter.status(), fmt::format("adapter '{}'", name));
    out.push_back({name, *std::move(adapter)});
  }
  return out;
}

class EngineImpl : public Engine {
 public:
  EngineImpl(Decoder* decoder, const Tokenizer* tokenizer, std::vector<int32_t> end_ids, EngineOptions options,
             std::vector<MountedAdapter> adapters)
      : decoder_(decoder),
        tokenizer_(tokenizer),
        end_ids_(std::move(end_ids)),
        options_(std::move(options)),
        adapters_(std::move(adapters)),
        loop_(decoder, options_) {
    for (const MountedAdapter& a : adapters_) adapter_bytes_ += a.adapter->bytes();
    std::sort(end_ids_.begin(), end_ids_.end());
    beat_ = EngineClock::now();
    stats_ = loop_.stats();
    thread_ = std::thread([this] { Run(); });
  }

  ~EngineImpl() override {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      draining_ = stop_ = true;
      CancelAll();
    }
    wake_.notify_all();
    thread_.join();
  }

  StatusOr<RequestId> Submit(EngineRequest request, std::shared_ptr<EngineSink> sink) override {
    auto made = NewSequence(std::move(request));
    if (!made.ok()) {
      const std::lock_guard<std::mutex> lock(mutex_);
      ++rejected_;
      return made.status();
    }
    (*made)->sink = std::move(sink);
    const std::lock_guard<std::mutex> lock(mutex_);
    RETURN_IF_ERROR(Room(1));
    return Enqueue(*std::move(made));
  }

  void Cancel(RequestId id) override {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      const auto it = alive_.find(id);
      if (it == alive_.end()) return;
      it->second->cancelled = true;
      cancels_ = true;
    }
    wake_.notify_all();
  }

  StatusOr<std::vector<std::vector<float>>> Embed(std::vector<std::vector<int32_t>> prompts, Pooling pooling) override {
    if (prompts.empty()) return std::vector<std::vector<float>>();
    auto call = std::make_shared<EmbeddingCall>();
    call->pooling = pooling;
    call->left = prompts.size();
    call->vectors.resize(prompts.size());
    std::vector<std::shared_ptr<Sequence>> sequences;
    for (size_t i = 0; i < prompts.size(); ++i) {
      EngineRequest request;
      request.prompt = std::move(prompts[i]);
      request.max_tokens = 1;
      auto s = NewSequence(std::move(request));
      if (!s.ok()) return prompts.size() > 1 ? Annotate(s.status(), fmt::format("input {}", i)) : s.status();
      (*s)->embedding = call;
      (*s)->embedding_index = i;
      sequences.push_back(*std::move(s));
    }
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      RETURN_IF_ERROR(Room(sequences.size()));
      for (auto& s : sequences) Enqueue(std::move(s));
    }
    std::unique_lock<std::mutex> lock(call->mutex);
    call->done.wait(lock, [&] { return call->left == 0; });
    RETURN_IF_ERROR(call->status);
    return std::move(call->vectors);
  }

  EngineStats stats() const override {
    const std::lock_guard<std::mutex> lock(mutex_);
    EngineStats stats = stats_;
    stats.waiting = static_cast<int64_t>(waiting_.size());
    stats.rejected = rejected_;
    stats.adapter_bytes = adapter_bytes_;
    stats.heartbeat_seconds = std::chrono::duration<double>(EngineClock::now() - beat_).count();
    return stats;
  }
  const EngineOptions& options() const override { return options_; }
  std::vector<std::string> adapters() const override {
    std::vector<std::string> names;
    for (const MountedAdapter& a : adapters_) names.push_back(a.name);
    return names;
  }

  void Drain(std::chrono::milliseconds deadline) override {
    std::unique_lock<std::mutex> lock(mutex_);
    draining_ = true;
    const auto empty = [&] { return alive_.empty() && !telling_; };
    if (idle_.wait_for(lock, deadline, empty)) return;
    CancelAll();
    wake_.notify_all();
    idle_.wait(lock, empty);
  }

 private:
  StatusOr<std::shared_ptr<Sequence>> NewSequence(EngineRequest request) {
    const std::string name = request.adapter;
    const auto mounted =
        std::find_if(adapters_.begin(), adapters_.end(), [&](const MountedAdapter& a) { return a.name == name; });
    if (!name.empty() && mounted == adapters_.end()) {
      return InvalidArgument("adapter '{}' is not mounted; mounted: {}", name.substr(0, 100),
                             adapters_.empty() ? "none" : fmt::format("{}", fmt::join(adapters(), ", ")));
    }
    ASSIGN_OR_RETURN(auto answer, Answer::Create(std::move(request), *tokenizer_, end_ids_, decoder_->spec().vocab_size,
                                                 options_.context_length, options_.draft));
    auto s = std::make_shared<Sequence>();
    s->answer = std::move(answer);
    if (!name.empty()) {
      s->adapter = mounted->adapter.get();
      s->root = static_cast<uint64_t>(mounted - adapters_.begin()) + 1;
    }
    s->submitted = EngineClock::now();
    return s;
  }

  // The others hold mutex_.
  Status Room(size_t n) {
    if (draining_) {
      ++rejected_;
      return Unavailable("the server is shutting down and takes no new requests");
    }
    if (alive_.size() + n > static_cast<size_t>(options_.max_concurrent + options_.max_queued)) {
      ++rejected_;
      return absl::AbortedError(
          fmt::format("{} requests are running and waiting, as many as there may be; try again later", alive_.size()));
    }
    return OkStatus();
  }
  RequestId Enqueue(std::shared_ptr<Sequence> s) {
    s->id = ++last_id_;
    alive_[s->id] = s;
    waiting_.push_back(s);
    wake_.notify_all();
    return s->id;
  }
  void CancelAll() {
    for (auto& [id, s] : alive_) s->cancelled = true;
    cancels_ = true;
  }

  void Run() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      beat_ = EngineClock::now();
      wake_.wait_for(lock, std::chrono::milliseconds(500),
                     [&] { return stop_ || cancels_ || !waiting_.empty() || !loop_.idle(); });
      beat_ = EngineClock::now();
      if (stop_ && alive_.empty()) return;
      cancels_ = false;
      TakeWaiting(&lock);
      lock.unlock();
      loop_.Round();
      lock.lock();
      std::erase_if(alive_, [](const auto& item) { return item.second->ended; });
      stats_ = loop_.stats();
      telling_ = true;
      lock.unlock();
      loop_.TellEnded();
      lock.lock();
      telling_ = false;
      if (alive_.empty()) idle_.notify_all();
    }
  }

  // Cancelled ones leave the queue wherever they are; the others are admitted in order of arrival.
  void TakeWaiting(std::unique_lock<std::mutex>* lock) {
    std::vector<std::shared_ptr<Sequence>> cancelled;
    std::erase_if(waiting_, [&](const std::shared_ptr<Sequence>& s) {
      if (s->cancelled) cancelled.push_back(s);
      return s->cancelled.load();
    });
    for (const auto& s : cancelled) {
      lock->unlock();
      loop_.Refuse(s.get(), Cancelled("the request was cancelled"));
      lock->lock();
    }
    // Only this thread takes from the queue: its first stays where it is.
    while (!waiting_.empty()) {
      const std::shared_ptr<Sequence> s = waiting_.front();
      lock->unlock();
      const bool admitted = loop_.Admit(s);
      lock->lock();
      if (!admitted) break;
      waiting_.pop_front();
    }
  }

  Decoder* decoder_;
  const Tokenizer* tokenizer_;
  std::vector<int32_t> end_ids_;
  const EngineOptions options_;
  const std::vector<MountedAdapter> adapters_;
  int64_t adapter_bytes_ = 0;
  EngineLoop loop_;  // the thread's, but for what the constructor reads

  mutable std::mutex mutex_;
  std::condition_variable wake_, idle_;
  std::deque<std::shared_ptr<Sequence>> waiting_;
  std::map<RequestId, std::shared_ptr<Sequence>> alive_;  // waiting and running
  RequestId last_id_ = 0;
  bool draining_ = false, stop_ = false, cancels_ = false, telling_ = false;
  EngineStats stats_;
  int64_t rejected_ = 0;
  EngineClock::time_point beat_;
  std::thread thread_;
};

}  // namespace

StatusOr<std::unique_ptr<Engine>> Engine::Create(Decoder* decoder, const Tokenizer* tokenizer,
                                                 std::vector<int32_t> end_ids, EngineOptions options) {
  // Before the memory that is left is measured.
  ASSIGN_OR_RETURN(std::vector<MountedAdapter> adapters, Mount(*decoder, options));
  RETURN_IF_ERROR(Complete(*decoder, &options));
  decoder->set_products(WithFixedOrder(decoder->products()));
  return std::unique_ptr<Engine>(
      std::make_unique<EngineImpl>(decoder, tokenizer, std::move(end_ids), std::move(options),
                                                              std::move(adapters)));
}

}  // namespace optiq
