#include "kernels/vector.h"

#include <cmath>
#include <cstring>

#include "base/half.h"
#include "base/status.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/vector.cc"
#include "hwy/foreach_target.h"
// clang-format off
#include "hwy/highway.h"
#include "hwy/contrib/math/math-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace optiq {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

// Applies op(vectors...) to whole vectors and to a zero-padded tail.
template <typename Op>
HWY_INLINE void Map1(const float* a, int64_t n, float* out, Op op) {
  const D d;
  const int64_t lanes = hn::Lanes(d);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) hn::StoreU(op(d, hn::LoadU(d, a + i)), d, out + i);
  if (i < n) {
    HWY_ALIGN float x[HWY_MAX_BYTES / sizeof(float)] = {};
    std::memcpy(x, a + i, (n - i) * sizeof(float));
    hn::Store(op(d, hn::Load(d, x)), d, x);
    std::memcpy(out + i, x, (n - i) * sizeof(float));
  }
}

template <typename Op>
HWY_INLINE void Map2(const float* a, const float* b, int64_t n, float* out, Op op) {
  const D d;
  const int64_t lanes = hn::Lanes(d);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) hn::StoreU(op(d, hn::LoadU(d, a + i), hn::LoadU(d, b + i)), d, out + i);
  if (i < n) {
    HWY_ALIGN float x[HWY_MAX_BYTES / sizeof(float)] = {};
    HWY_ALIGN float y[HWY_MAX_BYTES / sizeof(float)] = {};
    std::memcpy(x, a + i, (n - i) * sizeof(float));
    std::memcpy(y, b + i, (n - i) * sizeof(float));
    hn::Store(op(d, hn::Load(d, x), hn::Load(d, y)), d, x);
    std::memcpy(out + i, x, (n - i) * sizeof(float));
  }
}

// Four chains of fused multiply-adds over vectors given by load(i), tail scalar.
template <typename LoadA, typename LoadA1>
HWY_INLINE float DotWith(const float* b, int64_t n, LoadA load, LoadA1 load1) {
  const D d;
  const int64_t lanes = hn::Lanes(d);
  V s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
  int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    s0 = hn::MulAdd(load(i), hn::LoadU(d, b + i), s0);
    s1 = hn::MulAdd(load(i + lanes), hn::LoadU(d, b + i + lanes), s1);
    s2 = hn::MulAdd(load(i + 2 * lanes), hn::LoadU(d, b + i + 2 * lanes), s2);
    s3 = hn::MulAdd(load(i + 3 * lanes), hn::LoadU(d, b + i + 3 * lanes), s3);
  }
  for (; i + lanes <= n; i += lanes) s0 = hn::MulAdd(load(i), hn::LoadU(d, b + i), s0);
  float sum = hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3))));
  for (; i < n; ++i) sum += load1(i) * b[i];
  return sum;
}

float DotF32(const float* a, const float* b, int64_t n) {
  const D d;
  return DotWith(b, n, [&](int64_t i) HWY_ATTR { return hn::LoadU(d, a + i); }, [&](int64_t i) { return a[i]; });
}

float DotBF16(const uint16_t* a, const float* b, int64_t n) {
  const D d;
  const hn::RebindToUnsigned<D> du;
  const hn::Rebind<uint16_t, D> d16;
  return DotWith(
      b, n,
      [&](int64_t i) HWY_ATTR {
        return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadU(d16, a + i))));
      },
      [&](int64_t i) { return BF16ToF32(a[i]); });
}

float DotF16(const uint16_t* a, const float* b, int64_t n) {
  const D d;
  const int64_t lanes = hn::Lanes(d);
  return DotWith(
      b, n,
      [&](int64_t i) HWY_ATTR {
        const hn::Rebind<hwy::float16_t, D> d16;
        (void)lanes;
        return hn::PromoteTo(d, hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(a) + i));
      },
      [&](int64_t i) { return F16ToF32(a[i]); });
}

void Add(const float* a, const float* b, int64_t n, float* out) {
  Map2(a, b, n, out, [](D, V x, V y) HWY_ATTR { return hn::Add(x, y); });
}
void Sub(const float* a, const float* b, int64_t n, float* out) {
  Map2(a, b, n, out, [](D, V x, V y) HWY_ATTR { return hn::Sub(x, y); });
}
void Scale(const float* a, float s, int64_t n, float* out) {
  Map1(a, n, out, [s](D d, V x) HWY_ATTR { return hn::Mul(x, hn::Set(d, s)); });
}
void Axpy(float s, const float* x, int64_t n, float* y) {
  Map2(x, y, n, y, [s](D d, V a, V b) HWY_ATTR { return hn::MulAdd(hn::Set(d, s), a, b); });
}

