#include "base/half.h"

#include <gtest/gtest.h>

#include <cmath>

namespace optiq {
namespace {

// The value of IEEE binary16 bits by its definition.
double Binary16(uint16_t v) {
  const int exponent = v >> 10 & 31, mantissa = v & 1023;
  const double sign = v & 0x8000 ? -1 : 1;
  if (exponent == 0) return sign * std::ldexp(mantissa, -24);
  return sign * std::ldexp(1024 + mantissa, exponent - 25);
}

TEST(HalfTest, EveryF16WidensExactlyAndComesBack) {
  for (uint32_t v = 0; v < 65536; ++v) {
    const uint16_t bits = static_cast<uint16_t>(v);
    const float f = F16ToF32(bits);
    if ((v & 0x7c00) == 0x7c00) {
      EXPECT_EQ(std::isnan(f), (v & 0x3ff) != 0);
      EXPECT_EQ(std::isinf(f), (v & 0x3ff) == 0);
      EXPECT_EQ(std::signbit(f), (v & 0x8000) != 0);
      if (std::isnan(f)) {
        EXPECT_TRUE(std::isnan(F16ToF32(F32ToF16(f))));
        continue;
      }
    } else {
      EXPECT_EQ(static_cast<double>(f), Binary16(bits)) << v;
    }
    EXPECT_EQ(F32ToF16(f), bits) << v;
  }
}

TEST(HalfTest, NarrowingToF16RoundsToNearestEven) {
  for (uint32_t v = 0; v + 1 < 0x7c00; ++v) {  // all finite neighbours, the last pair being 65504 and infinity below
    const double low = Binary16(v), high = Binary16(v + 1);
    const float middle = static_cast<float>((low + high) / 2);  // exact: one bit more than binary16 has
    EXPECT_EQ(F32ToF16(middle), v % 2 == 0 ? v : v + 1) << v;
    EXPECT_EQ(F32ToF16(std::nextafterf(middle, 0.0f)), v) << v;
    EXPECT_EQ(F32ToF16(std::nextafterf(middle, INFINITY)), v + 1) << v;
    EXPECT_EQ(F32ToF16(-middle), (v % 2 == 0 ? v : v + 1) | 0x8000) << v;
  }
  EXPECT_EQ(F32ToF16(65519.996f), 0x7bff);
  EXPECT_EQ(F32ToF16(65520.0f), 0x7c00);
  EXPECT_EQ(F32ToF16(1e30f), 0x7c00);
  EXPECT_EQ(F32ToF16(-INFINITY), 0xfc00);
  EXPECT_EQ(F32ToF16(1e-30f), 0);
}

TEST(HalfTest, Bf16) {
  for (uint32_t v = 0; v < 65536; ++v) {
    const uint16_t bits = static_cast<uint16_t>(v);
    const float f = BF16ToF32(bits);
    EXPECT_EQ(std::bit_cast<uint32_t>(f), v << 16);
    if (std::isnan(f)) {
      EXPECT_TRUE(std::isnan(BF16ToF32(F32ToBF16(f))));
    } else {
      EXPECT_EQ(F32ToBF16(f), bits);
    }
  }
  EXPECT_EQ(F32ToBF16(std::bit_cast<float>(0x3f808000u)), 0x3f80);  // tie to even
  EXPECT_EQ(F32ToBF16(std::bit_cast<float>(0x3f818000u)), 0x3f82);
  EXPECT_EQ(F32ToBF16(std::bit_cast<float>(0x3f808001u)), 0x3f81);
  EXPECT_EQ(F32ToBF16(std::bit_cast<float>(0x7f7fffffu)), 0x7f80);                     // rounds to infinity
  EXPECT_TRUE(std::isnan(BF16ToF32(F32ToBF16(std::bit_cast<float>(0x7f800001u)))));  // not to infinity
}

}  // namespace
}  // namespace optiq
