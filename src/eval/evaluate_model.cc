#include "eval/evaluate_model.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "quant/divergence.h"

namespace optiq {
namespace {

constexpr int64_t kChunk = 256;            // tokens per pass whose logits nobody wants
constexpr int64_t kLogitFloats = 8 << 20;  // bounds the logits of one pass
constexpr size_t kEnoughSequences = 8;

// Values of one quantity, by sequence.
class Samples {
 public:
  void NewSequence() { sequences_.emplace_back(); }
  void Add(double value) { sequences_.back().push_back(value); }

  Estimate Mean() const {
    std::vector<double> all, means;
    for (const std::vector<double>& s : sequences_) {
      double sum = 0;
      for (double v : s) sum += v;
      if (!s.empty()) means.push_back(sum / static_cast<double>(s.size()));
      all.insert(all.end(), s.begin(), s.end());
    }
    const double mean = MeanOf(all);
    return {mean, means.size() >= kEnoughSequences ? StandardError(means) : StandardError(all)};
  }
  double Quantile(double q) const {
    std::vector<double> all;
    for (const std::vector<double>& s : sequences_) all.insert(all.end(), s.begin(), s.end());
    if (all.empty()) return 0;
    const size_t at = std::min(all.size() - 1, static_cast<size_t>(q * static_cast<double>(all.size())));
    std::nth_element(all.begin(), all.begin() + at, all.end());
    return all[at];
  }

 private:
  static double MeanOf(const std::vector<double>& x) {
    double sum = 0;
    for (double v : x) sum += v;
    return x.empty() ? 0 : sum / static_cast<double>(x.size());
  }
  static double StandardError(const std::vector<double>& x) {
    if (x.size() < 2) return 0;
    const double mean = MeanOf(x), n = static_cast<double>(x.size());
    double squares = 0;
    for (double v : x) squares += (v - mean) * (v - mean);
    return std::sqrt(squares / (n - 1) / n);
  }

  std::vector<std::vector<double>> sequences_;
};

struct RowValues {
  double nll = 0, reference_nll = 0, kl = 0;
  bool same = false;
};

class Evaluation {
 public:
  Evaluation(Decoder* model, Decoder* reference, const TokenBatch& tokens, const EvalOptions& options, ThreadPool* pool)
      : model_(*model), reference_(reference), tokens_(tokens), options_(options), pool_(pool), vocab_(model->spec().vocab_size) {}

  StatusOr<EvalResult> Run(ProgressSink* progress) {
    const int64_t length = tokens_.length;
    const int64_t first = options_.score_tokens > 0 ? length - options_.score_tokens : 0;
    const int64_t rows = std::clamp<int64_t>(kLogitFloats / vocab_, 1, kChunk);
    if (progress != nullptr) progress->Begin("evaluating", tokens_.sequences * length, "tokens");
    for (int64_t s = 0; s < tokens_.sequences; ++s) {
      for (Samples* samples : {&nll_, &reference_nll_, &kl_, &same_}) samples->NewSequence();
      ASSIGN_OR_RETURN(const std::unique_ptr<KvCache> cache, model_.MakeCache(options_.kv_plan));
      const std::unique_ptr<KvCache> exact = reference_ != nullptr ? reference_->MakeCache() : nullptr;
      const auto ids = std::span<const int32_t>(tokens_.ids).subspan(s * length, length);
      for (int64_t done = 0; done < length;) {
        if (options_.cancel != nullptr && options_.cancel->load()) return Cancelled("interrupted");
        const bool scored = done >= first;
        const int64_t n = std::min(scored ? rows : std::min(kChunk, first - done), length - done);
        RETURN_IF_ERROR(model_.Forward(ids.subspan(done, n), cache.get(), scored, &logits_));
        if (reference_ != nullptr) RETURN_IF_ERROR(reference_->Forward(ids.subspan(done, n), exact.get(), scored, &reference_logits_));
        if (scored) Score(ids, done, n);
        done += n;
        if (progress != nullptr) progress->Update(s * length + done, "");
      }
    }
    if (progress != nullptr) progress->End();
    return Result(tokens_.sequences * (length - first));
  }

 private:
  // Positions [begin, begin + n), whose logits are there.
  void Score(std::span<const int32_t> ids, int64_t begin, int64_t n) {
    std::vector<RowValues> values(n);
    pool_->ParallelFor(n, [&](int64_t r, int) {
      const float* own = logits_.data() + r * vocab_;
      const float* other = reference_ != nullptr ? reference_logits_.data() + r * vocab_ : nullptr;
      const int64_t next = begin + r + 1;
      RowValues& v = values[r];
      if (next < static_cast<int64_t>(ids.size())) {
        v.nll = LogSumExp(own, vocab_) - own[ids[next]];
        if (other != nullptr) v.reference_nll = LogSumExp(other, vocab_) - other[ids[next]];
      }
      if (other == nullptr) return;
      v.kl = Divergence(other, own, vocab_);
      v.same = std::max_element(own, own + vocab_) - own == std::max_element(other, other + vocab_) - other;
    });
    for (int64_t r = 0; r < n; ++r) {
      if (begin + r + 1 < static_cast<int64_t>(ids.size())) {
        nll_.Add(values[r].nll);
        reference_nll_.Add(values[r].reference_nll);
      }
      kl_.Add(values[r].kl);
      same_.Add(values[r].same ? 1 : 0);
    }
  }

  EvalResult Result(int64_t scored) const {
    EvalResult out = {.sequences = tokens_.sequences, .length = tokens_.length, .tokens = scored, .nll = nll_.Mean()};
    if (reference_ != nullptr) {
      out.divergence = {.kl = kl_.Mean(),
                        .kl_median = kl_.Quantile(0.5),
                        .kl_p99 = kl_.Quantile(0.99),
                        .kl_max = kl_.Quantile(1.0),
                        .same_top1 = same_.Mean(),
                        .reference_nll = reference_nll_.Mean()};
    }
    return out;
  }

  Decoder& model_;
  Decoder* reference_;
  const TokenBatch& tokens_;
  const EvalOptions& options_;
  ThreadPool* pool_;
  int64_t vocab_;
  std::vector<float> logits_, reference_logits_;
  Samples nll_, reference_nll_, kl_, same_;
};

}  // namespace

StatusOr<EvalResult> EvaluateModel(Decoder* model, Decoder* reference, const TokenBatch& tokens, const EvalOptions& options,
                                   ThreadPool* pool, ProgressSink* progress) {
  if (reference != nullptr && reference->spec().vocab_size != model->spec().vocab_size) {
    return InvalidArgument("the reference has a vocabulary of {}, the model of {}: their predictions cannot be compared",
                           reference->spec().vocab_size, model->spec().vocab_size);
  }
  if (options.score_tokens < 0 || options.score_tokens > tokens.length) {
    return InvalidArgument("{} tokens to score, but sequences have {}", options.score_tokens, tokens.length);
  }
  try {
    return Evaluation(model, reference, tokens, options, pool).Run(progress);
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("evaluating: out of memory; use shorter sequences");
  }
}

}  // namespace optiq
