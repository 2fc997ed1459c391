#include "kernels/affine_matmul.h"

#include <cstring>

#include "kernels/affine_kernels.h"

namespace optiq {

ActivationFormat ActivationFormatFor(const AffineRows& weights, ActivationBits bits) {
  const AffineFormat f = weights.format;
  return {.block = f.group_size == 32 ? 32 : 64,
          .planes = weights.strips != nullptr ? 1 : f.bits == 4 ? 2 : f.bits == 2 ? 4 : 1,
          .bits = bits};
}

namespace {
using Getter = const AffineKernels* (*)();
constexpr Getter kBestFirst[] = {AffineKernelsAvx512, AffineKernelsAvx2, AffineKernelsScalar};
}  // namespace

const AffineKernels& BestAffineKernels() {
  static const AffineKernels* best = [] {
    for (Getter get : kBestFirst) {
      if (const AffineKernels* k = get()) return k;
    }
    return AffineKernelsScalar();
  }();
  return *best;
}

const AffineKernels* AffineKernelsNamed(const char* name) {
  for (Getter get : kBestFirst) {
    const AffineKernels* k = get();
    if (k != nullptr && std::strcmp(k->name, name) == 0) return k;
  }
  return nullptr;
}

}  // namespace optiq
