#include "io/checkpoint.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "io/safetensors_writer.h"
#include "io/test_util.h"

namespace optiq {
namespace {

using test::Bytes;
using test::ExpectError;
using test::ScratchDir;
using test::Slurp;
using test::Spit;

const std::string kModels = std::string(OPTIQ_TEST_DATA) + "/goldens/models/";
constexpr auto kLoss = absl::StatusCode::kDataLoss;

// A file with one U8 tensor of one byte for each name.
void WriteShard(const std::string& path, const std::vector<std::string>& names,
                const SafetensorsMetadata& metadata = {}) {
  std::vector<TensorData> tensors;
  for (const std::string& name : names) tensors.push_back({{name, DType::kU8, {1}}, Bytes("x")});
  ASSERT_TRUE(WriteSafetensors(path, tensors, metadata).ok());
}

TEST(CheckpointTest, OpensAHuggingFaceModel) {
  auto model = Checkpoint::Open(kModels + "llama/");
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->path(), kModels + "llama");
  EXPECT_EQ((*model)->layout(), CheckpointLayout::kHuggingFace);
  EXPECT_EQ((*model)->config()["hidden_size"], 128);
  EXPECT_EQ((*model)->tensors().size(), 39u);
  EXPECT_EQ((*model)->files(), std::vector<std::string>{kModels + "llama/model.safetensors"});
  EXPECT_EQ((*model)->file_bytes(), std::filesystem::file_size(kModels + "llama/model.safetensors"));
  const StoredTensor* t = (*model)->Find("model.layers.0.mlp.up_proj.weight");
  ASSERT_NE(t, nullptr);
  EXPECT_EQ(t->ShapeString(), "[256, 128]");
  EXPECT_EQ(t->dtype, DType::kF16);
  (*model)->Prefetch(*t);
  (*model)->Release(*t);
  EXPECT_TRUE((*model)->Require("model.norm.weight").ok());
  ExpectError((*model)->Require("nope").status(), absl::StatusCode::kNotFound, "llama: tensor 'nope': missing");
  EXPECT_EQ(*(*model)->QuantizationOf("model.layers.0.mlp.up_proj"), std::nullopt);
  EXPECT_EQ((*model)->TextFiles(), (std::vector<std::string>{"chat_template.jinja", "generation_config.json",
                                                             "tokenizer.json", "tokenizer_config.json"}));
  EXPECT_EQ(*(*model)->ReadTextFile("chat_template.jinja"), Slurp(kModels + "llama/chat_template.jinja"));
  ExpectError((*model)->ReadTextFile("../llama/config.json").status(), absl::StatusCode::kNotFound, "no such file");
}

TEST(CheckpointTest, OpensMlxModelsAndFindsEveryFormat) {
  auto uniform = Checkpoint::Open(kModels + "llama-4bit");
  ASSERT_TRUE(uniform.ok()) << uniform.status();
  EXPECT_EQ((*uniform)->layout(), CheckpointLayout::kMlx);
  EXPECT_EQ(*(*uniform)->QuantizationOf("model.layers.3.mlp.up_proj"), (AffineFormat{4, 64}));
  EXPECT_EQ(*(*uniform)->QuantizationOf("model.layers.3.mlp.up_proj", 128), (AffineFormat{4, 64}));
  EXPECT_EQ(*(*uniform)->QuantizationOf("model.norm"), std::nullopt);

  auto mixed = Checkpoint::Open(kModels + "qwen3-mixed48");
  ASSERT_TRUE(mixed.ok()) << mixed.status();
  EXPECT_EQ(*(*mixed)->QuantizationOf("lm_head"), (AffineFormat{8, 64}));
  EXPECT_EQ(*(*mixed)->QuantizationOf("model.layers.0.mlp.up_proj"), (AffineFormat{3, 64}));
  EXPECT_EQ(*(*mixed)->QuantizationOf("model.layers.2.mlp.gate_proj"), (AffineFormat{5, 32}));
  EXPECT_EQ(*(*mixed)->QuantizationOf("model.layers.2.self_attn.q_proj"), (AffineFormat{6, 64}));
  EXPECT_EQ(*(*mixed)->QuantizationOf("model.layers.3.mlp.gate_proj"), (AffineFormat{4, 64}));
  // Every quantized module agrees with its entry.
  int quantized = 0;
  for (const StoredTensor& t : (*mixed)->tensors()) {
    if (!t.name.ends_with(".scales")) continue;
    auto format = (*mixed)->QuantizationOf(t.name.substr(0, t.name.size() - 7));
    ASSERT_TRUE(format.ok()) << format.status();
    EXPECT_TRUE(format->has_value());
    ++quantized;
  }
  EXPECT_GT(quantized, 20);
}

TEST(CheckpointTest, FingerprintDependsOnTheModelOnly) {
  ScratchDir dir;
  std::filesystem::copy(kModels + "llama", dir / "copy");
  auto fingerprint = [](const std::string& path) { return *(*Checkpoint::Open(path))->Fingerprint(); };
  const std::string first = fingerprint(kModels + "llama");
  EXPECT_EQ(first.size(), 64u);
  EXPECT_EQ(fingerprint(dir / "copy"), first);
  EXPECT_NE(fingerprint(kModels + "llama-4bit"), first);
  Spit(dir / "copy/tokenizer.json", Slurp(dir / "copy/tokenizer.json") + " ");
  EXPECT_NE(fingerprint(dir / "copy"), first);
}

class DirectoryTest : public ::testing::Test {
 protected:
  void SetUp() override { Spit(dir_ / "config.json", R"({"model_type":"llama"})"); }
  void Index(const std::string& weight_map) {
    Spit(dir_ / "model.safetensors.index.json", "{\"metadata\":{\"total_size\":1},\"weight_map\":" + weight_map + "}");
  }
  Status Open() { return Checkpoint::Open(dir_.path()).status(); }
  ScratchDir dir_;
};

TEST_F(DirectoryTest, ShardsByIndex) {
  WriteShard(dir_ / "model-00001-of-00002.safetensors", {"a", "c"});
  WriteShard(dir_ / "model-00002-of-00002.safetensors", {"b"});
  WriteShard(dir_ / "other.safetensors", {"a"});  // not named by the index: not part of the model
  const std::string one = "\"model-00001-of-00002.safetensors\"", two = "\"model-00002-of-00002.safetensors\"";
  Index("{\"a\":" + one + ",\"c\":" + one + ",\"b\":" + two + "}");
  auto model = Checkpoint::Open(dir_.path());
  ASSERT_TRUE(model.ok()) << model.status();
  ASSERT_EQ((*model)->tensors().size(), 3u);
  EXPECT_EQ((*model)->tensors()[1].name, "b");
  EXPECT_EQ((*model)->files().size(), 2u);

  Index("{\"a\":" + one + ",\"b\":" + two + "}");
  ExpectError(Open(), kLoss, "model-00001-of-00002.safetensors: tensor 'c': not listed in");
  Index("{\"a\":" + one + ",\"c\":" + two + ",\"b\":" + two + "}");
  ExpectError(Open(), kLoss, "tensor 'c': model.safetensors.index.json places it in model-00002");
  Index("{\"a\":" + one + ",\"c\":" + one + ",\"b\":" + two + ",\"d\":" + two + "}");
  ExpectError(Open(), kLoss, "model-00002-of-00002.safetensors: tensor 'd': missing");
  WriteShard(dir_ / "model-00002-of-00002.safetensors", {"a", "b"});
  Index("{\"a\":" + one + ",\"c\":" + one + ",\"b\":" + two + "}");
  ExpectError(Open(), kLoss, "tensor 'a'");
  std::filesystem::remove(dir_ / "model-00002-of-00002.safetensors");
  ExpectError(Open(), absl::StatusCode::kNotFound, "model-00002-of-00002.safetensors: the shard is missing");
}

TEST_F(DirectoryTest, ShardsWithoutIndex) {
  ExpectError(Open(), absl::StatusCode::kNotFound, "no model*.safetensors");
  WriteShard(dir_ / "model-00001-of-00002.safetensors", {"a"});
  ExpectError(Open(), absl::StatusCode::kNotFound, "1 of 2 shards");
  WriteShard(dir_ / "model-00002-of-00002.safetensors", {"b"}, {{"format", "mlx"}});
  auto model = Checkpoint::Open(dir_.path());
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->layout(), CheckpointLayout::kMlx);
  WriteShard(dir_ / "model-00002-of-00002.safetensors", {"a"});
  ExpectError(Open(), kLoss, "tensor 'a': defined in two files");
  std::filesystem::remove(dir_ / "model-00001-of-00002.safetensors");
  std::filesystem::remove(dir_ / "model-00002-of-00002.safetensors");
  Spit(dir_ / "pytorch_model.bin", "x");
  ExpectError(Open(), absl::StatusCode::kUnimplemented, "pytorch_model.bin");
}

