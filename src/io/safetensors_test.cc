#include "io/safetensors.h"

#include <gtest/gtest.h>

#include "base/limits.h"
#include "io/test_util.h"

namespace optiq {
namespace {

using test::Bytes;
using test::RawSafetensors;

StatusOr<std::vector<StoredTensor>> Parse(const std::string& file,
                                          std::map<std::string, std::string>* metadata = nullptr) {
  return ParseSafetensors(Bytes(file), "f", metadata);
}

TEST(SafetensorsTest, ReadsTensorsInTheOrderOfTheirData) {
  const std::string file = RawSafetensors(
      R"({"b":{"dtype":"F32","shape":[2,1],"data_offsets":[2,10]},"__metadata__":{"format":"mlx","k":""},
          "a":{"shape":[1],"data_offsets":[0,2],"dtype":"BF16"},"none":{"dtype":"I8","shape":[3,0],"data_offsets":[2,2]},
          "s":{"dtype":"U8","shape":[],"data_offsets":[10,11]}}   )",
      "0123456789X");
  std::map<std::string, std::string> metadata;
  auto tensors = Parse(file, &metadata);
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_EQ(tensors->size(), 4u);
  EXPECT_EQ((*tensors)[0].name, "a");
  EXPECT_EQ((*tensors)[1].name, "none");
  EXPECT_EQ((*tensors)[2].name, "b");
  EXPECT_EQ((*tensors)[2].dtype, DType::kF32);
  EXPECT_EQ((*tensors)[2].shape, (std::vector<int64_t>{2, 1}));
  EXPECT_EQ(static_cast<char>((*tensors)[2].bytes[0]), '2');
  EXPECT_EQ((*tensors)[2].bytes.size(), 8u);
  EXPECT_TRUE((*tensors)[3].shape.empty());
  EXPECT_EQ(static_cast<char>((*tensors)[3].bytes[0]), 'X');
  EXPECT_EQ(metadata, (std::map<std::string, std::string>{{"format", "mlx"}, {"k", ""}}));
}

TEST(SafetensorsTest, AnEmptyFileOfTensorsIsValid) {
  auto tensors = Parse(RawSafetensors("{}", ""));
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  EXPECT_TRUE(tensors->empty());
}

struct Case {
  std::string file;
  std::string message;
};

void ExpectDataLoss(const std::vector<Case>& cases) {
  for (const Case& c : cases) {
    SCOPED_TRACE(c.message);
    test::ExpectError(Parse(c.file).status(), absl::StatusCode::kDataLoss, c.message);
  }
}

// A header of one tensor 'x' with the given fields; 4 bytes of data.
std::string OneTensor(const std::string& fields) { return RawSafetensors("{\"x\":{" + fields + "}}", "0123"); }

TEST(SafetensorsTest, RefusesBadFrames) {
  std::string huge(16, '\xff'), too_long = RawSafetensors("{}", ""), limit = std::string(16, '\0');
  too_long[0] = 3;
  for (int i = 0; i < 8; ++i) limit[i] = static_cast<char>((limits::kSafetensorsHeaderBytes + 1) >> (8 * i));
  ExpectDataLoss({{"", "too short"},
                  {"1234567", "too short"},
                  {huge, "more than the limit"},
                  {limit, "more than the limit"},
                  {too_long, "header of 3 bytes in a file of 10; is the download complete?"},
                  {RawSafetensors("", ""), "must start with '{'"},
                  {RawSafetensors("[]", ""), "must start with '{'"},
                  {RawSafetensors(" {}", ""), "must start with '{'"},
                  {RawSafetensors("\xef\xbb\xbf{}", ""), "must start with '{'"},
                  {RawSafetensors("{", ""), "not valid JSON"},
                  {RawSafetensors("{}x", ""), "not valid JSON at byte 3"},
                  {RawSafetensors(std::string("{}\0{", 4), ""), "NUL"},
                  {RawSafetensors("{\"\xff\":{}}", ""), "not valid JSON"},
                  {RawSafetensors("{}", "1"), "1 bytes after the last tensor"},
                  {"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"},
                  {"<!DOCTYPE html><html>", "web page"}});
}

