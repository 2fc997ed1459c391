// From a value known at run time to a template argument.
#ifndef OPTIQ_KERNELS_WITH_VALUE_H_
#define OPTIQ_KERNELS_WITH_VALUE_H_

#include <type_traits>

namespace optiq {

// Calls fn(std::integral_constant<int, value>()); value must be one of kValues.
template <int... kValues, typename Fn>
inline void WithValue(int value, Fn&& fn) {
  static_cast<void>(((value == kValues && (fn(std::integral_constant<int, kValues>()), true)) || ...));
}

// For the code widths of the affine format.
template <typename Fn>
inline void WithAffineBits(int bits, Fn&& fn) {
  WithValue<2, 3, 4, 5, 6, 8>(bits, fn);
}

}  // namespace optiq

#endif  // OPTIQ_KERNELS_WITH_VALUE_H_
