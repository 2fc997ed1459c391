// Row kernels: everything a decoder block does besides matrix products. f32 throughout; sums run over fixed lanes, so a row's
// result depends on its values only.
#ifndef OPTIQ_KERNELS_VECTOR_H_
#define OPTIQ_KERNELS_VECTOR_H_

#include <cstdint>

#include "io/dtype.h"

namespace optiq {

// sum_i a_i b_i. The second form widens a row of weights stored as dtype (f32, f16, bf16) at any alignment.
float Dot(const float* a, const float* b, int64_t n);
float DotStored(DType dtype, const void* row, const float* x, int64_t n);

void AddRow(const float* a, const float* b, int64_t n, float* out);       // a + b
void SubRow(const float* a, const float* b, int64_t n, float* out);       // a - b
void ScaleRow(const float* a, float s, int64_t n, float* out);            // s a
void AxpyRow(float s, const float* x, int64_t n, float* y);               // y += s x

// RMSNorm (Zhang & Sennrich 2019): out = x * (mean(x^2) + eps)^-1/2 * weight. weight == nullptr: all ones. In place allowed.
void RmsNormRow(const float* x, const float* weight, int64_t n, float eps, float* out);

// Gated activations: out = act(gate) * up. silu(g) = g / (1 + e^-g); gelu_tanh as in transformers' gelu_pytorch_tanh; gelu by erf.
void SiluMulRow(const float* gate, const float* up, int64_t n, float* out);
void GeluTanhMulRow(const float* gate, const float* up, int64_t n, float* out);
void GeluMulRow(const float* gate, const float* up, int64_t n, float* out);

// Rotary embedding, rotate-half form (Su et al. 2021), of one head: out[i] = x[i] cos[i] - x[i+h] sin[i] and
// out[i+h] = x[i+h] cos[i] + x[i] sin[i] for i < h = head_dim/2. In place allowed.
void RopeRow(const float* x, const float* cos, const float* sin, int64_t half, float* out);

// In place: x[i] = e^(x[i] - max) ; returns the sum. Softmax without the division.
float ExpRow(float* x, int64_t n);

float MaxRow(const float* x, int64_t n);
float SumRow(const float* x, int64_t n);

// Whether every value is finite; whether every value is a number below infinity (minus infinity is).
bool IsFiniteRow(const float* x, int64_t n);
bool IsBelowInfinityRow(const float* x, int64_t n);

// cap * tanh(x / cap), in place (Gemma's logit softcapping).
void SoftcapRow(float* x, int64_t n, float cap);

// out[i] = e^(x[i] - shift): with shift = logsumexp, probabilities.
void ExpShiftedRow(const float* x, float shift, int64_t n, float* out);

// Partial sums of a KL divergence between softmax(z) and softmax(z + dz), given p = softmax(z) on a slice of the vocabulary:
//   *curvature += sum p (e^dz - 1 - dz),   *mean += sum p dz.
// Over the whole vocabulary KL = log1p(curvature + mean) - mean: no difference of large numbers, exactly 0 for dz = 0.
void KlPartialRow(const float* p, const float* dz, int64_t n, double* curvature, double* mean);

// *sums[i] += x[i]^2 for a row.
void AddSquaresRow(const float* x, int64_t n, float* sums);

}  // namespace optiq

#endif  // OPTIQ_KERNELS_VECTOR_H_
