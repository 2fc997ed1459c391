#include "quant/logit_compare.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/aligned.h"
#include "base/checked.h"
#include "kernels/vector.h"

namespace optiq {
namespace {

// Vocabulary rows whose reference logits and probabilities are held at a time.
constexpr int64_t kSlice = 4096;
// Output rows of one LinearBlocks task; partial sums are kept per task and added in order.
constexpr int64_t kTask = 128;
// Rows of candidates in one product.
constexpr int64_t kRowsAtOnce = 16384;

struct Top {
  float value = -INFINITY;
  int64_t index = -1;
  void Offer(float v, int64_t i) {
    if (v > value) {
      value = v;
      index = i;
    }
  }
};

// Sums of one (candidate, row) over one task's vocabulary rows.
struct Partial {
  double curvature = 0, mean = 0;
  double lse = -INFINITY;  // of the candidate's logits
  Top top;
};

double LogAddExp(double a, double b) {
  const double max = std::max(a, b);
  return std::isfinite(max) ? max + std::log(std::exp(a - max) + std::exp(b - max)) : max;
}

class Comparer {
 public:
  Comparer(const LogitReference& ref, const std::vector<LogitCandidate>& candidates, const CompareOptions& options,
           ThreadPool* pool, double* flops)
      : ref_(ref), candidates_(candidates), options_(options), pool_(pool), flops_(flops),
        vocab_(ref.head->rows), hidden_(ref.head->cols), lse_(ref.rows), sums_(candidates.size() * ref.rows),
        ref_top_(ref.rows), ref_target_(ref.rows, 0), target_(candidates.size() * ref.rows, 0) {}

  std::vector<LogitComparison> Run(std::vector<double>* reference_logprob) {
    LogSumExp();
    AlignedBuffer<float> z(ref_.rows * kSlice), p(ref_.rows * kSlice);
    for (int64_t begin = 0; begin < vocab_; begin += kSlice) {
      const int64_t end = std::min(vocab_, begin + kSlice);
      ReferenceSlice(begin, end, z.data(), p.data());
      SharedHead(begin, end, z.data(), p.data());
      for (size_t c = 0; c < candidates_.size(); ++c) {
        if (candidates_[c].head != nullptr) OwnHead(c, begin, end, z.data(), p.data());
      }
      if (options_.progress) options_.progress(static_cast<double>(end) / vocab_);
    }
    return Finish(reference_logprob);
  }

 private:
  // log sum exp of the reference, from one lse per task, combined in order.
  void LogSumExp() {
    const int64_t tasks = DivUp(vocab_, kTask), rows = ref_.rows;
    std::vector<float> part(tasks * rows);
    LinearBlocks(ref_.hidden, rows, hidden_, *ref_.head, 0, vocab_, pool_, Products::kF32,
                 [&](int64_t first, int64_t n, const float* block, int) {
                   thread_local AlignedBuffer<float> buffer;
                   float* x = buffer.Grow(n);
                   for (int64_t r = 0; r < rows; ++r) {
                     std::memcpy(x, block + r * n, n * sizeof(float));
                     if (ref_.softcap > 0) SoftcapRow(x, n, ref_.softcap);
                     const float max = MaxRow(x, n);
                     part[first / kTask * rows + r] = max + std::log(ExpRow(x, n));
                   }
                 });
    *flops_ += 2.0 * rows * vocab_ * hidden_;
    pool_->ParallelFor(rows, [&](int64_t r, int) {
      double max = -INFINITY, sum = 0;
      for (int64_t t = 0; t < tasks; ++t) max = std::max<double>(max, part[t * rows + r]);
      for (int64_t t = 0; t < tasks; ++t) sum += std::exp(part[t * rows + r] - max);
      lse_[r] = max + std::log(sum);
    });
  }