TEST(SafetensorsTest, RefusesBadHeaders) {
  const std::string ok = R"("dtype":"U8","shape":[4],"data_offsets":[0,4])";
  ASSERT_TRUE(Parse(OneTensor(ok)).ok());
  ExpectDataLoss({
      {RawSafetensors("{\"x\":{" + ok + "},\"x\":{" + ok + "}}", "0123"), "tensor 'x': defined twice"},
      {RawSafetensors("{\"\":{" + ok + "}}", "0123"), "name is empty"},
      {RawSafetensors("{\"a\\u0000b\":{" + ok + "}}", "0123"), "tensor 'a?b': the name contains control characters"},
      {RawSafetensors("{\"" + std::string(1025, 'n') + "\":{" + ok + "}}", "0123"), "longer than 1024 bytes"},
      {RawSafetensors("{\"x\":[]}", ""), "tensor 'x': must be an object, not an array"},
      {RawSafetensors("{\"x\":3}", ""), "tensor 'x': must be an object, not a number"},
      {RawSafetensors("{\"x\":{\"dtype\":{}}}", ""), "dtype must be a string, not an object"},
      {RawSafetensors("{\"x\":" + std::string(100000, '['), ""), "must be an object, not an array"},
      {RawSafetensors("{\"x\":{\"shape\":" + std::string(100000, '['), ""), "the shape holds an array"},
      {RawSafetensors("{\"__metadata__\":{\"a\":1}}", ""), "__metadata__: the value of 'a' must be a string"},
      {RawSafetensors("{\"__metadata__\":{\"a\":{}}}", ""), "__metadata__: the value of 'a' must be a string"},
      {RawSafetensors("{\"__metadata__\":{\"a\":\"\",\"a\":\"\"}}", ""), "'a' appears twice"},
      {RawSafetensors("{\"__metadata__\":{},\"__metadata__\":{}}", ""), "__metadata__ appears twice"},
      {OneTensor(R"("dtype":"U8","shape":[4])"), "missing"},
      {OneTensor(ok + ",\"dtype\":\"U8\""), "the field dtype appears twice"},
      {OneTensor(ok + ",\"extra\":1"), "unknown field 'extra'"},
      {OneTensor(R"("dtype":"U9","shape":[4],"data_offsets":[0,4])"), "unknown dtype 'U9'"},
      {OneTensor(R"("dtype":"Q4_0","shape":[4],"data_offsets":[0,4])"), "unknown dtype 'Q4_0'"},
      {OneTensor(R"("dtype":8,"shape":[4],"data_offsets":[0,4])"), "dtype must be a string"},
      {OneTensor(R"("dtype":"U8","shape":4,"data_offsets":[0,4])"), "shape must be an array"},
      {OneTensor(R"("dtype":"U8","shape":["4"],"data_offsets":[0,4])"), "the shape holds a string"},
      {OneTensor(R"("dtype":"U8","shape":[-4],"data_offsets":[0,4])"), "the shape holds a negative number"},
      {OneTensor(R"("dtype":"U8","shape":[4.0],"data_offsets":[0,4])"), "the shape holds a fraction"},
      {OneTensor(R"("dtype":"U8","shape":[1e308],"data_offsets":[0,4])"), "the shape holds a fraction"},
      {OneTensor(R"("dtype":"U8","shape":[1e999],"data_offsets":[0,4])"), "not valid JSON"},
      {OneTensor(R"("dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,4])"), "above 63 bits"},
      {OneTensor(R"("dtype":"U8","shape":[99999999999999999999],"data_offsets":[0,4])"), "above 64 bits"},
      {OneTensor(R"("dtype":"U8","shape":[1,1,1,1,1,1,1,1,4],"data_offsets":[0,4])"), "more than 8 dimensions"},
      {OneTensor(R"("dtype":"U8","shape":[4],"data_offsets":[0])"), "must hold two numbers"},
      {OneTensor(R"("dtype":"U8","shape":[4],"data_offsets":[0,4,4])"), "must hold two numbers"},
      {OneTensor(R"("dtype":"U8","shape":[4],"data_offsets":{"0":4})"), "data_offsets must be an array"},
      {OneTensor(R"("dtype":"U8","shape":[4],"data_offsets":[0,null])"), "data_offsets holds null"},
  });
}

TEST(SafetensorsTest, RefusesBadExtents) {
  auto two = [](const std::string& a, const std::string& b) {
    return RawSafetensors(fmt::format("{{\"a\":{{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[{}]}},"
                                      "\"b\":{{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[{}]}}}}",
                                      a, b),
                          "0123");
  };
  ASSERT_TRUE(Parse(two("2,4", "0,2")).ok());
  ExpectDataLoss({
      {two("0,2", "1,3"), "tensor 'b': its data overlap"},
      {two("0,2", "0,2"), "overlap"},
      {two("0,2", "3,5"), "tensor 'b': 1 unused bytes before"},
      {two("1,3", "3,5"), "tensor 'a': 1 unused bytes before"},
      {two("0,2", "4,2"), "tensor 'b': data_offsets end before they begin"},
      {OneTensor(R"("dtype":"U8","shape":[3],"data_offsets":[0,3])"), "1 bytes after the last tensor"},
      {OneTensor(R"("dtype":"U8","shape":[5],"data_offsets":[0,5])"),
       "tensor 'x': ends 1 bytes past the end of the file"},
      {OneTensor(R"("dtype":"U16","shape":[4],"data_offsets":[0,4])"),
       "shape [4] of U16 takes 8 bytes, but data_offsets span 4"},
      {OneTensor(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4])"), "overflows"},
      {OneTensor(R"("dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,4])"), "overflows"},
      {OneTensor(R"("dtype":"U8","shape":[4],"data_offsets":[18446744073709551612,18446744073709551615])"), "span 3"},
      {OneTensor(R"("dtype":"U8","shape":[4],"data_offsets":[18446744073709551611,18446744073709551615])"),
       "unused bytes"},
      {OneTensor(R"("dtype":"U8","shape":[9007199254740993],"data_offsets":[0,9007199254740993])"), "past the end"},
  });
}

TEST(SafetensorsTest, KnownForeignDTypesAreUnsupportedNotDamaged) {
  test::ExpectError(Parse(OneTensor(R"("dtype":"F8_E8M0","shape":[4],"data_offsets":[0,4])")).status(),
                    absl::StatusCode::kUnimplemented, "f: tensor 'x': dtype F8_E8M0 is not supported");
}

TEST(SafetensorsTest, TensorCountIsLimited) {
  std::string header = "{";
  for (size_t i = 0; i <= limits::kTensorsPerFile; ++i) {
    header += fmt::format("{}\"{}\":{{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", i ? "," : "", i);
  }
  ExpectDataLoss({{RawSafetensors(header + "}", ""), "more than 1000000 tensors"}});
}

}  // namespace
}  // namespace optiq
