#include "kernels/isa.h"

#include <cstdlib>
#include <string_view>

#include "hwy/highway.h"
#include "hwy/targets.h"

namespace optiq {
namespace {

bool bf16_allowed = true;

int64_t TargetsNamed(std::string_view name) {
  // A level and everything below it.
  const int64_t portable = HWY_EMU128 | HWY_SCALAR;
  const int64_t sse4 = portable | HWY_SSSE3 | HWY_SSE4;
  const int64_t avx2 = sse4 | HWY_AVX2;
  const int64_t avx512 = avx2 | HWY_AVX3 | HWY_AVX3_DL;
  if (name == "scalar") return portable | HWY_STATIC_TARGET;
  if (name == "sse4") return sse4;
  if (name == "avx2") return avx2;
  if (name == "avx512") return avx512;
  if (name == "neon") return portable | HWY_NEON;
  return 0;
}

}  // namespace

Status InitIsa() {
  const char* text = std::getenv("OPTIQ_ISA");
  if (text == nullptr || *text == '\0' || std::string_view(text) == "native") return OkStatus();
  const int64_t wanted = TargetsNamed(text);
  if (wanted == 0) {
    return InvalidArgument("OPTIQ_ISA='{}' is unknown; use scalar, sse4, avx2, avx512, neon or native", text);
  }
  const int64_t usable = hwy::SupportedTargets() & wanted;
  if (usable == 0) return InvalidArgument("OPTIQ_ISA='{}': this CPU or build has no such instruction set", text);
  hwy::DisableTargets(~wanted);
  bf16_allowed = std::string_view(text) == "avx512";
  return OkStatus();
}

std::string IsaName() {
  const int64_t targets = hwy::SupportedTargets();
  const std::string name = hwy::TargetName(targets & -targets);
  return CpuHasAvx512BF16() ? name + "+BF16" : name;
}

bool CpuHasAvx512BF16() {
#if defined(__x86_64__)
  return bf16_allowed && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl");
#else
  return false;
#endif
}

}  // namespace optiq
