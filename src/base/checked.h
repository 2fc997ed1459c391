// Arithmetic on sizes that come from files or requests: overflow is an error, never a wrap.
#ifndef OPTIQ_BASE_CHECKED_H_
#define OPTIQ_BASE_CHECKED_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace optiq {

// a * b, or nullopt when it does not fit.
inline std::optional<uint64_t> CheckedMul(uint64_t a, uint64_t b) {
  uint64_t out;
  if (__builtin_mul_overflow(a, b, &out)) return std::nullopt;
  return out;
}

// a + b, or nullopt when it does not fit.
inline std::optional<uint64_t> CheckedAdd(uint64_t a, uint64_t b) {
  uint64_t out;
  if (__builtin_add_overflow(a, b, &out)) return std::nullopt;
  return out;
}

// The product of all dims (1 for none), or nullopt when it does not fit.
inline std::optional<uint64_t> CheckedProduct(std::span<const int64_t> dims) {
  uint64_t out = 1;
  for (int64_t d : dims) {
    if (d < 0 || __builtin_mul_overflow(out, static_cast<uint64_t>(d), &out)) return std::nullopt;
  }
  return out;
}

inline constexpr int64_t DivUp(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline constexpr int64_t RoundUp(int64_t a, int64_t b) { return DivUp(a, b) * b; }

}  // namespace optiq

#endif  // OPTIQ_BASE_CHECKED_H_
