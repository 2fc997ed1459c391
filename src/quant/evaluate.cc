#include "quant/evaluate.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <new>

#include "base/aligned.h"
#include "kernels/vector.h"
#include "model/blockwise.h"
#include "model/decoder.h"
#include "model/plain_flow.h"
#include "ops/norm.h"
#include "quant/encode_module.h"
#include "quant/logit_compare.h"

namespace optiq {
namespace {

// The hidden states of the reference (index 0) and the variants.
class Evaluator {
 public:
  Evaluator(const Checkpoint& reference, const DecoderSpec& spec, const TokenBatch& tokens,
            const std::vector<EvalVariant>& variants, ThreadPool* pool, ProgressSink* progress)
      : reference_(reference), spec_(spec), tokens_(tokens), variants_(variants), pool_(pool), progress_(progress),
        total_(tokens.sequences * tokens.length), ropes_(MakeRopeTables(spec, tokens.length)) {}

  StatusOr<Evaluation> Run() {
    const int64_t models = static_cast<int64_t>(variants_.size()) + 1;
    // One unit per model and block; the head weighs as much as its weights do.
    double block_weights = 1;
    for (const DecoderSpec::Module& module : spec_.QuantizableModules()) {
      if (module.block == 0) block_weights += module.active_weights();
    }
    head_units_ = std::max<int64_t>(1, std::llround(static_cast<double>(spec_.vocab_size) * spec_.hidden_size / block_weights));
    if (progress_ != nullptr) {
      progress_->Begin("measuring held-out KL", models * (static_cast<int64_t>(spec_.layers.size()) + head_units_), "block");
    }
    models_.resize(models);
    for (int64_t m = 0; m < models; ++m) RETURN_IF_ERROR(Embed(m));
    for (size_t b = 0; b < spec_.layers.size(); ++b) {
      for (int64_t m = 0; m < models; ++m) RETURN_IF_ERROR(RunBlockOf(m, static_cast<int>(b)));
    }
    StatusOr<Evaluation> result = Compare();
    if (progress_ != nullptr) progress_->End();
    return result;
  }

 private:
  static const InputMoments& MomentsOf(const EvalVariant& v) {
    static const InputMoments kNone;
    return v.moments != nullptr ? *v.moments : kNone;
  }

  // Model m reads its weights from this checkpoint, before a plan changes them.
  const Checkpoint& SourceOf(int64_t m) const {
    return m > 0 && variants_[m - 1].artifact != nullptr ? *variants_[m - 1].artifact : reference_;
  }

  // A reference matrix as model m has it; encoded matrices live in `owned`.
  StatusOr<WeightMatrix> MatrixOf(int64_t m, const WeightMatrix& w, std::deque<AffineMatrix>* owned) {
    if (m == 0) return w;
    const EvalVariant& v = variants_[m - 1];
    if (v.artifact != nullptr) return LoadWeightMatrix(*v.artifact, w.path, w.rows, w.cols);
    return Encoded(v, w, owned);
  }

  StatusOr<WeightMatrix> Encoded(const EvalVariant& v, const WeightMatrix& w, std::deque<AffineMatrix>* owned) {
    auto entry = v.plan->entries.find(w.path);
    if (entry == v.plan->entries.end() || entry->second.dense) return w;
    ASSIGN_OR_RETURN(AffineMatrix encoded,
                     EncodeMatrix(w, entry->second.format, entry->second.encoder, MomentsOf(v).Of(w.path), pool_));
    owned->push_back(std::move(encoded));
    return ViewOf(owned->back(), w.path);
  }

  // One model's activations, and what its per-layer inputs are made from.
  struct Model {
    Activations state;
    PerLayerSource per_layer;
    std::deque<AffineMatrix> owned;
  };

