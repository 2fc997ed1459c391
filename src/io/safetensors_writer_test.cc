#include "io/safetensors_writer.h"

#include <gtest/gtest.h>

#include "io/checkpoint.h"
#include "io/model_writer.h"
#include "io/safetensors.h"
#include "io/test_util.h"

namespace optiq {
namespace {

using test::Bytes;
using test::ExpectError;
using test::ScratchDir;
using test::Slurp;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

TEST(SafetensorsWriterTest, RoundTripInAnyOrderAndPieces) {
  ScratchDir dir;
  const std::string path = dir / "f.safetensors";
  const std::string odd = "abc", words = "0123456789abcdef";
  auto writer = SafetensorsWriter::Create(path,
                                          {{"odd \"name\" \u00fc", DType::kU8, {3}},
                                           {"words", DType::kU32, {2, 2}},
                                           {"none", DType::kF32, {0, 5}},
                                           {"scalar", DType::kBF16, {}}},
                                          {{"format", "mlx"}});
  ASSERT_TRUE(writer.ok()) << writer.status();
  EXPECT_EQ((*writer)->missing_bytes(), 3u + 16 + 2);
  ASSERT_TRUE((*writer)->Append("scalar", Bytes("zz")).ok());
  ASSERT_TRUE((*writer)->Append("words", Bytes(words.substr(0, 5))).ok());
  ASSERT_TRUE((*writer)->Append("odd \"name\" \u00fc", Bytes(odd)).ok());
  EXPECT_FALSE(std::filesystem::exists(path));
  ExpectError((*writer)->Finish(), absl::StatusCode::kFailedPrecondition, "tensor 'words': 11 bytes are missing");
  ExpectError((*writer)->Append("words", Bytes(words)), kInvalid, "tensor 'words': 5 bytes more");
  ExpectError((*writer)->Append("other", Bytes("x")), kInvalid, "tensor 'other': was not declared");
  ASSERT_TRUE((*writer)->Append("words", Bytes(words.substr(5))).ok());
  ASSERT_TRUE((*writer)->Finish().ok());
  EXPECT_FALSE((*writer)->Finish().ok());
  EXPECT_FALSE(std::filesystem::exists(path + ".tmp"));

  const std::string file = Slurp(path);
  std::map<std::string, std::string> metadata;
  auto tensors = ParseSafetensors(Bytes(file), path, &metadata);
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  EXPECT_EQ(metadata, (SafetensorsMetadata{{"format", "mlx"}}));
  ASSERT_EQ(tensors->size(), 4u);
  for (const StoredTensor& t : *tensors) {
    const size_t offset = reinterpret_cast<const char*>(t.bytes.data()) - file.data();
    EXPECT_EQ(offset % DTypeBlockBytes(t.dtype), 0u) << t.name;
    if (t.name == "words") {
      EXPECT_EQ(file.substr(offset, 16), words);
    }
    if (t.name == "scalar") {
      EXPECT_EQ(file.substr(offset, 2), "zz");
    }
    if (t.name.starts_with("odd")) {
      EXPECT_EQ(file.substr(offset, 3), odd);
    }
  }
}

TEST(SafetensorsWriterTest, RefusesImpossibleDeclarations) {
  ScratchDir dir;
  const auto create = [&](std::vector<TensorSpec> specs) {
    return SafetensorsWriter::Create(dir / "f", specs, {}).status();
  };
  ExpectError(create({{"a", DType::kU8, {1}}, {"a", DType::kU8, {1}}}), kInvalid, "tensor 'a': declared twice");
  ExpectError(create({{"", DType::kU8, {1}}}), kInvalid, "cannot be written");
  ExpectError(create({{"a", DType::kQ4_0, {32}}}), kInvalid, "cannot be written as Q4_0");
  ExpectError(create({{"a", DType::kU8, {-1}}}), kInvalid, "cannot be written");
  ExpectError(create({{"a", DType::kU8, {int64_t{1} << 62}}}), kInvalid, "too large");
  ExpectError(create({{"a", DType::kU8, {int64_t{1} << 60}}}), absl::StatusCode::kResourceExhausted, "no space: need ");
  ExpectError(SafetensorsWriter::Create(dir / "no/f", {}, {}).status(), absl::StatusCode::kNotFound,
              "no such directory");
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
}

TEST(SafetensorsWriterTest, AnUnfinishedFileLeavesNothing) {
  ScratchDir dir;
  {
    auto writer = SafetensorsWriter::Create(dir / "f", {{"a", DType::kU8, {2}}}, {});
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE((*writer)->Append("a", Bytes("1")).ok());
  }
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
}

TEST(PlanShardsTest, CutsAsMlxLmDoes) {
  auto spec = [](std::string name, int64_t n) { return TensorSpec{std::move(name), DType::kU8, {n}}; };
  auto names = [](const std::vector<Shard>& shards) {
    std::string out;
    for (const Shard& s : shards) {
      for (const TensorSpec& t : s.tensors) out += t.name;
      out += fmt::format("={} ", s.bytes);
    }
    return out;
  };
  auto shards = PlanShards({spec("a", 6), spec("b", 4), spec("c", 1), spec("d", 25), spec("e", 0), spec("f", 3)}, 10);
  ASSERT_TRUE(shards.ok());
  EXPECT_EQ(names(*shards), "ab=10 c=1 d=25 ef=3 ");
  EXPECT_EQ((*shards)[3].file_name, "model-00004-of-00004.safetensors");
  shards = PlanShards({spec("a", 6)}, 10);
  EXPECT_EQ((*shards)[0].file_name, "model.safetensors");
}

TEST(ModelWriterTest, WritesWhatOpensAgain) {
  for (uint64_t max_bytes : {uint64_t{1} << 30, uint64_t{10}}) {
    ScratchDir dir;
    test::Spit(dir / "config.json", "{}");
    test::Spit(dir / "model-00001-of-00009.safetensors", "left by an earlier run");
    test::Spit(dir / "model.safetensors.index.json", "left too");
    ModelWriterOptions options;
    options.max_shard_bytes = max_bytes;
    options.total_parameters = 77;
    auto writer = ModelWriter::Create(
        dir.path(), {{"z", DType::kU8, {8}}, {"empty", DType::kU8, {0}}, {"a", DType::kU32, {2}}}, options);
    ASSERT_TRUE(writer.ok()) << writer.status();
    EXPECT_EQ((*writer)->total_bytes(), 16u);
    ASSERT_TRUE((*writer)->Append("a", Bytes("1234")).ok());
    ExpectError((*writer)->Append("b", Bytes("1234")), kInvalid, "tensor 'b': was not declared");
    ASSERT_TRUE((*writer)->Append("z", Bytes("ABCDEFGH")).ok());
    ASSERT_TRUE((*writer)->Append("a", Bytes("5678")).ok());
    ASSERT_TRUE((*writer)->Finish().ok());

    auto model = Checkpoint::Open(dir.path());
    ASSERT_TRUE(model.ok()) << model.status();
    EXPECT_EQ((*model)->layout(), CheckpointLayout::kMlx);
    EXPECT_EQ((*model)->files().size(), max_bytes == 10 ? 2u : 1u);
    const StoredTensor* a = (*model)->Find("a");
    ASSERT_NE(a, nullptr);
    EXPECT_EQ(std::string(reinterpret_cast<const char*>(a->bytes.data()), 8), "12345678");
    const Json index = Json::parse(Slurp(dir / "model.safetensors.index.json"));
    EXPECT_EQ(index["metadata"]["total_size"], 16);
    EXPECT_EQ(index["metadata"]["total_parameters"], 77);
    EXPECT_EQ(index["weight_map"].size(), 3u);
  }
}

TEST(ModelWriterTest, MissingDataIsAnError) {
  ScratchDir dir;
  auto writer = ModelWriter::Create(dir.path(), {{"a", DType::kU8, {8}}});
  ASSERT_TRUE(writer.ok());
  ExpectError((*writer)->Finish(), absl::StatusCode::kFailedPrecondition, "tensor 'a': 8 bytes are missing");
  ExpectError(ModelWriter::Create(dir.path(), {}).status(), kInvalid, "no tensors");
}

}  // namespace
}  // namespace optiq
