#include "io/quantization_config.h"

#include <gtest/gtest.h>

#include "io/test_util.h"

namespace optiq {
namespace {

using test::ExpectError;

StoredTensor Tensor(DType dtype, std::vector<int64_t> shape) {
  StoredTensor t;
  t.dtype = dtype;
  t.shape = std::move(shape);
  return t;
}

// A module of 8 outputs and `in` inputs, and what goes with it.
struct Module {
  Module(int in, AffineFormat f, DType dtype = DType::kBF16)
      : weight(Tensor(DType::kU32, {8, in * f.bits / 32})),
        scales(Tensor(dtype, {8, in / f.group_size})),
        biases(Tensor(dtype, {8, in / f.group_size})) {}
  ModuleTensors tensors() const { return {&weight, &scales, &biases}; }
  StoredTensor weight, scales, biases;
};

Json Config(const std::string& quantization) { return {{"quantization", Json::parse(quantization)}}; }

TEST(CheckQuantizationSectionTest, AcceptsWhatMlxLmWrites) {
  EXPECT_TRUE(CheckQuantizationSection(Json::object(), "c").ok());
  EXPECT_TRUE(CheckQuantizationSection(Json{{"quantization_config", nullptr}}, "c").ok());
  EXPECT_TRUE(CheckQuantizationSection(Json{{"quantization_config", Json::object()}}, "c").ok());
  Json config = Config(R"({"group_size":64,"bits":4,"mode":"affine","linear_class":"x","lm_head":true,
                           "model.layers.0.x":{"bits":8,"group_size":32,"mode":"affine"},"model.layers.1.x":false,
                           "model.layers.2.x":{"bits":3}})");
  EXPECT_TRUE(CheckQuantizationSection(config, "c").ok());
  config["quantization_config"] = config["quantization"];  // the copy for the hub's page is no legacy section
  EXPECT_TRUE(CheckQuantizationSection(config, "c").ok());
}

TEST(CheckQuantizationSectionTest, NamesTheWrongField) {
  const struct {
    const char* section;
    absl::StatusCode code;
    const char* message;
  } kCases[] = {
      {"5", absl::StatusCode::kInvalidArgument, "c: quantization: must be an object"},
      {"{}", absl::StatusCode::kInvalidArgument, "field 'bits' is missing"},
      {R"({"bits":4})", absl::StatusCode::kInvalidArgument, "field 'group_size' is missing"},
      {R"({"bits":7,"group_size":64})", absl::StatusCode::kInvalidArgument,
       "field 'bits' is 7; it must be one of 2, 3, 4, 5, 6, 8"},
      {R"({"bits":"4","group_size":64})", absl::StatusCode::kInvalidArgument, "field 'bits' must be an integer"},
      {R"({"bits":4,"group_size":48})", absl::StatusCode::kInvalidArgument,
       "field 'group_size' is 48; it must be one of 32, 64, 128"},
      {R"({"bits":4,"group_size":0})", absl::StatusCode::kInvalidArgument, "field 'group_size' is 0"},
      {R"({"bits":4,"group_size":32,"mode":"mxfp4"})", absl::StatusCode::kUnimplemented, "mode 'mxfp4'"},
      {R"({"bits":4,"group_size":64,"a.b":{"bits":1}})", absl::StatusCode::kInvalidArgument,
       "quantization['a.b']: field 'bits' is 1"},
      {R"({"bits":4,"group_size":64,"a.b":7})", absl::StatusCode::kInvalidArgument,
       "quantization['a.b']: must be an object"},
      {R"({"bits":4,"group_size":64,"a.b":{"mode":"nvfp4"}})", absl::StatusCode::kUnimplemented, "'nvfp4'"},
  };
  for (const auto& c : kCases) ExpectError(CheckQuantizationSection(Config(c.section), "c"), c.code, c.message);
}

TEST(CheckQuantizationSectionTest, LegacyFormatsAreNamed) {
  for (const char* method : {"gptq", "awq", "fp8", "bitnet", "mxfp4", "compressed-tensors", "modelopt"}) {
    const Json section = {{"quant_method", method}, {"bits", 4}};
    ExpectError(CheckQuantizationSection(Json{{"quantization_config", section}}, "c"), absl::StatusCode::kUnimplemented,
                method);
    ExpectError(CheckQuantizationSection(Json{{"text_config", {{"quantization_config", section}}}}, "c"),
                absl::StatusCode::kUnimplemented, method);
  }
  ExpectError(CheckQuantizationSection(Json{{"quantization_config", {{"bits", 4}}}}, "c"),
              absl::StatusCode::kInvalidArgument, "'quant_method' is missing");
}

TEST(ResolveQuantizationTest, EntryThenShapes) {
  const Json config = Config(R"({"group_size":64,"bits":4,"a":{"bits":8,"group_size":32},"f":false,"t":true,"d":{}})");
  const AffineFormat global{4, 64}, eight{8, 32};
  EXPECT_EQ(*ResolveQuantization(config, "a", Module(256, eight).tensors(), 0), eight);
  EXPECT_EQ(*ResolveQuantization(config, "t", Module(256, global).tensors(), 0), global);
  EXPECT_EQ(*ResolveQuantization(config, "d", Module(256, global).tensors(), 0), global);
  EXPECT_EQ(*ResolveQuantization(config, "other", Module(256, global).tensors(), 0), global);
  const StoredTensor dense = Tensor(DType::kBF16, {8, 256});
  EXPECT_EQ(*ResolveQuantization(config, "f", {&dense, nullptr, nullptr}, 0), std::nullopt);
  EXPECT_EQ(*ResolveQuantization(config, "other", {&dense, nullptr, nullptr}, 0), std::nullopt);
  EXPECT_EQ(*ResolveQuantization(config, "other", {}, 0), std::nullopt);
}

TEST(ResolveQuantizationTest, InputsDecideWithoutAnEntryAsInMlxLm) {
  // 4 bits in groups of 64 and 8 bits in groups of 32 have the same ratio of words to scales.
  const Json config = Config(R"({"group_size":64,"bits":4})");
  for (int bits : {2, 3, 4, 5, 6, 8}) {
    for (int group : {32, 64, 128}) {
      const AffineFormat format{bits, group};
      EXPECT_EQ(*ResolveQuantization(config, "m", Module(256, format).tensors(), 256), format);
    }
  }
  EXPECT_EQ(*ResolveQuantization(config, "m", Module(256, {5, 64}).tensors(), 0),
            (AffineFormat{5, 64}));  // the only fit
  ExpectError(ResolveQuantization(config, "m", Module(256, {3, 64}).tensors(), 0).status(),
              absl::StatusCode::kInvalidArgument, "several formats");
  ExpectError(ResolveQuantization(config, "m", Module(256, {4, 64}).tensors(), 512 + 64).status(),
              absl::StatusCode::kDataLoss, "fit no affine format of 576 inputs");
}

TEST(ResolveQuantizationTest, RefusesWhatDisagrees) {
  const Json config = Config(R"({"group_size":64,"bits":4,"a":{"bits":8,"group_size":64},"f":false})");
  const auto resolve = [&](const char* path, const ModuleTensors& t) {
    return ResolveQuantization(config, path, t, 0).status();
  };
  const auto loss = absl::StatusCode::kDataLoss, invalid = absl::StatusCode::kInvalidArgument;
  ExpectError(resolve("a", Module(256, {4, 64}).tensors()), invalid, "quantization['a']: 8 bits in groups of 64, but");
  ExpectError(resolve("f", Module(256, {4, 64}).tensors()), invalid, "is false, but the file holds 'f.scales'");
  const StoredTensor dense = Tensor(DType::kBF16, {8, 256});
  ExpectError(resolve("a", {&dense, nullptr, nullptr}), invalid, "holds no 'a.scales'");
  ExpectError(ResolveQuantization(Json::object(), "m", Module(256, {4, 64}).tensors(), 0).status(), invalid,
              "no 'quantization' field");

  Module m(256, {4, 64});
  ModuleTensors t = m.tensors();
  t.biases = nullptr;
  ExpectError(resolve("m", t), loss, "tensor 'm.biases': missing");
  m.weight.dtype = DType::kI32;
  ExpectError(resolve("m", m.tensors()), loss, "expected U32");
  m = Module(256, {4, 64}, DType::kU8);
  ExpectError(resolve("m", m.tensors()), absl::StatusCode::kUnimplemented, "only affine");
  m = Module(256, {4, 64});
  m.biases.dtype = DType::kF32;
  ExpectError(resolve("m", m.tensors()), loss, "dtype F32, but scales are BF16");
  m = Module(256, {4, 64});
  m.biases.shape = {8, 3};
  ExpectError(resolve("m", m.tensors()), loss, "shape [8, 3], but scales are [8, 4]");
  m = Module(256, {4, 64});
  m.scales.shape = m.biases.shape = {9, 4};
  ExpectError(resolve("m", m.tensors()), loss, "does not go with a weight of [8, 32]");
  m.scales.shape = m.biases.shape = {8, 3};
  ExpectError(resolve("m", m.tensors()), loss, "fit no affine format");
  m.scales.shape = m.biases.shape = {8, 0};
  ExpectError(resolve("m", m.tensors()), loss, "empty rows");
  m.weight.shape = {32};
  m.scales.shape = m.biases.shape = {4};
  ExpectError(resolve("m", m.tensors()), loss, "does not go with");
}

}  // namespace
}  // namespace optiq
