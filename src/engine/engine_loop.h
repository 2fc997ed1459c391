// What the engine's thread does: admits sequences, runs them step by step, ends them. No locks: one thread owns all of
// it.
#ifndef OPTIQ_ENGINE_ENGINE_LOOP_H_
#define OPTIQ_ENGINE_ENGINE_LOOP_H_

#include <functional>
#include <memory>
#include <vector>

#include "engine/engine.h"
#include "engine/prefill_pacer.h"
#include "engine/prefix_cache.h"
#include "engine/sequence.h"
#include "model/decoder.h"

namespace optiq {

// Whether a cache can forget its last positions and be what it was before them: what drafts need.
bool CanRewind(const KvGeometry& geometry, const KvPlan& plan);

class EngineLoop {
 public:
  // options: complete and checked.
  EngineLoop(Decoder* decoder, const EngineOptions& options);

  // Takes a sequence in when there is a place and its whole prompt and answer fit into what is not reserved; false: it
  // must wait.
  bool Admit(const std::shared_ptr<Sequence>& sequence);
  // Ends cancelled sequences, then runs one step of all others.
  void Round();
  // Ends a sequence that was never admitted.
  void Refuse(Sequence* sequence, const Status& status);

  // Calls OnFinish of what has ended since. Apart, so that whoever hears it finds the statistics up to date and the
  // place free.
  void TellEnded();

  bool idle() const { return running_.empty(); }
  // Counters and byte counts; running and prefilling too.
  EngineStats stats() const;

 private:
  // What a sequence takes part in a step with.
  struct Part {
    Sequence* sequence = nullptr;
    bool prompt = false;
    bool logits = false;  // a token is sampled
    std::vector<int32_t> ids;
    std::vector<float> hidden;
    size_t logit_row = 0;
  };
  std::vector<Part> Plan();
  // The prompts' parts, at most `budget` tokens; with a fixed grid at least one cell.
  void PlanPrompts(const std::vector<Sequence*>& prompts, int64_t budget, std::vector<Part>* parts);
  // Whether an older sequence is just reading what this one could have from the prefix cache then.
  bool MustWait(const Sequence& s) const;
  void Begin(Sequence* s);
  // Copies a part of what the prefix cache has; true when it is all there.
  bool Restore(Sequence* s);
  void Store(Sequence* s);
  void Step();
  void AfterPrompt(Part* part);
  void SampleAll(std::vector<Part>& parts, std::vector<float>* logits);
  void Deliver(Part* part);
  Status AddPromptLogprobs(const Part& part, int64_t begin);
  void AddHidden(const Part& part);
  void FinishEmbedding(Sequence* s, const Status& status);
  // Gives the sequence's bytes back.
  void Release(Sequence* s);
  // And has the sink told by TellEnded.
  void Finish(Sequence* s, const Status& status, FinishReason reason, const std::string& stop);
  void Sweep();  // finished ones out of running_

  Decoder* decoder_;
  const EngineOptions& options_;
  const KvGeometry geometry_;
  ThreadPool* pool_;
  PrefillPacer pacer_;
  PrefixCache prefixes_;
  size_t turn_ = 0;  // which prompt is first on a grid
  bool can_draft_ = false;
  std::vector<std::shared_ptr<Sequence>> running_;  // in order of admission
  std::vector<float> logits_;
  std::vector<bool> finite_;  // of the rows of logits_
  int64_t reserved_ = 0;
  EngineStats stats_;
  std::vector<std::function<void()>> ended_;
};

}  // namespace optiq

#endif  // OPTIQ_ENGINE_ENGINE_LOOP_H_