  Status Embed(int64_t m) {
    ASSIGN_OR_RETURN(WeightMatrix embedding, LoadEmbedding(reference_, spec_));
    RETURN_IF_ERROR(CheckTokenIds(spec_, tokens_.ids, "held-out text"));
    Model& model = models_[m];
    // Only the rows of these tokens: a table of an embedding per layer may have billions of weights.
    const bool planned = m > 0 && variants_[m - 1].artifact == nullptr;
    WeightMatrix table = embedding;
    std::span<const int32_t> rows(tokens_.ids);
    GatheredRows gathered;
    std::deque<AffineMatrix> owned;
    if (planned) {
      gathered = GatherRows(embedding, tokens_.ids);
      rows = gathered.rows;
      ASSIGN_OR_RETURN(table, Encoded(variants_[m - 1], gathered.matrix, &owned));
    } else {
      ASSIGN_OR_RETURN(table, MatrixOf(m, embedding, &owned));
    }
    EmbedTokens(spec_, table, rows, model.state.hidden.Grow(total_ * spec_.hidden_size), pool_);
    if (spec_.per_layer_input_size == 0) return OkStatus();
    ASSIGN_OR_RETURN(PerLayerWeights weights, LoadPerLayerWeights(SourceOf(m), spec_));
    GatheredRows per_layer;
    rows = tokens_.ids;
    if (planned) {
      per_layer = GatherRows(weights.embedding, tokens_.ids);
      rows = per_layer.rows;
      ASSIGN_OR_RETURN(weights.embedding, Encoded(variants_[m - 1], per_layer.matrix, &model.owned));
      if (!weights.embedding.affine) {  // dense rows live on in the file, not in the copy
        ASSIGN_OR_RETURN(weights, LoadPerLayerWeights(reference_, spec_));
        rows = tokens_.ids;
      }
      ASSIGN_OR_RETURN(weights.projection.matrix, Encoded(variants_[m - 1], weights.projection.matrix, &model.owned));
    }
    model.per_layer = MakePerLayerSource(spec_, std::move(weights), rows, model.state.hidden.data());
    return OkStatus();
  }

  Status RunBlockOf(int64_t m, int b) {
    ASSIGN_OR_RETURN(BlockWeights weights, LoadBlockWeights(SourceOf(m), spec_, b));
    std::deque<AffineMatrix> owned;
    if (m > 0 && variants_[m - 1].artifact == nullptr) {
      RETURN_IF_ERROR(EncodeBlock(*variants_[m - 1].plan, MomentsOf(variants_[m - 1]), pool_, &weights, &owned));
    }
    // A few sequences at a time bound the temporaries.
    const int64_t group = std::max<int64_t>(1, 2048 / tokens_.length);
    Model& model = models_[m];
    for (int64_t s0 = 0; s0 < tokens_.sequences; s0 += group) {
      const int64_t sequences = std::min(group, tokens_.sequences - s0), row0 = s0 * tokens_.length;
      AlignedBuffer<float> inputs;
      PlainFlow flow(spec_, ropes_, std::vector<Segment>(sequences, Segment{.rows = tokens_.length}), pool_);
      const ValueId x = EnterBlock(spec_, b, model.state, model.per_layer, row0, &flow, &inputs, pool_);
      const ValueId y = RunBlock(&flow, spec_.layers[b], weights, b, x);
      LeaveBlock(spec_, b, flow, y, row0, total_, &model.state);
    }
    if (m == static_cast<int64_t>(variants_.size())) {
      ASSIGN_OR_RETURN(BlockWeights done, LoadBlockWeights(reference_, spec_, b));
      for (const WeightMatrix* w : done.matrices()) reference_.Release(w->weight);
    }
    if (progress_ != nullptr) progress_->Update(++units_, m == 0 ? "reference" : variants_[m - 1].name);
    return OkStatus();
  }