void RmsNorm(const float* x, const float* weight, int64_t n, float eps, float* out) {
  const float mean = DotF32(x, x, n) / static_cast<float>(n);
  const float inv = 1.0f / std::sqrt(mean + eps);
  if (weight == nullptr) return Scale(x, inv, n, out);
  Map2(x, weight, n, out, [inv](D d, V a, V w) HWY_ATTR { return hn::Mul(hn::Mul(a, hn::Set(d, inv)), w); });
}

// e^x for any x: Highway's Exp is defined up to the largest finite result only.
HWY_INLINE V ExpAny(D d, V x) { return hn::Exp(d, hn::Min(x, hn::Set(d, 88.0f))); }

void SiluMul(const float* gate, const float* up, int64_t n, float* out) {
  Map2(gate, up, n, out, [](D d, V g, V u) HWY_ATTR {
    const V e = ExpAny(d, hn::Neg(g));
    return hn::Mul(hn::Div(g, hn::Add(hn::Set(d, 1.0f), e)), u);
  });
}

// 0.5 g (1 + tanh(a)) = g / (1 + e^(-2a)), a = sqrt(2/pi) (g + 0.044715 g^3).
void GeluTanhMul(const float* gate, const float* up, int64_t n, float* out) {
  Map2(gate, up, n, out, [](D d, V g, V u) HWY_ATTR {
    const V cube = hn::Mul(hn::Mul(g, g), g);
    const V a = hn::Mul(hn::Set(d, -2.0f * 0.7978845608028654f), hn::MulAdd(hn::Set(d, 0.044715f), cube, g));
    return hn::Mul(hn::Div(g, hn::Add(hn::Set(d, 1.0f), ExpAny(d, a))), u);
  });
}

void Rope(const float* x, const float* cos, const float* sin, int64_t half, float* out) {
  const D d;
  const int64_t lanes = hn::Lanes(d);
  int64_t i = 0;
  for (; i + lanes <= half; i += lanes) {
    const V a = hn::LoadU(d, x + i), b = hn::LoadU(d, x + half + i);
    const V c = hn::LoadU(d, cos + i), s = hn::LoadU(d, sin + i);
    hn::StoreU(hn::NegMulAdd(b, s, hn::Mul(a, c)), d, out + i);
    hn::StoreU(hn::MulAdd(a, s, hn::Mul(b, c)), d, out + half + i);
  }
  for (; i < half; ++i) {
    const float a = x[i], b = x[half + i];
    out[i] = a * cos[i] - b * sin[i];
    out[half + i] = b * cos[i] + a * sin[i];
  }
}

float Max(const float* x, int64_t n) {
  const D d;
  const int64_t lanes = hn::Lanes(d);
  V m = hn::Set(d, -INFINITY);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) m = hn::Max(m, hn::LoadU(d, x + i));
  float out = hn::GetLane(hn::MaxOfLanes(d, m));
  for (; i < n; ++i) out = x[i] > out ? x[i] : out;
  return out;
}

float Sum(const float* x, int64_t n) {
  const D d;
  const int64_t lanes = hn::Lanes(d);
  V s = hn::Zero(d);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) s = hn::Add(s, hn::LoadU(d, x + i));
  float sum = hn::GetLane(hn::SumOfLanes(d, s));
  for (; i < n; ++i) sum += x[i];
  return sum;
}

// x * 0 is not 0 for what is not finite.
HWY_INLINE bool AllZeroTimes(const float* x, int64_t n, bool allow_minus_infinity) {
  const D d;
  const int64_t lanes = hn::Lanes(d);
  const V zero = hn::Zero(d), minus = hn::Set(d, -INFINITY);
  V sum = zero;
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    V v = hn::LoadU(d, x + i);
    if (allow_minus_infinity) v = hn::IfThenElse(hn::Eq(v, minus), zero, v);
    sum = hn::MulAdd(v, zero, sum);
  }
  float tail = 0;
  for (; i < n; ++i) {
    if (!(allow_minus_infinity && x[i] == -INFINITY)) tail += x[i] * 0.0f;
  }
  return hn::AllTrue(d, hn::Eq(sum, zero)) && tail == 0.0f;
}
bool IsFinite(const float* x, int64_t n) { return AllZeroTimes(x, n, false); }
bool IsBelowInfinity(const float* x, int64_t n) { return AllZeroTimes(x, n, true); }

