// Better parameters than min and max for MLX affine groups: a search over ranges with weighted least squares.
//
// Per group, minimize sum_j h_j (w_j - (s c_j + b))^2 over scale s, bias b (in the dtype they are stored in) and codes c, where h_j is the
// mean square of the layer's input j: the diagonal of the Hessian of the layer's output error. From each of several starting ranges
// (shrunken from both ends, and mx.quantize's own choice) two rounds of codes <-> closed-form (s, b); the winner is judged by the
// rounded parameters, so no candidate is better on paper only, and mx.quantize's choice is never beaten by the result.
#ifndef OPTIQ_KERNELS_AFFINE_SEARCH_H_
#define OPTIQ_KERNELS_AFFINE_SEARCH_H_

#include <cstdint>

#include "io/checkpoint.h"
#include "io/dtype.h"

namespace optiq {

// One row of cols weights; h: [cols], all positive. Writes codes [cols] and per group scale and bias, which are exact values of
// scale_dtype. Returns the weighted squared error of the row.
double SearchAffineRow(const float* w, const float* h, int64_t cols, AffineFormat format, DType scale_dtype, uint8_t* codes,
                       float* scales, float* biases);

// The definition, in double, one group at a time; for tests.
double SearchAffineGroupReference(const float* w, const float* h, int64_t g, int bits, DType scale_dtype, uint8_t* codes,
                                  float* scale, float* bias);

}  // namespace optiq

#endif  // OPTIQ_KERNELS_AFFINE_SEARCH_H_
