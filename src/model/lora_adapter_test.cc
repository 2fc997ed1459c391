#include "model/lora_adapter.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/json.h"
#include "io/checkpoint.h"
#include "io/mapped_file.h"
#include "io/safetensors.h"
#include "io/safetensors_writer.h"
#include "model/decoder.h"

namespace optiq {
namespace {

std::string Goldens() { return std::string(OPTIQ_TEST_DATA) + "/goldens/"; }

class LoraTest : public testing::Test {
 protected:
  void Open(const std::string& model, Products products) {
    auto checkpoint = Checkpoint::Open(Goldens() + "models/" + model);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    decoder_.reset();
    checkpoint_ = *std::move(checkpoint);
    auto decoder = Decoder::Load(*checkpoint_, &pool_);
    ASSERT_TRUE(decoder.ok()) << decoder.status();
    decoder_ = *std::move(decoder);
    decoder_->set_products(products);
  }
  std::unique_ptr<LoraAdapter> Load(const std::string& name) {
    auto adapter = LoraAdapter::Load(Goldens() + "lora/" + name, decoder_->weights());
    EXPECT_TRUE(adapter.ok()) << adapter.status();
    return adapter.ok() ? *std::move(adapter) : nullptr;
  }
  // Logits of all of `ids`, one pass per element of `adapters`, or one batch.
  std::vector<std::vector<float>> Run(const std::vector<int32_t>& ids, const std::vector<const LoraAdapter*>& adapters, bool batched) {
    std::vector<std::unique_ptr<KvCache>> caches;
    std::vector<Decoder::Input> inputs;
    for (size_t i = 0; i < adapters.size(); ++i) {
      caches.push_back(decoder_->MakeCache());
      inputs.push_back({.ids = std::span(ids).first(ids.size() - i % 3), .cache = caches.back().get(), .all_logits = true,
                        .kind = RowKind::kPrompt, .adapter = adapters[i]});
    }
    std::vector<std::vector<float>> out;
    std::vector<float> logits;
    if (!batched) {
      for (const auto& input : inputs) {
        EXPECT_TRUE(decoder_->ForwardBatch({&input, 1}, &logits).ok());
        out.push_back(logits);
      }
      return out;
    }
    EXPECT_TRUE(decoder_->ForwardBatch(inputs, &logits).ok());
    auto at = logits.begin();
    for (const auto& input : inputs) {
      const auto end = at + static_cast<std::ptrdiff_t>(input.ids.size() * decoder_->spec().vocab_size);
      out.emplace_back(at, end);
      at = end;
    }
    return out;
  }