  // z: raw logits before the softcap [rows, slice]; p: probabilities.
  void ReferenceSlice(int64_t begin, int64_t end, float* z, float* p) {
    const int64_t slice = end - begin, rows = ref_.rows;
    LinearBlocks(ref_.hidden, rows, hidden_, *ref_.head, begin, end, pool_, Products::kF32,
                 [&](int64_t first, int64_t n, const float* block, int) {
                   for (int64_t r = 0; r < rows; ++r) {
                     float* zr = z + r * slice + (first - begin);
                     float* pr = p + r * slice + (first - begin);
                     std::memcpy(zr, block + r * n, n * sizeof(float));
                     std::memcpy(pr, zr, n * sizeof(float));
                     if (ref_.softcap > 0) SoftcapRow(pr, n, ref_.softcap);
                     ExpShiftedRow(pr, static_cast<float>(lse_[r]), n, pr);
                   }
                 });
    *flops_ += 2.0 * rows * slice * hidden_;
    pool_->ParallelFor(rows, [&](int64_t r, int) {
      if (options_.top1) {
        for (int64_t j = 0; j < slice; ++j) ref_top_[r].Offer(z[r * slice + j], begin + j);
      }
      const int64_t target = ref_.targets != nullptr ? ref_.targets[r] : -1;
      if (target >= begin && target < end) ref_target_[r] = Capped(z[r * slice + target - begin]) - lse_[r];
    });
  }

  float Capped(float z) const { return ref_.softcap > 0 ? ref_.softcap * std::tanh(z / ref_.softcap) : z; }

  // dz in place of the block's row: candidate logits after the softcap minus the reference's. `row` holds W d (shared head) or the
  // full candidate logits (own head).
  void Difference(const float* z, int64_t n, bool full, float* row) const {
    if (ref_.softcap <= 0) {
      if (full) SubRow(row, z, n, row);
      return;
    }
    thread_local AlignedBuffer<float> buffer;
    float* reference = buffer.Grow(n);
    std::memcpy(reference, z, n * sizeof(float));
    if (!full) AddRow(row, z, n, row);
    SoftcapRow(row, n, ref_.softcap);
    SoftcapRow(reference, n, ref_.softcap);
    SubRow(row, reference, n, row);
  }

  void Accumulate(size_t candidate, int64_t r, int64_t first, int64_t n, const float* z, const float* p, float* row,
                  bool full, Partial* out) {
    Difference(z, n, full, row);
    KlPartialRow(p, row, n, &out->curvature, &out->mean);
    thread_local AlignedBuffer<float> buffer;
    float* logits = buffer.Grow(n);
    if (ref_.softcap > 0) {
      std::memcpy(logits, z, n * sizeof(float));
      SoftcapRow(logits, n, ref_.softcap);
      AddRow(logits, row, n, logits);
    } else {
      AddRow(z, row, n, logits);
    }
    const float max = MaxRow(logits, n);
    out->lse = max + std::log(ExpRow(logits, n));
    if (options_.top1) {
      for (int64_t j = 0; j < n; ++j) out->top.Offer(Capped(z[j]) + row[j], first + j);
    }
    const int64_t target = ref_.targets != nullptr ? ref_.targets[r] : -1;
    if (target >= first && target < first + n) target_[candidate * ref_.rows + r] = row[target - first];
  }

  void Reduce(size_t first_candidate, int64_t rows, int64_t tasks, const std::vector<Partial>& part) {
    pool_->ParallelFor(rows, [&](int64_t r, int) {
      Partial& sum = sums_[first_candidate * ref_.rows + r];
      for (int64_t t = 0; t < tasks; ++t) {
        const Partial& x = part[t * rows + r];
        sum.curvature += x.curvature;
        sum.mean += x.mean;
        sum.lse = LogAddExp(sum.lse, x.lse);
        sum.top.Offer(x.top.value, x.top.index);
      }
    });
  }

