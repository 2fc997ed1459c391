// Conversions between f32 and the 16-bit floats. Widening is exact (NaN payloads too); narrowing rounds to nearest
// even. Plain integer arithmetic, so that loops over them vectorize and results do not depend on the CPU's denormal
// mode.
#ifndef OPTIQ_BASE_HALF_H_
#define OPTIQ_BASE_HALF_H_

#include <bit>
#include <cstdint>

namespace optiq {

inline float BF16ToF32(uint16_t v) { return std::bit_cast<float>(static_cast<uint32_t>(v) << 16); }

inline float F16ToF32(uint16_t v) {
  const uint32_t sign = static_cast<uint32_t>(v & 0x8000) << 16;
  const uint32_t magnitude = v & 0x7fff;
  // Subnormals are magnitude * 2^-24, made by putting the magnitude in the low bits of 0.5 and taking 0.5 off again.
  const float small = std::bit_cast<float>(magnitude | 0x3f000000u) - 0.5f;
  const uint32_t exponent_offset =
      magnitude >= 0x7c00 ? (255u - 31u) << 23 : (127u - 15u) << 23;  // inf and NaN stay such
  const uint32_t normal = (magnitude << 13) + exponent_offset;
  return std::bit_cast<float>(sign | (magnitude < 0x400 ? std::bit_cast<uint32_t>(small) : normal));
}

inline uint16_t F32ToBF16(float f) {
  const uint32_t v = std::bit_cast<uint32_t>(f);
  const uint32_t rounded = (v + 0x7fff + ((v >> 16) & 1)) >> 16;
  const bool nan = (v & 0x7fffffff) > 0x7f800000;
  return static_cast<uint16_t>(nan ? (v >> 16) | 0x40
                                   : rounded);  // a NaN stays one: set the quiet bit instead of rounding
}

inline uint16_t F32ToF16(float f) {
  const uint32_t v = std::bit_cast<uint32_t>(f);
  const uint16_t sign = static_cast<uint16_t>((v >> 16) & 0x8000);
  const uint32_t magnitude = v & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00 | static_cast<uint16_t>((magnitude >> 13) & 0x3ff);
  if (magnitude >= 0x477ff000) return sign | 0x7c00;  // 65520 and above round to infinity
  if (magnitude < 0x38800000) {                       // below 2^-14: a subnormal, a multiple of 2^-24
    // Adding 0.5 makes the float adder round to a multiple of 2^-24, to nearest even.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return sign | static_cast<uint16_t>(std::bit_cast<uint32_t>(shifted) - 0x3f000000u);
  }
  const uint32_t rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
  return sign | static_cast<uint16_t>((rounded >> 13) - (112u << 10));
}

}  // namespace optiq

#endif  // OPTIQ_BASE_HALF_H_
