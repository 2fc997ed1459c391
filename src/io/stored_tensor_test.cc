#include "io/stored_tensor.h"

#include <gtest/gtest.h>

#include <cstring>

#include "base/half.h"
#include "io/test_util.h"

namespace optiq {
namespace {

// `values` as bytes of `dtype`, one byte off alignment.
struct Stored {
  Stored(DType dtype, std::vector<int64_t> shape, const std::vector<float>& values) {
    buffer.resize(1);
    for (float v : values) {
      const uint16_t f16 = F32ToF16(v), bf16 = F32ToBF16(v);
      const double f64 = v;
      if (dtype == DType::kF32) buffer.append(reinterpret_cast<const char*>(&v), 4);
      if (dtype == DType::kF16) buffer.append(reinterpret_cast<const char*>(&f16), 2);
      if (dtype == DType::kBF16) buffer.append(reinterpret_cast<const char*>(&bf16), 2);
      if (dtype == DType::kF64) buffer.append(reinterpret_cast<const char*>(&f64), 8);
    }
    tensor.name = "x";
    tensor.dtype = dtype;
    tensor.shape = std::move(shape);
    tensor.bytes = test::Bytes(buffer).subspan(1);
  }
  std::string buffer;
  StoredTensor tensor;
};

TEST(StoredTensorTest, ReadsRowsOfEveryFloatType) {
  const std::vector<float> values = {0, 1, -2, 0.5, 3, -0.25, 8, 16, -64, 100, 0.125, 7};
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kF64}) {
    Stored s(dtype, {2, 2, 3}, values);
    EXPECT_EQ(s.tensor.rows(), 4);
    EXPECT_EQ(s.tensor.cols(), 3);
    ASSERT_EQ(s.tensor.bytes.size(), *TensorBytes(dtype, s.tensor.shape));
    std::vector<float> out(6, -1);
    ReadRows(s.tensor, 1, 3, out.data());
    EXPECT_EQ(out, std::vector<float>(values.begin() + 3, values.begin() + 9)) << DTypeName(dtype);
    ReadRows(s.tensor, 4, 4, out.data());  // nothing
    EXPECT_EQ(out[0], 0.5f);
  }
}

TEST(StoredTensorTest, ScalarsAndEmptyTensors) {
  Stored scalar(DType::kF32, {}, {42});
  EXPECT_EQ(scalar.tensor.rows(), 1);
  EXPECT_EQ(scalar.tensor.elements(), 1);
  EXPECT_EQ(scalar.tensor.ShapeString(), "[]");
  EXPECT_EQ(*ReadVector(scalar.tensor), std::vector<float>{42});
  Stored empty(DType::kBF16, {3, 0}, {});
  EXPECT_EQ(empty.tensor.elements(), 0);
  EXPECT_EQ(empty.tensor.ShapeString(), "[3, 0]");
  EXPECT_TRUE(ReadVector(empty.tensor)->empty());
}

TEST(StoredTensorTest, AddConstant) {
  Stored s(DType::kF32, {3}, {1.5, 2, 0});
  s.tensor.add_constant = -1;
  EXPECT_FALSE(s.tensor.is_plain());
  EXPECT_EQ(*ReadVector(s.tensor), (std::vector<float>{0.5, 1, -1}));
}

// llama.cpp's writer: w.reshape(heads, 2, D/2, cols).swapaxes(1, 2), so reading must give the original order back.
TEST(StoredTensorTest, RotaryRowsAreTurnedBack) {
  constexpr int kHeads = 2, kHead = 6, kCols = 2, kRows = kHeads * kHead;
  std::vector<float> original(kRows * kCols), file(kRows * kCols);
  for (int i = 0; i < kRows * kCols; ++i) original[i] = i;
  for (int h = 0; h < kHeads; ++h) {
    for (int half = 0; half < 2; ++half) {
      for (int i = 0; i < kHead / 2; ++i) {
        const int from = h * kHead + half * kHead / 2 + i, to = h * kHead + 2 * i + half;
        for (int c = 0; c < kCols; ++c) file[to * kCols + c] = original[from * kCols + c];
      }
    }
  }
  for (DType dtype : {DType::kF32, DType::kF16}) {
    Stored s(dtype, {kRows, kCols}, file);
    s.tensor.rotary_heads = kHeads;
    std::vector<float> out(kRows * kCols);
    ReadRows(s.tensor, 0, kRows, out.data());
    EXPECT_EQ(out, original);
    std::vector<float> part(5 * kCols);
    ReadRows(s.tensor, 4, 9, part.data());
    EXPECT_EQ(part, std::vector<float>(original.begin() + 8, original.begin() + 18));
    Stored bias(dtype, {kRows * kCols}, {});  // the same, one value a row
    bias.tensor.bytes = s.tensor.bytes.first(s.tensor.bytes.size() / 2);
    bias.tensor.shape = {kRows};
    bias.tensor.rotary_heads = kHeads;
    const std::vector<float> b = *ReadVector(bias.tensor);
    for (int r = 0; r < kRows; ++r) {
      const int h = r / kHead, j = r % kHead / (kHead / 2), i = r % (kHead / 2);
      EXPECT_EQ(b[r], file[h * kHead + 2 * i + j]);
    }
  }
}

TEST(StoredTensorTest, IntegersAreNotVectors) {
  StoredTensor t;
  t.name = "ids";
  t.dtype = DType::kI32;
  t.shape = {0};
  test::ExpectError(ReadVector(t).status(), absl::StatusCode::kInvalidArgument, "tensor 'ids': dtype I32");
}

}  // namespace
}  // namespace optiq
