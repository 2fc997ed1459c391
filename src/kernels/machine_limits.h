// What this machine can do at most, measured: the figures beside which speeds are stated.
#ifndef OPTIQ_KERNELS_MACHINE_LIMITS_H_
#define OPTIQ_KERNELS_MACHINE_LIMITS_H_

#include "base/thread_pool.h"

namespace optiq {

// Operations per second count a multiplication and an addition as two. 0: the CPU (or OPTIQ_ISA) has no such instruction.
struct MachineLimits {
  double read_bytes = 0;  // per second, from memory
  double int8_ops = 0;    // byte dot products
  double bf16_ops = 0;
  double f32_ops = 0;
};

// Takes about half a second; all threads of the pool. Throws std::bad_alloc (it reads 256 MB).
MachineLimits MeasureMachineLimits(ThreadPool* pool);

}  // namespace optiq

#endif  // OPTIQ_KERNELS_MACHINE_LIMITS_H_
