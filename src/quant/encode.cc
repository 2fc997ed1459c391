#include "quant/encode.h"

#include <atomic>
#include <cmath>

#include "base/aligned.h"
#include "base/checked.h"
#include "ops/linear.h"

namespace optiq {
namespace {

constexpr int64_t kRows = 16;

float* RowScratch(int slot, int64_t n) {
  thread_local AlignedBuffer<float> buffers[2];
  return buffers[slot].Grow(n);
}

}  // namespace

DType ScaleDType(const WeightMatrix& w) {
  if (w.affine) return w.scales.dtype;
  return IsFloat(w.weight.dtype) ? w.weight.dtype : DType::kBF16;
}

StatusOr<AffineMatrix> EncodeMatrix(const WeightMatrix& w, AffineFormat format, const std::string& encoder,
                                    ThreadPool* pool) {
  if (encoder != "rtn") return InvalidArgument("encoder '{}' is unknown; known: rtn", encoder);
  if (!IsValidAffineFormat(format) || w.cols % format.group_size != 0) {
    return InvalidArgument("{}: {} inputs cannot be encoded at {} bits in groups of {}", w.path, w.cols, format.bits,
                           format.group_size);
  }
  AffineMatrix m = MakeAffineMatrix(w.rows, w.cols, format, ScaleDType(w));
  std::atomic<bool> finite{true};
  pool->ParallelFor(DivUp(w.rows, kRows), [&](int64_t task, int) {
    float* row = RowScratch(0, w.cols);
    for (int64_t r = task * kRows; r < std::min(w.rows, (task + 1) * kRows); ++r) {
      DecodeRows(w, r, r + 1, row);
      float sum = 0;
      for (int64_t i = 0; i < w.cols; ++i) sum += row[i] * 0.0f;  // NaN if any value is not finite
      if (!(sum == 0.0f)) {
        finite = false;
        return;
      }
      EncodeRowRtn(row, r, &m);
    }
  });
  if (!finite) return DataLoss("{}: the weights hold NaN or infinity", w.path);
  return m;
}

double RelativeError(const WeightMatrix& w, const AffineMatrix& encoded, const std::vector<float>& h,
                     ThreadPool* pool) {
  const int64_t tasks = DivUp(w.rows, kRows);
  std::vector<double> error(tasks), total(tasks);
  const WeightMatrix view = ViewOf(encoded, w.path);
  pool->ParallelFor(tasks, [&](int64_t task, int) {
    float* a = RowScratch(0, w.cols);
    float* b = RowScratch(1, w.cols);
    double e = 0, t = 0;
    for (int64_t r = task * kRows; r < std::min(w.rows, (task + 1) * kRows); ++r) {
      DecodeRows(w, r, r + 1, a);
      DecodeRows(view, r, r + 1, b);
      float row_error = 0, row_total = 0;
      for (int64_t i = 0; i < w.cols; ++i) {
        const float weight = h.empty() ? 1.0f : h[i], d = a[i] - b[i];
        row_error += weight * d * d;
        row_total += weight * a[i] * a[i];
      }
      e += row_error;
      t += row_total;
    }
    error[task] = e;
    total[task] = t;
  });
  double e = 0, t = 0;
  for (int64_t i = 0; i < tasks; ++i) {
    e += error[i];
    t += total[i];
  }
  return t > 0 ? e / t : 0;
}

}  // namespace optiq