void ExpShifted(const float* x, float shift, int64_t n, float* out) {
  Map1(x, n, out, [shift](D d, V a) HWY_ATTR { return ExpAny(d, hn::Sub(a, hn::Set(d, shift))); });
}

float Exp(float* x, int64_t n) {
  ExpShifted(x, Max(x, n), n, x);
  return Sum(x, n);
}

void Softcap(float* x, int64_t n, float cap) {
  Map1(x, n, x, [cap](D d, V a) HWY_ATTR {
    return hn::Mul(hn::Set(d, cap), hn::Tanh(d, hn::Mul(a, hn::Set(d, 1.0f / cap))));
  });
}

// e^x - 1 - x without cancellation: the series x^2/2 (1 + x/3 (1 + x/4 (...))) up to x^9/9! for |x| < 1, where its remainder is
// below 1e-6 of the value, and the plain difference beyond.
HWY_INLINE V Curvature(D d, V x) {
  const V one = hn::Set(d, 1.0f);
  V s = hn::MulAdd(x, hn::Set(d, 1.0f / 10), one);
  s = hn::MulAdd(hn::Mul(x, hn::Set(d, 1.0f / 9)), s, one);
  s = hn::MulAdd(hn::Mul(x, hn::Set(d, 1.0f / 8)), s, one);
  s = hn::MulAdd(hn::Mul(x, hn::Set(d, 1.0f / 7)), s, one);
  s = hn::MulAdd(hn::Mul(x, hn::Set(d, 1.0f / 6)), s, one);
  s = hn::MulAdd(hn::Mul(x, hn::Set(d, 1.0f / 5)), s, one);
  s = hn::MulAdd(hn::Mul(x, hn::Set(d, 1.0f / 4)), s, one);
  s = hn::MulAdd(hn::Mul(x, hn::Set(d, 1.0f / 3)), s, one);
  return hn::Mul(hn::Mul(hn::Mul(x, x), hn::Set(d, 0.5f)), s);
}

void KlPartial(const float* p, const float* dz, int64_t n, double* curvature, double* mean) {
  const D d;
  const int64_t lanes = hn::Lanes(d);
  V sc = hn::Zero(d), sm = hn::Zero(d);
  const auto add = [&](V pv, V x) HWY_ATTR {
    V c = Curvature(d, x);
    const auto large = hn::Gt(hn::Abs(x), hn::Set(d, 1.0f));
    if (!hn::AllFalse(d, large)) {
      const V direct = hn::Sub(hn::Sub(ExpAny(d, x), hn::Set(d, 1.0f)), x);
      c = hn::IfThenElse(large, direct, c);
    }
    sc = hn::MulAdd(pv, c, sc);
    sm = hn::MulAdd(pv, x, sm);
  };
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) add(hn::LoadU(d, p + i), hn::LoadU(d, dz + i));
  if (i < n) {
    HWY_ALIGN float a[HWY_MAX_BYTES / sizeof(float)] = {};
    HWY_ALIGN float b[HWY_MAX_BYTES / sizeof(float)] = {};
    std::memcpy(a, p + i, (n - i) * sizeof(float));
    std::memcpy(b, dz + i, (n - i) * sizeof(float));
    add(hn::Load(d, a), hn::Load(d, b));
  }
  *curvature += hn::GetLane(hn::SumOfLanes(d, sc));
  *mean += hn::GetLane(hn::SumOfLanes(d, sm));
}

