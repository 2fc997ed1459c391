// The instruction sets in use, and forcing one: OPTIQ_ISA = scalar | sse4 | avx2 | avx512 | avx512vnni | neon | native.
#ifndef OPTIQ_KERNELS_ISA_H_
#define OPTIQ_KERNELS_ISA_H_

#include <string>

#include "base/status.h"

namespace optiq {

// Reads OPTIQ_ISA and restricts the dispatch to it and what lies below. Call once, before any kernel. kInvalidArgument for an
// unknown name or one that this CPU lacks.
Status InitIsa();

// The best sets in use ("AVX3_DL, avx512vnni, bf16").
std::string IsaName();

// Features that kernels written with intrinsics ask for; false also when OPTIQ_ISA names a lower level.
enum class CpuFeature {
  kAvx2,        // with FMA, BMI2 and F16C
  kAvx512Vnni,  // with F, BW, VL, DQ and VBMI
  kAvx512BF16,
};
bool CpuHas(CpuFeature feature);

}  // namespace optiq

#endif  // OPTIQ_KERNELS_ISA_H_
