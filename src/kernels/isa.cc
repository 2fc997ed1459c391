#include "kernels/isa.h"

#include <cstdlib>
#include <string_view>

#include "hwy/highway.h"
#include "hwy/targets.h"
#include "kernels/affine_matmul.h"

namespace optiq {
namespace {

// A level and everything below it.
struct Level {
  const char* name;
  int64_t targets;   // of Highway
  int features;      // bits of CpuFeature
  int required;      // CpuFeature that must be there, -1: none
};

constexpr int Bit(CpuFeature f) { return 1 << static_cast<int>(f); }

constexpr int64_t kPortable = HWY_EMU128 | HWY_SCALAR;
constexpr int64_t kSse4 = kPortable | HWY_SSSE3 | HWY_SSE4;
constexpr int64_t kAvx2 = kSse4 | HWY_AVX2;
constexpr int64_t kAvx512 = kAvx2 | HWY_AVX3 | HWY_AVX3_DL;
constexpr Level kLevels[] = {
    {"scalar", kPortable | HWY_STATIC_TARGET, 0, -1},
    {"sse4", kSse4, 0, -1},
    {"avx2", kAvx2, Bit(CpuFeature::kAvx2), static_cast<int>(CpuFeature::kAvx2)},
    {"avx512", kAvx512, Bit(CpuFeature::kAvx2), -1},
    {"avx512vnni", kAvx512, Bit(CpuFeature::kAvx2) | Bit(CpuFeature::kAvx512Vnni) | Bit(CpuFeature::kAvx512BF16),
     static_cast<int>(CpuFeature::kAvx512Vnni)},
    {"neon", kPortable | HWY_NEON, 0, -1},
};

int allowed_features = -1;

bool Detected(CpuFeature feature) {
#if defined(__x86_64__)
  switch (feature) {
    case CpuFeature::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    case CpuFeature::kAvx512Vnni:
      return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    case CpuFeature::kAvx512BF16:
      return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512vl");
  }
#endif
  (void)feature;
  return false;
}

}  // namespace

Status InitIsa() {
  const char* text = std::getenv("OPTIQ_ISA");
  if (text == nullptr || *text == '\0' || std::string_view(text) == "native") return OkStatus();
  for (const Level& level : kLevels) {
    if (std::string_view(text) != level.name) continue;
    // "scalar" runs everywhere; the others need their own best target, not just something below it.
    const int64_t best = level.targets & -level.targets;
    const bool present = std::string_view(text) == "scalar" || (hwy::SupportedTargets() & (best | (best << 1))) != 0;
    if (!present || (level.required >= 0 && !Detected(static_cast<CpuFeature>(level.required)))) {
      return InvalidArgument("OPTIQ_ISA='{}': this CPU or build has no such instruction set", text);
    }
    hwy::DisableTargets(~level.targets);
    allowed_features = level.features;
    return OkStatus();
  }
  return InvalidArgument("OPTIQ_ISA='{}' is unknown; use scalar, sse4, avx2, avx512, avx512vnni, neon or native", text);
}

std::string IsaName() {
  const int64_t targets = hwy::SupportedTargets();
  std::string name = hwy::TargetName(targets & -targets);
  name += fmt::format(", {}", BestAffineKernels().name);
  return CpuHas(CpuFeature::kAvx512BF16) ? name + ", bf16" : name;
}

bool CpuHas(CpuFeature feature) { return (allowed_features & Bit(feature)) != 0 && Detected(feature); }

}  // namespace optiq
