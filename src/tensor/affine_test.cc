// Codes, scales and biases bit for bit as mx.quantize's, and dequantized values as mx.dequantize's, on the golden vectors of
// mlx 0.32.4 (CPU): all bits, groups and dtypes, with subnormal, constant, tied and -0 inputs.
#include "tensor/affine.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <string>

#include "base/half.h"
#include "io/mapped_file.h"
#include "io/safetensors.h"

namespace optiq {
namespace {

struct Vectors {
  std::unique_ptr<MappedFile> map;
  std::vector<StoredTensor> tensors;
  std::map<std::string, const StoredTensor*> by_name;
};

const Vectors& Golden() {
  static const Vectors* vectors = [] {
    auto* v = new Vectors();
    const std::string path = std::string(OPTIQ_TEST_DATA) + "/goldens/quant/quant_vectors.safetensors";
    v->map = *MappedFile::Open(path);
    v->tensors = *ParseSafetensors(v->map->bytes(), path, nullptr);
    for (const StoredTensor& t : v->tensors) v->by_name[t.name] = &t;
    return v;
  }();
  return *vectors;
}

float Rounded(DType dtype, float v) {
  if (dtype == DType::kBF16) return BF16ToF32(F32ToBF16(v));
  if (dtype == DType::kF16) return F16ToF32(F32ToF16(v));
  return v;
}

TEST(AffineTest, EncodeAndDecodeEqualMlxBitForBit) {
  const Vectors& golden = Golden();
  int cases = 0, decoded = 0;
  for (const auto& [name, codes] : golden.by_name) {
    // MATRIX.DTYPE.bBITS.gGROUP.q
    const size_t b = name.rfind(".b"), g = name.rfind(".g"), dot = name.rfind(".q");
    if (b == std::string::npos || g == std::string::npos || dot != name.size() - 2 || g < b) continue;
    const std::string prefix = name.substr(0, dot);
    const std::string head = name.substr(0, b);
    const std::string matrix = head.substr(0, head.rfind('.'));
    auto source = golden.by_name.find("w." + matrix);
    if (source == golden.by_name.end()) continue;
    const StoredTensor& scales = *golden.by_name.at(prefix + ".scales");
    const StoredTensor& biases = *golden.by_name.at(prefix + ".biases");
    const AffineFormat format{std::stoi(name.substr(b + 2)), std::stoi(name.substr(g + 2))};
    ASSERT_TRUE(IsValidAffineFormat(format)) << name;
    const StoredTensor& w = *source->second;
    std::vector<float> values(w.elements());
    ReadRows(w, 0, w.rows(), values.data());
    for (float& v : values) v = Rounded(scales.dtype, v);
    AffineMatrix m = MakeAffineMatrix(w.rows(), w.cols(), format, scales.dtype);
    for (int64_t r = 0; r < w.rows(); ++r) EncodeRowRtn(values.data() + r * w.cols(), r, &m);
    ASSERT_EQ(m.packed.size() * 4, codes->bytes.size()) << name;
    EXPECT_EQ(std::memcmp(m.packed.data(), codes->bytes.data(), codes->bytes.size()), 0) << name << " codes";
    EXPECT_EQ(std::memcmp(m.scales.data(), scales.bytes.data(), scales.bytes.size()), 0) << name << " scales";
    EXPECT_EQ(std::memcmp(m.biases.data(), biases.bytes.data(), biases.bytes.size()), 0) << name << " biases";
    ++cases;
    auto dequant = golden.by_name.find(prefix + ".dequant");
    if (dequant == golden.by_name.end()) continue;
    std::vector<float> want(w.elements()), got(w.elements());
    ReadRows(*dequant->second, 0, w.rows(), want.data());
    for (int64_t r = 0; r < w.rows(); ++r) DecodeRowMlx(m, r, got.data() + r * w.cols());
    for (size_t i = 0; i < want.size(); ++i) ASSERT_EQ(want[i], got[i]) << name << " value " << i;
    ++decoded;
  }
  EXPECT_GE(cases, 500);
  EXPECT_GE(decoded, 30);
}

TEST(AffineTest, PackingRoundTrip) {
  for (int bits : {2, 3, 4, 5, 6, 8}) {
    std::vector<uint8_t> codes(128), back(128);
    for (size_t i = 0; i < codes.size(); ++i) codes[i] = (i * 37 + 11) & ((1 << bits) - 1);
    std::vector<uint32_t> packed(128 * bits / 32);
    PackCodes(codes.data(), 128, bits, packed.data());
    UnpackCodes(packed.data(), 128, bits, back.data());
    EXPECT_EQ(codes, back) << bits;
  }
}

}  // namespace
}  // namespace optiq
