// A counter-based random generator: the same seed gives the same numbers on every machine, and number i needs no number
// before it.
#ifndef OPTIQ_ENGINE_RANDOM_H_
#define OPTIQ_ENGINE_RANDOM_H_

#include <array>
#include <cstdint>

namespace optiq {

// Philox 4x32-10: ten rounds of a keyed bijection of 128 bits.
// Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// A stream of numbers: block i of a stream is Philox4x32({i low, i high, stream low, stream high}, {seed low, seed
// high}), its words taken in order.
class RandomStream {
 public:
  explicit RandomStream(uint64_t seed, uint64_t stream = 0) : seed_(seed), stream_(stream) {}

  uint32_t NextU32();
  // Uniform in [0, 1): 53 random bits.
  double NextDouble();

 private:
  uint64_t seed_, stream_;
  uint64_t block_ = 0;
  std::array<uint32_t, 4> words_{};
  int used_ = 4;
};

// A seed from the operating system's entropy, for runs where the user names none.
uint64_t RandomSeed();

}  // namespace optiq

#endif  // OPTIQ_ENGINE_RANDOM_H_
