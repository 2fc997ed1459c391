#include "quant/divergence.h"

#include <cmath>

#include "base/aligned.h"
#include "kernels/vector.h"

namespace optiq {
namespace {

float* Scratch(int64_t n) {
  thread_local AlignedBuffer<float> buffer;
  return buffer.Grow(n);
}

}  // namespace

double LogSumExp(const float* x, int64_t n) {
  float* e = Scratch(n);
  const float top = MaxRow(x, n);
  ExpShiftedRow(x, top, n, e);
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += e[i];
  return top + std::log(sum);
}

double Divergence(const float* a, const float* b, int64_t n) {
  const double lse_b = LogSumExp(b, n), lse_a = LogSumExp(a, n), shift = lse_a - lse_b;
  float* p = Scratch(n);
  ExpShiftedRow(a, static_cast<float>(lse_a), n, p);
  double kl = 0;
  for (int64_t i = 0; i < n; ++i) kl += p[i] * (double{a[i]} - b[i] - shift);
  return kl;
}

}  // namespace optiq