TEST_F(DirectoryTest, AWholeModelBesideAStaleIndex) {
  WriteShard(dir_ / "model.safetensors", {"a"});
  Index(R"({"a":"model-00001-of-00002.safetensors"})");
  EXPECT_TRUE(Open().ok()) << Open();
}

TEST_F(DirectoryTest, IndexNamesStayInTheDirectory) {
  WriteShard(dir_ / "model.safetensors", {"a"});
  for (const char* name : {"../model.safetensors", "/etc/x.safetensors", "a\\\\b.safetensors", "..", "", "model.bin",
                           ".safetensors", "sub/model.safetensors", "a\\u0000.safetensors", "c:x.safetensors"}) {
    Index(fmt::format("{{\"a\":\"{}\"}}", name));
    ExpectError(Open(), kLoss, "is not the name of a .safetensors file");
  }
  Index("{\"a\":3}");
  ExpectError(Open(), kLoss, "must be a string");
  Index("{}");
  ExpectError(Open(), kLoss, "weight_map is empty");
  Index("[]");
  ExpectError(Open(), kLoss, "no object 'weight_map'");
  Spit(dir_ / "model.safetensors.index.json", "version https://git-lfs.github.com/spec/v1\n");
  ExpectError(Open(), kLoss, "git lfs pull");
}