  ThreadPool pool_{2};
  std::unique_ptr<Checkpoint> checkpoint_;
  std::unique_ptr<Decoder> decoder_;
};

TEST_F(LoraTest, LogitsEqualMlxLm) {
  Open("llama", Products::kF32);
  auto map = MappedFile::Open(Goldens() + "lora/logits.safetensors");
  ASSERT_TRUE(map.ok());
  auto tensors = ParseSafetensors((*map)->bytes(), "logits.safetensors", nullptr);
  ASSERT_TRUE(tensors.ok());
  std::map<std::string, const StoredTensor*> by_name;
  for (const StoredTensor& t : *tensors) by_name[t.name] = &t;
  std::vector<int32_t> ids(by_name["ids"]->shape[0]);
  std::memcpy(ids.data(), by_name["ids"]->bytes.data(), by_name["ids"]->bytes.size());
  for (const char* name : {"none", "a_mlx", "a_peft", "b_mlx", "b_peft"}) {
    const bool none = std::string(name) == "none";
    const auto adapter = none ? nullptr : Load(name);
    if (!none) EXPECT_EQ(adapter->modules(), name[0] == 'a' ? 12 : 6);
    const auto got = Run(ids, {adapter.get()}, false)[0];
    const StoredTensor* want = by_name[none ? "none" : std::string(1, name[0])];
    std::vector<float> row(want->elements());
    ReadRows(*want, 0, want->rows(), row.data());
    ASSERT_EQ(row.size(), got.size());
    float most = 0;
    for (size_t i = 0; i < row.size(); ++i) most = std::max(most, std::abs(row[i] - got[i]));
    // As between other f32 implementations (golden_test.cc).
    EXPECT_LT(most, 2e-4) << name;
  }
}

TEST_F(LoraTest, RowsOfABatchDoNotSeeEachOther) {
  for (const Products products : {Products::kFastFixed, Products::kF32Fixed}) {
    Open(products == Products::kF32Fixed ? "llama" : "llama-4bit", products);
    const auto a = Load("a_mlx"), b = Load("b_peft");
    const std::vector<int32_t> ids = {5, 9, 200, 31, 7, 7, 100, 3, 64, 501};
    const std::vector<const LoraAdapter*> adapters = {a.get(), nullptr, b.get(), a.get(), a.get(), nullptr};
    const auto alone = Run(ids, adapters, false), beside = Run(ids, adapters, true);
    EXPECT_EQ(alone, beside);
    EXPECT_EQ(Run(ids, {a.get(), nullptr}, true)[1], alone[1]);
      EXPECT_NE(Run(ids, {b.get()}, false)[0], alone[0]);
    EXPECT_GT(a->bytes(), 0);
  }
}

class LoraErrorTest : public LoraTest {
 protected:
  void SetUp() override {
    Open("llama", Products::kF32);
    directory_ = testing::TempDir() + "lora_error";
    std::filesystem::create_directories(directory_);
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  struct Tensor {
    std::string name;
    std::vector<int64_t> shape;
    float value = 0.5f;
  };
  void Write(const std::string& config, const std::vector<Tensor>& tensors, const std::string& file = "adapters.safetensors") {
    std::ofstream(directory_ + "/adapter_config.json") << config;
    std::vector<std::vector<float>> values;
    std::vector<TensorData> data;
    for (const Tensor& t : tensors) values.emplace_back(t.shape[0] * t.shape[1], t.value);
    for (size_t i = 0; i < tensors.size(); ++i) {
      data.push_back({{tensors[i].name, DType::kF32, tensors[i].shape}, std::as_bytes(std::span(values[i]))});
    }
    std::filesystem::remove(directory_ + "/" + file);
    ASSERT_TRUE(WriteSafetensors(directory_ + "/" + file, data, {}).ok());
  }
  void ExpectError(absl::StatusCode code, const std::string& part) {
    const auto adapter = LoraAdapter::Load(directory_, decoder_->weights());
    EXPECT_EQ(adapter.status().code(), code) << adapter.status();
    EXPECT_NE(Message(adapter.status()).find(part), std::string::npos) << adapter.status();
  }
  std::string directory_;
  const std::string mlx_ = R"({"fine_tune_type": "lora", "lora_parameters": {"rank": 2, "scale": 1.0}})";
  const std::string q_ = "model.layers.0.self_attn.q_proj";
};

TEST_F(LoraErrorTest, NamesTheTensor) {
  const std::vector<Tensor> good = {{q_ + ".lora_a", {128, 2}}, {q_ + ".lora_b", {2, 128}}};
  Write(mlx_, good);
  EXPECT_TRUE(LoraAdapter::Load(directory_, decoder_->weights()).ok());
  Write(mlx_, {good[0]});
  ExpectError(absl::StatusCode::kDataLoss, q_ + ".lora_b' is missing");
  Write(mlx_, {{q_ + ".lora_a", {127, 2}}, good[1]});
  ExpectError(absl::StatusCode::kDataLoss, q_ + ".lora_a' has shape [127, 2]");
  Write(mlx_, {good[0], {q_ + ".lora_b", {2, 64}}});
  ExpectError(absl::StatusCode::kDataLoss, q_ + ".lora_b' has shape [2, 64]");
  Write(mlx_, {{q_ + ".lora_a", {128, 3}}, {q_ + ".lora_b", {3, 128}}});
  ExpectError(absl::StatusCode::kDataLoss, "not of rank 2");
  Write(mlx_, {{"model.layers.9.self_attn.q_proj.lora_a", {128, 2}}, {"model.layers.9.self_attn.q_proj.lora_b", {2, 128}}});
  ExpectError(absl::StatusCode::kInvalidArgument, "model.layers.9.self_attn.q_proj.lora_a': the model has no linear layer");
  Write(mlx_, {{"vision_tower." + q_ + ".lora_a", {128, 2}}, {"vision_tower." + q_ + ".lora_b", {2, 128}}});
  ExpectError(absl::StatusCode::kInvalidArgument, "vision_tower");
  Write(mlx_, {good[0], good[1], {q_ + ".m", {1, 128}}});
  ExpectError(absl::StatusCode::kUnimplemented, q_ + ".m");
  Write(mlx_, {{q_ + ".lora_a", {128, 2}, INFINITY}, good[1]});
  ExpectError(absl::StatusCode::kDataLoss, "not finite");
  Write(mlx_, {good[0], good[1], {"base_model.model." + q_ + ".lora_a", {128, 2}}, {"base_model.model." + q_ + ".lora_b", {2, 128}}});
  ExpectError(absl::StatusCode::kDataLoss, "twice");
  std::ofstream(directory_ + "/adapters.safetensors") << "broken";
  ExpectError(absl::StatusCode::kDataLoss, "adapters.safetensors");
  std::filesystem::remove(directory_ + "/adapters.safetensors");
  ExpectError(absl::StatusCode::kNotFound, "adapters.safetensors");
}

TEST_F(LoraErrorTest, RefusesOtherKinds) {
  const std::vector<Tensor> mlx = {{q_ + ".lora_a", {128, 2}}, {q_ + ".lora_b", {2, 128}}};
  Write(R"({"fine_tune_type": "dora", "lora_parameters": {"rank": 2, "scale": 1.0}})", mlx);
  ExpectError(absl::StatusCode::kUnimplemented, "fine_tune_type");
  Write(R"({"fine_tune_type": "lora"})", mlx);
  ExpectError(absl::StatusCode::kDataLoss, "lora_parameters");
  Write(R"({"lora_parameters": {"rank": 2}})", mlx);
  ExpectError(absl::StatusCode::kDataLoss, "scale");
  Write("[1]", mlx);
  ExpectError(absl::StatusCode::kDataLoss, "adapter_config.json");
  const std::vector<Tensor> peft = {{"base_model.model." + q_ + ".lora_A.weight", {2, 128}},
                                    {"base_model.model." + q_ + ".lora_B.weight", {128, 2}}};
  const std::string file = "adapter_model.safetensors";
  Write(R"({"peft_type": "LORA", "r": 2, "lora_alpha": 4})", peft, file);
  EXPECT_TRUE(LoraAdapter::Load(directory_, decoder_->weights()).ok());
  Write(R"({"peft_type": "IA3", "r": 2, "lora_alpha": 4})", peft, file);
  ExpectError(absl::StatusCode::kUnimplemented, "peft_type");
  Write(R"({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_dora": true})", peft, file);
  ExpectError(absl::StatusCode::kUnimplemented, "use_dora");
  Write(R"({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "all"})", peft, file);
  ExpectError(absl::StatusCode::kUnimplemented, "bias");
  Write(R"({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "alpha_pattern": {"q_proj": 3}})", peft, file);
  ExpectError(absl::StatusCode::kUnimplemented, "alpha_pattern");
  Write(R"({"peft_type": "LORA", "r": 2})", peft, file);
  ExpectError(absl::StatusCode::kDataLoss, "lora_alpha");
  Write(R"({"peft_type": "LORA", "r": 0, "lora_alpha": 4})", peft, file);
  ExpectError(absl::StatusCode::kInvalidArgument, "'r'");
}

}  // namespace
}  // namespace optiq
