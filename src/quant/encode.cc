#include "quant/encode.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "base/aligned.h"
#include "base/checked.h"
#include "kernels/affine_search.h"
#include "ops/linear.h"

namespace optiq {
namespace {

constexpr int64_t kRows = 16;

}  // namespace

DType ScaleDType(const WeightMatrix& w) {
  if (w.affine) return w.scales.dtype;
  return IsFloat(w.weight.dtype) ? w.weight.dtype : DType::kBF16;
}

bool IsKnownEncoder(std::string_view name) {
  return std::find(std::begin(kEncoders), std::end(kEncoders), name) != std::end(kEncoders);
}

namespace {

// Inputs that calibration saw little of still count: a hundredth of the mean is added to every weight.
std::vector<float> Damped(std::span<const float> h, int64_t cols) {
  std::vector<float> out(cols, 1.0f);
  double sum = 0;
  for (float v : h) sum += v;
  if (h.empty() || !(sum > 0) || !std::isfinite(sum)) return out;
  const double mean = sum / cols;
  for (int64_t i = 0; i < cols; ++i) out[i] = static_cast<float>(h[i] / mean + 0.01);
  return out;
}

void EncodeRowSearch(const float* w, const float* h, int64_t row, AffineMatrix* m) {
  thread_local std::vector<uint8_t> codes;
  thread_local std::vector<float> scales, biases;
  const int64_t groups = m->groups_per_row();
  codes.resize(m->cols);
  scales.resize(groups);
  biases.resize(groups);
  SearchAffineRow(w, h, m->cols, m->format, m->scale_dtype, codes.data(), scales.data(), biases.data());
  PackCodes(codes.data(), m->cols, m->format.bits, m->packed.data() + row * m->words_per_row());
  for (int64_t k = 0; k < groups; ++k) {
    StoreFloat(m->scale_dtype, m->scales.data(), row * groups + k, scales[k]);
    StoreFloat(m->scale_dtype, m->biases.data(), row * groups + k, biases[k]);
  }
}

}  // namespace

StatusOr<AffineMatrix> EncodeMatrix(const WeightMatrix& w, AffineFormat format, const std::string& encoder,
                                    std::span<const float> h, ThreadPool* pool) {
  if (!IsKnownEncoder(encoder)) return InvalidArgument("encoder '{}' is unknown; known: rtn, search", encoder);
  if (!IsValidAffineFormat(format) || w.cols % format.group_size != 0) {
    return InvalidArgument("{}: {} inputs cannot be encoded at {} bits in groups of {}", w.path, w.cols, format.bits,
                           format.group_size);
  }
  OPTIQ_CHECK(h.empty() || static_cast<int64_t>(h.size()) == w.cols);
  const bool search = encoder == "search";
  const std::vector<float> weights = search ? Damped(h, w.cols) : std::vector<float>();
  AffineMatrix m = MakeAffineMatrix(w.rows, w.cols, format, ScaleDType(w));
  std::atomic<bool> finite{true};
  pool->ParallelFor(DivUp(w.rows, kRows), [&](int64_t task, int) {
    AlignedBuffer<float> buffer(w.cols);
    float* row = buffer.data();
    for (int64_t r = task * kRows; r < std::min(w.rows, (task + 1) * kRows); ++r) {
      DecodeRows(w, r, r + 1, row);
      float sum = 0;
      for (int64_t i = 0; i < w.cols; ++i) sum += row[i] * 0.0f;  // NaN if any value is not finite
      if (!(sum == 0.0f)) {
        finite = false;
        return;
      }
      if (search) {
        EncodeRowSearch(row, weights.data(), r, &m);
      } else {
        EncodeRowRtn(row, r, &m);
      }
    }
  });
  if (!finite) return DataLoss("{}: the weights hold NaN or infinity", w.path);
  return m;
}

OutputError OutputErrorOf(const WeightMatrix& w, const AffineMatrix& encoded, std::span<const float> h, ThreadPool* pool) {
  const int64_t tasks = DivUp(w.rows, kRows);
  std::vector<double> error(tasks), total(tasks);
  const WeightMatrix view = ViewOf(encoded, w.path);
  pool->ParallelFor(tasks, [&](int64_t task, int) {
    AlignedBuffer<float> a(w.cols), b(w.cols);
    double e = 0, t = 0;
    for (int64_t r = task * kRows; r < std::min(w.rows, (task + 1) * kRows); ++r) {
      DecodeRows(w, r, r + 1, a.data());
      DecodeRows(view, r, r + 1, b.data());
      float row_error = 0, row_total = 0;
      for (int64_t i = 0; i < w.cols; ++i) {
        const float weight = h.empty() ? 1.0f : h[i], value = a.data()[i], d = value - b.data()[i];
        row_error += weight * d * d;
        row_total += weight * value * value;
      }
      e += row_error;
      t += row_total;
    }
    error[task] = e;
    total[task] = t;
  });
  OutputError out;
  for (int64_t i = 0; i < tasks; ++i) {
    out.error += error[i];
    out.total += total[i];
  }
  return out;
}

}  // namespace optiq