TEST_F(DirectoryTest, OddFiles) {
  ASSERT_EQ(::mkfifo((dir_ / "model.safetensors").c_str(), 0600), 0);
  ExpectError(Open(), absl::StatusCode::kInvalidArgument, "not a regular file");
  std::filesystem::remove(dir_ / "model.safetensors");
  ASSERT_EQ(::mkdir((dir_ / "model.safetensors").c_str(), 0700), 0);
  ExpectError(Open(), absl::StatusCode::kInvalidArgument, "not a regular file");
  std::filesystem::remove(dir_ / "model.safetensors");
  ASSERT_EQ(::symlink("nowhere", (dir_ / "model.safetensors").c_str()), 0);
  ExpectError(Open(), absl::StatusCode::kNotFound, "model.safetensors: no such file");
  std::filesystem::remove(dir_ / "model.safetensors");
  WriteShard(dir_ / "blob", {"a"});
  ASSERT_EQ(::symlink("blob", (dir_ / "model.safetensors").c_str()), 0);  // as in the hub's cache
  EXPECT_TRUE(Open().ok()) << Open();
  Spit(dir_ / "blob", test::RawSafetensors("{}", ""));
  ExpectError(Open(), kLoss, "hold no tensors");
}

TEST_F(DirectoryTest, Configs) {
  WriteShard(dir_ / "model.safetensors", {"a"});
  Spit(dir_ / "config.json", "[]");
  ExpectError(Open(), absl::StatusCode::kInvalidArgument, "config.json: must be an object");
  Spit(dir_ / "config.json", "{");
  ExpectError(Open(), kLoss, "config.json: not valid JSON");
  Spit(dir_ / "config.json", R"({"quantization_config":{"quant_method":"gptq"}})");
  ExpectError(Open(), absl::StatusCode::kUnimplemented, "'gptq'");
  Spit(dir_ / "config.json", R"({"quantization":{"bits":9,"group_size":64}})");
  ExpectError(Open(), absl::StatusCode::kInvalidArgument, "field 'bits' is 9");
  Spit(dir_ / "config.json", "{}");
  EXPECT_TRUE(Open().ok());
  Spit(dir_ / "hf_quant_config.json", "{}");
  ExpectError(Open(), absl::StatusCode::kUnimplemented, "ModelOpt");
  std::filesystem::remove(dir_ / "config.json");
  ExpectError(Open(), absl::StatusCode::kNotFound, "no config.json");
  ExpectError(Checkpoint::Open(dir_ / "model.safetensors").status(), absl::StatusCode::kInvalidArgument,
              "give the directory");
  ExpectError(Checkpoint::Open(dir_ / "none").status(), absl::StatusCode::kNotFound, "none: no such file");
}

}  // namespace
}  // namespace optiq
