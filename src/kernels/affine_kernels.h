// The instruction sets of the fast path. Each function returns nullptr where the CPU, the build or OPTIQ_ISA has not got it.
#ifndef OPTIQ_KERNELS_AFFINE_KERNELS_H_
#define OPTIQ_KERNELS_AFFINE_KERNELS_H_

#include "kernels/affine_matmul.h"

namespace optiq {

// Blocks whose largest value is below are zero: top / max must stay finite.
inline constexpr float kTinyBlock = 1e-30f;
inline constexpr float kTop8 = 127.0f;
inline constexpr float kTop15 = 127.0f * 128.0f;

const AffineKernels* AffineKernelsScalar();
const AffineKernels* AffineKernelsAvx2();    // vpmaddwd on 16-bit values
const AffineKernels* AffineKernelsAvx512();  // vpdpbusd on 512 bits, VBMI

}  // namespace optiq

#endif  // OPTIQ_KERNELS_AFFINE_KERNELS_H_
