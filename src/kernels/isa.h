// The instruction sets in use, and forcing one: OPTIQ_ISA = scalar | sse4 | avx2 | avx512 | native.
#ifndef OPTIQ_KERNELS_ISA_H_
#define OPTIQ_KERNELS_ISA_H_

#include <string>

#include "base/status.h"

namespace optiq {

// Reads OPTIQ_ISA and restricts the dispatch to it. Call once, before any kernel. kInvalidArgument for an unknown name or one
// that this CPU lacks.
Status InitIsa();

// The name of the best target in use ("AVX3_DL").
std::string IsaName();

bool CpuHasAvx512BF16();

}  // namespace optiq

#endif  // OPTIQ_KERNELS_ISA_H_