  StatusOr<Evaluation> Compare() {
    const int64_t d = spec_.hidden_size;
    ASSIGN_OR_RETURN(WeightMatrix head, LoadHead(reference_, spec_));
    std::deque<AffineMatrix> owned;
    std::vector<WeightMatrix> heads(models_.size());
    std::vector<LogitCandidate> candidates;
    for (size_t m = 0; m < models_.size(); ++m) {
      ASSIGN_OR_RETURN(std::vector<float> norm, LoadNorm(SourceOf(m), spec_, spec_.norm_path, d));
      float* hidden = models_[m].state.hidden.data();
      RmsNormRows(hidden, total_, d, norm.data(), spec_.rms_norm_eps, hidden, pool_);
      ASSIGN_OR_RETURN(heads[m], MatrixOf(m, head, &owned));
      if (m > 0) candidates.push_back({.hidden = models_[m].state.hidden.data(), .head = &heads[m]});
    }
    std::vector<int32_t> targets(total_, -1);
    for (int64_t r = 0; r < total_; ++r) {
      if ((r + 1) % tokens_.length != 0) targets[r] = tokens_.ids[r + 1];
    }
    const LogitReference reference{.hidden = models_[0].state.hidden.data(), .rows = total_, .head = &heads[0],
                                   .softcap = spec_.final_logit_softcapping, .targets = targets.data()};
    const int64_t before = units_;
    CompareOptions options{.products = Products::kF32, .top1 = true, .progress = [&](double fraction) {
                             const int64_t all = static_cast<int64_t>(models_.size()) * head_units_;
                             if (progress_ != nullptr) progress_->Update(before + std::llround(fraction * all), "logits");
                           }};
    std::vector<double> reference_logprob;
    const std::vector<LogitComparison> results = CompareLogits(reference, candidates, options, pool_, &reference_logprob, nullptr);
    Evaluation out;
    out.tokens = total_;
    out.reference_perplexity = Perplexity(reference_logprob, targets);
    for (size_t i = 0; i < variants_.size(); ++i) {
      ASSIGN_OR_RETURN(EvalRow row, RowOf(variants_[i], results[i], targets));
      out.rows.push_back(std::move(row));
    }
    return out;
  }

  static double Perplexity(const std::vector<double>& logprob, const std::vector<int32_t>& targets) {
    double sum = 0;
    int64_t n = 0;
    for (size_t r = 0; r < targets.size(); ++r) {
      if (targets[r] < 0) continue;
      sum += logprob[r];
      ++n;
    }
    return n > 0 ? std::exp(-sum / n) : 0;
  }

  StatusOr<EvalRow> RowOf(const EvalVariant& v, const LogitComparison& c, const std::vector<int32_t>& targets) {
    EvalRow row;
    row.name = v.name;
    row.bpw = v.bpw;
    row.bytes = v.bytes;
    row.kl_mean = c.mean_kl();
    row.kl_stderr = c.stderr_kl();
    if (!std::isfinite(row.kl_mean)) return DataLoss("{}: the logits are not finite; a weight is damaged", v.name);
    std::vector<double> sorted = c.kl;
    std::sort(sorted.begin(), sorted.end());
    row.kl_median = sorted[sorted.size() / 2];
    row.kl_p99 = sorted[sorted.size() * 99 / 100];
    row.perplexity = Perplexity(c.target_logprob, targets);
    int64_t same = 0;
    for (uint8_t s : c.same_top1) same += s;
    row.top1_agreement = static_cast<double>(same) / c.same_top1.size();
    return row;
  }

  const Checkpoint& reference_;
  const DecoderSpec& spec_;
  const TokenBatch& tokens_;
  const std::vector<EvalVariant>& variants_;
  ThreadPool* pool_;
  ProgressSink* progress_;
  const int64_t total_;
  RopeTables ropes_;
  std::deque<Model> models_;
  int64_t units_ = 0, head_units_ = 1;
};

}  // namespace

StatusOr<Evaluation> EvaluateVariants(const Checkpoint& reference, const DecoderSpec& spec, const TokenBatch& tokens,
                                      const std::vector<EvalVariant>& variants, ThreadPool* pool,
                                      ProgressSink* progress) {
  try {
    return Evaluator(reference, spec, tokens, variants, pool, progress).Run();
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("evaluation: out of memory; use fewer held-out tokens");
  }
}

}  // namespace optiq
