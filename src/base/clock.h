// Time for measuring durations.
#ifndef OPTIQ_BASE_CLOCK_H_
#define OPTIQ_BASE_CLOCK_H_

#include <chrono>

namespace optiq {

// Seconds since some fixed point; never goes back.
inline double SteadySeconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace optiq

#endif  // OPTIQ_BASE_CLOCK_H_
