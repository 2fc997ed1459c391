#include "io/gguf_blocks.h"

#include <gtest/gtest.h>

#include <cstring>

#include "io/mapped_file.h"
#include "io/safetensors.h"

namespace optiq {
namespace {

constexpr DType kBlockTypes[] = {DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1, DType::kQ8_0,
                                 DType::kQ2_K, DType::kQ3_K, DType::kQ4_K, DType::kQ5_K, DType::kQ6_K};

// tests/oracle/gguf_oracle.py: random blocks, scales of all magnitudes, values of gguf.quants.dequantize.
TEST(GgufBlocks, EqualTheReferenceBitForBit) {
  auto map = MappedFile::Open(OPTIQ_TEST_DATA "/gguf/blocks.safetensors");
  ASSERT_TRUE(map.ok()) << map.status();
  std::map<std::string, std::string> metadata;
  auto tensors = ParseSafetensors((*map)->bytes(), (*map)->path(), &metadata);
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  const auto find = [&](std::string_view name) -> const StoredTensor& {
    for (const StoredTensor& t : *tensors) {
      if (t.name == name) return t;
    }
    ADD_FAILURE() << name << " is missing";
    return tensors->front();
  };
  for (const DType dtype : kBlockTypes) {
    const std::string name(DTypeName(dtype));
    const StoredTensor &blocks = find(name + ".blocks"), &values = find(name + ".values");
    ASSERT_EQ(blocks.cols(), DTypeBlockBytes(dtype)) << name;
    ASSERT_EQ(values.cols(), DTypeBlockElements(dtype)) << name;
    ASSERT_GE(blocks.rows(), 16) << name;
    std::vector<float> out(values.elements());
    DequantizeBlocks(dtype, blocks.bytes.data(), values.elements(), out.data());
    for (int64_t i = 0; i < values.elements(); ++i) {
      uint32_t want, got;
      std::memcpy(&want, values.bytes.data() + 4 * i, 4);
      std::memcpy(&got, &out[i], 4);
      ASSERT_EQ(got, want) << name << " block " << i / values.cols() << " element " << i % values.cols();
    }
    // A run of blocks and the blocks one by one, from an odd address, are the same.
    std::vector<std::byte> shifted(blocks.bytes.size() + 1);
    std::memcpy(shifted.data() + 1, blocks.bytes.data(), blocks.bytes.size());
    std::vector<float> single(values.cols());
    for (int64_t b = 0; b < blocks.rows(); ++b) {
      DequantizeBlocks(dtype, shifted.data() + 1 + b * blocks.cols(), values.cols(), single.data());
      ASSERT_EQ(std::memcmp(single.data(), out.data() + b * values.cols(), single.size() * 4), 0)
          << name << " block " << b;
    }
  }
}

TEST(GgufBlocks, TakesNoBlocks) { DequantizeBlocks(DType::kQ4_K, nullptr, 0, nullptr); }

}  // namespace
}  // namespace optiq