  // Consecutive candidates that share the head, many rows in one product.
  void SharedHead(int64_t begin, int64_t end, const float* z, const float* p) {
    const int64_t slice = end - begin, tasks = DivUp(slice, kTask), rows = ref_.rows;
    const int64_t at_once = std::max<int64_t>(1, kRowsAtOnce / rows);
    AlignedBuffer<float> gathered;
    for (size_t c = 0; c < candidates_.size();) {
      if (candidates_[c].head != nullptr || candidates_[c].hidden == nullptr) {
        ++c;
        continue;
      }
      int64_t count = 0;
      float* x = gathered.Grow(at_once * rows * hidden_);
      while (count < at_once && c + count < candidates_.size() && candidates_[c + count].head == nullptr &&
             candidates_[c + count].hidden != nullptr) {
        std::memcpy(x + count * rows * hidden_, candidates_[c + count].hidden, rows * hidden_ * sizeof(float));
        ++count;
      }
      std::vector<Partial> part(tasks * count * rows);
      LinearBlocks(x, count * rows, hidden_, *ref_.head, begin, end, pool_, options_.products,
                   [&](int64_t first, int64_t n, const float* block, int) {
                     const int64_t task = (first - begin) / kTask;
                     for (int64_t i = 0; i < count * rows; ++i) {
                       const int64_t r = i % rows, offset = r * slice + (first - begin);
                       Accumulate(c + i / rows, r, first, n, z + offset, p + offset, const_cast<float*>(block) + i * n,
                                  false, &part[task * count * rows + i]);
                     }
                   });
      *flops_ += 2.0 * count * rows * slice * hidden_;
      Reduce(c, count * rows, tasks, part);
      c += count;
    }
  }

  void OwnHead(size_t c, int64_t begin, int64_t end, const float* z, const float* p) {
    const int64_t slice = end - begin, tasks = DivUp(slice, kTask), rows = ref_.rows;
    std::vector<Partial> part(tasks * rows);
    LinearBlocks(candidates_[c].hidden, rows, hidden_, *candidates_[c].head, begin, end, pool_, Products::kF32,
                 [&](int64_t first, int64_t n, const float* block, int) {
                   const int64_t task = (first - begin) / kTask;
                   for (int64_t r = 0; r < rows; ++r) {
                     const int64_t offset = r * slice + (first - begin);
                     Accumulate(c, r, first, n, z + offset, p + offset, const_cast<float*>(block) + r * n, true,
                                &part[task * rows + r]);
                   }
                 });
    *flops_ += 2.0 * rows * slice * hidden_;
    Reduce(c, rows, tasks, part);
  }

  std::vector<LogitComparison> Finish(std::vector<double>* reference_logprob) {
    std::vector<LogitComparison> out(candidates_.size());
    for (size_t c = 0; c < candidates_.size(); ++c) {
      LogitComparison& o = out[c];
      for (int64_t r = 0; r < ref_.rows; ++r) {
        const Partial& s = sums_[c * ref_.rows + r];
        // log of the candidate's partition function relative to the reference's.
        // Far from the reference the sum of the parts cancels, and the plain difference is exact enough.
        const double moved = s.curvature + s.mean;
        const double shift = std::fabs(moved) < 0.5 ? std::log1p(moved) : s.lse - lse_[r];
        o.kl.push_back(shift - s.mean);
        if (ref_.targets != nullptr) {
          o.target_logprob.push_back(ref_target_[r] + target_[c * ref_.rows + r] - shift);
        }
        if (options_.top1) o.same_top1.push_back(s.top.index == ref_top_[r].index);
      }
    }
    if (reference_logprob != nullptr) *reference_logprob = ref_target_;
    return out;
  }

  const LogitReference& ref_;
  const std::vector<LogitCandidate>& candidates_;
  const CompareOptions& options_;
  ThreadPool* pool_;
  double* flops_;
  const int64_t vocab_, hidden_;
  std::vector<double> lse_;
  std::vector<Partial> sums_;
  std::vector<Top> ref_top_;
  std::vector<double> ref_target_, target_;
};

}  // namespace

double LogitComparison::mean_kl() const {
  double sum = 0;
  for (double k : kl) sum += k;
  return kl.empty() ? 0 : sum / kl.size();
}

double LogitComparison::stderr_kl() const {
  if (kl.size() < 2) return 0;
  const double mean = mean_kl();
  double sum = 0;
  for (double k : kl) sum += (k - mean) * (k - mean);
  return std::sqrt(sum / (kl.size() - 1) / kl.size());
}

std::vector<LogitComparison> CompareLogits(const LogitReference& reference,
                                           const std::vector<LogitCandidate>& candidates,
                                           const CompareOptions& options, ThreadPool* pool,
                                           std::vector<double>* reference_logprob, double* flops) {
  double unused = 0;
  return Comparer(reference, candidates, options, pool, flops != nullptr ? flops : &unused).Run(reference_logprob);
}

}  // namespace optiq
