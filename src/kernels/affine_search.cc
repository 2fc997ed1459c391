#include "kernels/affine_search.h"

#include "kernels/affine_search_inl.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/affine_search.cc"
#include "hwy/foreach_target.h"
// clang-format off
#include "hwy/highway.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace optiq {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Groups are whole vectors: lanes divide 32.
using D = hn::CappedTag<float, 16>;

HWY_INLINE hn::Vec<D> Code(D d, hn::Vec<D> w, hn::Vec<D> bias, hn::Vec<D> inv, hn::Vec<D> top) {
  return hn::Min(hn::Max(hn::Round(hn::Mul(hn::Sub(w, bias), inv)), hn::Zero(d)), top);
}

HWY_INLINE GroupSums PassOver(const float* w, const float* h, int64_t g, float n, AffineGroup p) {
  const D d;
  const int64_t lanes = hn::Lanes(d);
  const auto scale = hn::Set(d, p.scale), bias = hn::Set(d, p.bias), inv = hn::Set(d, 1.0f / p.scale);
  const auto top = hn::Set(d, n);
  auto s1 = hn::Zero(d), s2 = s1, e0 = s1, e1 = s1, error = s1;
  for (int64_t i = 0; i < g; i += lanes) {
    const auto x = hn::LoadU(d, w + i), weight = hn::LoadU(d, h + i);
    const auto c = Code(d, x, bias, inv, top);
    const auto e = hn::Sub(x, hn::Add(hn::Mul(c, scale), bias));
    const auto hc = hn::Mul(weight, c), he = hn::Mul(weight, e);
    s1 = hn::Add(s1, hc);
    s2 = hn::MulAdd(hc, c, s2);
    e0 = hn::Add(e0, he);
    e1 = hn::MulAdd(he, c, e1);
    error = hn::MulAdd(he, e, error);
  }
  const auto sum = [d](hn::Vec<D> v) { return double{hn::GetLane(hn::SumOfLanes(d, v))}; };
  return {.s1 = sum(s1), .s2 = sum(s2), .e0 = sum(e0), .e1 = sum(e1), .error = sum(error)};
}

HWY_INLINE void WriteCodes(const float* w, int64_t g, float n, AffineGroup p, uint8_t* codes) {
  const D d;
  const hn::Rebind<int32_t, D> di;
  const hn::Rebind<uint8_t, D> d8;
  const int64_t lanes = hn::Lanes(d);
  const auto bias = hn::Set(d, p.bias), inv = hn::Set(d, 1.0f / p.scale), top = hn::Set(d, n);
  for (int64_t i = 0; i < g; i += lanes) {
    const auto c = Code(d, hn::LoadU(d, w + i), bias, inv, top);
    hn::StoreU(hn::DemoteTo(d8, hn::ConvertTo(di, c)), d8, codes + i);
  }
}

double SearchRow(const float* w, const float* h, int64_t cols, AffineFormat format, DType dtype, uint8_t* codes,
                 float* scales, float* biases) {
  const int64_t g = format.group_size;
  const float n = static_cast<float>((1 << format.bits) - 1);
  double total = 0;
  for (int64_t k = 0; k < cols / g; ++k) {
    const float* wk = w + k * g;
    const float* hk = h + k * g;
    double s0 = 0, error = 0;
    for (int64_t i = 0; i < g; ++i) s0 += hk[i];
    const AffineGroup p = SearchGroup(wk, g, format.bits, dtype, s0,
                                      [&](AffineGroup q) { return PassOver(wk, hk, g, n, q); }, &error);
    WriteCodes(wk, g, n, p, codes + k * g);
    scales[k] = p.scale;
    biases[k] = p.bias;
    total += error;
  }
  return total;
}

}  // namespace HWY_NAMESPACE
}  // namespace optiq
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace optiq {
HWY_EXPORT(SearchRow);

double SearchAffineRow(const float* w, const float* h, int64_t cols, AffineFormat format, DType scale_dtype, uint8_t* codes,
                       float* scales, float* biases) {
  return HWY_DYNAMIC_DISPATCH(SearchRow)(w, h, cols, format, scale_dtype, codes, scales, biases);
}

double SearchAffineGroupReference(const float* w, const float* h, int64_t g, int bits, DType scale_dtype, uint8_t* codes,
                                  float* scale, float* bias) {
  const double n = (1 << bits) - 1;
  const auto code = [&](float x, AffineGroup p) {
    return std::min(std::max(std::nearbyint((double{x} - p.bias) / p.scale), 0.0), n);
  };
  double s0 = 0, error = 0;
  for (int64_t i = 0; i < g; ++i) s0 += h[i];
  const auto pass = [&](AffineGroup p) {
    GroupSums t;
    for (int64_t i = 0; i < g; ++i) {
      const double c = code(w[i], p), e = w[i] - (c * p.scale + p.bias);
      t.s1 += h[i] * c;
      t.s2 += h[i] * c * c;
      t.e0 += h[i] * e;
      t.e1 += h[i] * e * c;
      t.error += h[i] * e * e;
    }
    return t;
  };
  const AffineGroup p = SearchGroup(w, g, bits, scale_dtype, s0, pass, &error);
  for (int64_t i = 0; i < g; ++i) codes[i] = static_cast<uint8_t>(code(w[i], p));
  *scale = p.scale;
  *bias = p.bias;
  return error;
}

}  // namespace optiq
#endif  // HWY_ONCE
