// The search of affine_search.h over any way to pass over a group: shared by the vector kernel and the reference.
#ifndef OPTIQ_KERNELS_AFFINE_SEARCH_INL_H_
#define OPTIQ_KERNELS_AFFINE_SEARCH_INL_H_

#include <algorithm>
#include <cmath>
#include <cstring>

#include "io/dtype.h"
#include "tensor/affine.h"

namespace optiq {

inline float RoundToStored(DType dtype, float v) {
  if (dtype == DType::kF32) return v;
  std::byte bytes[2];
  StoreFloat(dtype, bytes, 0, v);
  return LoadFloat(dtype, bytes, 0);
}

// Sums of one pass with codes c = clamp(rint((w - b) / s), 0, n) and residuals e = w - (s c + b).
struct GroupSums {
  double s1 = 0, s2 = 0;  // sum h c, sum h c^2
  double e0 = 0, e1 = 0;  // sum h e, sum h e c
  double error = 0;       // sum h e^2
};

// Adds the weighted least-squares correction for fixed codes; s0 = sum h.
inline AffineGroup LeastSquaresStep(AffineGroup p, double s0, const GroupSums& t) {
  const double det = s0 * t.s2 - t.s1 * t.s1;
  if (!(det > 1e-9 * s0 * t.s2)) return p;  // all codes equal
  return {static_cast<float>(p.scale + (s0 * t.e1 - t.s1 * t.e0) / det),
          static_cast<float>(p.bias + (t.s2 * t.e0 - t.s1 * t.e1) / det)};
}

// Largest part of the range cut off at each end.
inline float LargestShrink(int bits) {
  switch (bits) {
    case 2: return 0.30f;
    case 3: return 0.25f;
    case 4: return 0.18f;
    case 5: return 0.10f;
    case 6: return 0.06f;
    default: return 0.02f;
  }
}

// pass(AffineGroup) -> GroupSums.
template <typename Pass>
AffineGroup SearchGroup(const float* w, int64_t g, int bits, DType dtype, double s0, Pass pass, double* error) {
  float lo = w[0], hi = w[0];
  for (int64_t i = 1; i < g; ++i) {
    lo = std::min(lo, w[i]);
    hi = std::max(hi, w[i]);
  }
  AffineGroup best{0, 0};
  *error = INFINITY;
  // Judges rounded parameters; returns their error.
  const auto judge = [&](AffineGroup p) {
    p = {RoundToStored(dtype, p.scale), RoundToStored(dtype, p.bias)};
    if (p.scale == 0 || !std::isfinite(p.scale) || !std::isfinite(p.bias)) return static_cast<double>(INFINITY);
    const double e = pass(p).error;
    if (e < *error) {
      *error = e;
      best = p;
    }
    return e;
  };
  const auto refine = [&](AffineGroup p) {
    for (int round = 0; round < 2; ++round) p = LeastSquaresStep(p, s0, pass(p));
    return judge(p);
  };
  const AffineGroup stock = FitGroupRtn(w, g, bits);
  judge(stock);
  const float range = hi - lo, n = static_cast<float>((1 << bits) - 1);
  if (!(range > 0) || *error == 0) {
    if (!std::isfinite(*error)) best = {1.0f, RoundToStored(dtype, lo)};  // the scale underflows: one value for all
    return best;
  }
  refine(stock);
  const auto start = [&](float a, float c) {
    const float low = lo + a * range, high = hi - c * range;
    return refine({(high - low) / n, low});
  };
  constexpr int kSteps = 7;
  const float largest = LargestShrink(bits);
  float a = 0, c = 0;
  double at = INFINITY;
  const auto attempt = [&](float x, float y) {
    const double e = start(x, y);
    if (e < at) {
      at = e;
      a = x;
      c = y;
    }
  };
  for (int i = 0; i <= kSteps; ++i) attempt(largest * i / kSteps, largest * i / kSteps);
  for (float step = largest / 3; step > largest / 10; step /= 2) {
    const float x = a, y = c;
    attempt(x + step, y);
    attempt(x - step, y);
    attempt(x, y + step);
    attempt(x, y - step);
  }
  return best;
}

}  // namespace optiq

#endif  // OPTIQ_KERNELS_AFFINE_SEARCH_INL_H_