void AddSquares(const float* x, int64_t n, float* sums) {
  Map2(x, sums, n, sums, [](D, V a, V s) HWY_ATTR { return hn::MulAdd(a, a, s); });
}

}  // namespace HWY_NAMESPACE
}  // namespace optiq
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace optiq {
HWY_EXPORT(DotF32);
HWY_EXPORT(DotBF16);
HWY_EXPORT(DotF16);
HWY_EXPORT(Add);
HWY_EXPORT(Sub);
HWY_EXPORT(Scale);
HWY_EXPORT(Axpy);
HWY_EXPORT(RmsNorm);
HWY_EXPORT(SiluMul);
HWY_EXPORT(GeluTanhMul);
HWY_EXPORT(Rope);
HWY_EXPORT(Max);
HWY_EXPORT(IsFinite);
HWY_EXPORT(IsBelowInfinity);
HWY_EXPORT(Sum);
HWY_EXPORT(Exp);
HWY_EXPORT(ExpShifted);
HWY_EXPORT(Softcap);
HWY_EXPORT(KlPartial);
HWY_EXPORT(AddSquares);

float Dot(const float* a, const float* b, int64_t n) { return HWY_DYNAMIC_DISPATCH(DotF32)(a, b, n); }

float DotStored(DType dtype, const void* row, const float* x, int64_t n) {
  switch (dtype) {
    case DType::kBF16: return HWY_DYNAMIC_DISPATCH(DotBF16)(static_cast<const uint16_t*>(row), x, n);
    case DType::kF16: return HWY_DYNAMIC_DISPATCH(DotF16)(static_cast<const uint16_t*>(row), x, n);
    default: OPTIQ_CHECK(dtype == DType::kF32); return Dot(static_cast<const float*>(row), x, n);
  }
}

void AddRow(const float* a, const float* b, int64_t n, float* out) { HWY_DYNAMIC_DISPATCH(Add)(a, b, n, out); }
void SubRow(const float* a, const float* b, int64_t n, float* out) { HWY_DYNAMIC_DISPATCH(Sub)(a, b, n, out); }
void ScaleRow(const float* a, float s, int64_t n, float* out) { HWY_DYNAMIC_DISPATCH(Scale)(a, s, n, out); }
void AxpyRow(float s, const float* x, int64_t n, float* y) { HWY_DYNAMIC_DISPATCH(Axpy)(s, x, n, y); }

void RmsNormRow(const float* x, const float* weight, int64_t n, float eps, float* out) {
  HWY_DYNAMIC_DISPATCH(RmsNorm)(x, weight, n, eps, out);
}
void SiluMulRow(const float* gate, const float* up, int64_t n, float* out) {
  HWY_DYNAMIC_DISPATCH(SiluMul)(gate, up, n, out);
}
void GeluTanhMulRow(const float* gate, const float* up, int64_t n, float* out) {
  HWY_DYNAMIC_DISPATCH(GeluTanhMul)(gate, up, n, out);
}
void GeluMulRow(const float* gate, const float* up, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    const double g = gate[i];
    out[i] = static_cast<float>(0.5 * g * (1.0 + std::erf(g * 0.7071067811865476)) * up[i]);
  }
}
void RopeRow(const float* x, const float* cos, const float* sin, int64_t half, float* out) {
  HWY_DYNAMIC_DISPATCH(Rope)(x, cos, sin, half, out);
}
float ExpRow(float* x, int64_t n) { return HWY_DYNAMIC_DISPATCH(Exp)(x, n); }
float MaxRow(const float* x, int64_t n) { return HWY_DYNAMIC_DISPATCH(Max)(x, n); }
float SumRow(const float* x, int64_t n) { return HWY_DYNAMIC_DISPATCH(Sum)(x, n); }
bool IsFiniteRow(const float* x, int64_t n) { return HWY_DYNAMIC_DISPATCH(IsFinite)(x, n); }
bool IsBelowInfinityRow(const float* x, int64_t n) { return HWY_DYNAMIC_DISPATCH(IsBelowInfinity)(x, n); }
void SoftcapRow(float* x, int64_t n, float cap) { HWY_DYNAMIC_DISPATCH(Softcap)(x, n, cap); }
void ExpShiftedRow(const float* x, float shift, int64_t n, float* out) {
  HWY_DYNAMIC_DISPATCH(ExpShifted)(x, shift, n, out);
}
void KlPartialRow(const float* p, const float* dz, int64_t n, double* curvature, double* mean) {
  HWY_DYNAMIC_DISPATCH(KlPartial)(p, dz, n, curvature, mean);
}
void AddSquaresRow(const float* x, int64_t n, float* sums) { HWY_DYNAMIC_DISPATCH(AddSquares)(x, n, sums); }

}  // namespace optiq
#endif  // HWY_ONCE
