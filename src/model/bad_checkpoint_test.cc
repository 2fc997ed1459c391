// Checkpoints of Gemma 4 and of mixtures of experts that contradict themselves: one clear error each.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include "base/file.h"
#include "io/safetensors_writer.h"
#include "model/decoder.h"

namespace optiq {
namespace {

namespace fs = std::filesystem;
const std::string kModels = std::string(OPTIQ_TEST_DATA) + "/goldens/models/";

using Tensors = std::vector<TensorData>;

class BadCheckpointTest : public testing::Test {
 protected:
  BadCheckpointTest() : dir_(fs::temp_directory_path() / fmt::format("optiq_bad_{}", getpid())) { fs::create_directory(dir_); }
  ~BadCheckpointTest() override { fs::remove_all(dir_); }

  // A copy of a golden with its config and tensors changed; tensors go by the names our reader gives them.
  Status Load(const std::string& golden, const std::function<void(Json*)>& edit_config,
              const std::function<void(Tensors*)>& edit_tensors = nullptr) {
    const std::unique_ptr<Checkpoint> source = *Checkpoint::Open(kModels + golden);
    Json config = source->config();
    edit_config(&config);
    std::ofstream(dir_ / "config.json") << config.dump();
    Tensors tensors;
    for (const StoredTensor& t : source->tensors()) tensors.push_back({{t.name, t.dtype, t.shape}, t.bytes});
    if (edit_tensors != nullptr) edit_tensors(&tensors);
    EXPECT_TRUE(WriteSafetensors((dir_ / "model.safetensors").string(), tensors, {{"format", "mlx"}}).ok());
    auto checkpoint = Checkpoint::Open(dir_.string());
    if (!checkpoint.ok()) return checkpoint.status();
    return Decoder::Load(**checkpoint, &pool_).status();
  }

  void ExpectError(const Status& status, const std::vector<std::string>& parts) {
    ASSERT_FALSE(status.ok()) << "wanted: " << parts[0];
    const std::string message(status.message());
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    for (const std::string& part : parts) EXPECT_NE(message.find(part), std::string::npos) << "'" << part << "' not in: " << message;
  }

  fs::path dir_;
  ThreadPool pool_{1};
};

Json* Text(Json* config) { return &(*config)["text_config"]; }

TEST_F(BadCheckpointTest, TheCopiesLoad) {
  for (const char* name : {"gemma4_e2b", "gemma4_26b_moe", "qwen3_moe", "qwen3_moe-mixed48", "lfm2"}) {
    const Status status = Load(name, [](Json*) {});
    EXPECT_TRUE(status.ok()) << status;
  }
}

TEST_F(BadCheckpointTest, NumberOfExperts) {
  ExpectError(Load("gemma4_26b_moe", [](Json* c) { (*Text(c))["num_experts"] = 7; }), {"router.per_expert_scale", "[6]", "[7]"});
  ExpectError(Load("qwen3_moe", [](Json* c) { (*c)["num_experts"] = 7; }), {"[7, 128]", "mlp.gate.weight"});
  // The router agrees with the config, the experts do not.
  const auto with_router = [](const std::string& router, int64_t experts) {
    return [=](Tensors* tensors) {
      static const std::vector<std::byte> zeros(2 * 128 * 64);
      for (TensorData& t : *tensors) {
        if (!t.spec.name.ends_with(router)) continue;
        t.spec.shape[0] = experts;
        t.bytes = std::span(zeros).first(2 * experts * t.spec.shape[1]);
      }
    };
  };
  ExpectError(Load("qwen3_moe", [](Json* c) { (*c)["num_experts"] = 9; }, with_router("mlp.gate.weight", 9)),
              {"model.layers.0.mlp.experts.8.gate_proj.weight", "missing", "9 experts"});
  ExpectError(Load("qwen3_moe", [](Json* c) { (*c)["num_experts"] = 7; }, with_router("mlp.gate.weight", 7)),
              {"model.layers.0.mlp.experts.7.gate_proj.weight", "config.json has 7 experts"});
  const auto seven = [&](Tensors* tensors) {
    with_router("router.proj.weight", 7)(tensors);
    static const std::vector<std::byte> zeros(14);
    for (TensorData& t : *tensors) {
      if (!t.spec.name.ends_with("per_expert_scale")) continue;
      t.spec.shape = {7};
      t.bytes = zeros;
    }
  };
  ExpectError(Load("gemma4_26b_moe", [](Json* c) { (*Text(c))["num_experts"] = 7; }, seven),
              {"experts.gate_up_proj", "[6, 128, 128]", "[7, 128, 128]"});
  ExpectError(Load("qwen3_moe", [](Json* c) { (*c)["num_experts_per_tok"] = 9; }), {"num_experts_per_tok", "more than num_experts 8"});
}

TEST_F(BadCheckpointTest, AMissingExpert) {
  ExpectError(Load("qwen3_moe", [](Json*) {}, [](Tensors* t) {
                std::erase_if(*t, [](const TensorData& d) { return d.spec.name == "model.layers.2.mlp.experts.5.up_proj.weight"; });
              }),
              {"model.layers.2.mlp.experts.5.up_proj.weight", "missing"});
  ExpectError(Load("gemma4_26b_moe", [](Json*) {}, [](Tensors* t) {
                std::erase_if(*t, [](const TensorData& d) { return d.spec.name.find("layers.1.experts.down_proj") != std::string::npos; });
              }),
              {"layers.1.experts.down_proj", "missing"});
  ExpectError(Load("qwen3_moe", [](Json*) {}, [](Tensors* t) {
                std::erase_if(*t, [](const TensorData& d) { return d.spec.name.find("layers.1.mlp.experts") != std::string::npos; });
              }),
              {"no experts", "model.layers.1.mlp.switch_mlp.gate_proj.weight"});
}

TEST_F(BadCheckpointTest, TwoLayoutsInOneFile) {
  ExpectError(Load("qwen3_moe", [](Json*) {}, [](Tensors* t) {
                TensorData extra = t->front();
                extra.spec.name = "model.layers.0.mlp.switch_mlp.gate_proj.weight";
                t->push_back(extra);
              }),
              {"two layouts at once", "model.layers.0.mlp.experts"});
}

TEST_F(BadCheckpointTest, SharedKeysAndValues) {
  ExpectError(Load("gemma4_e2b", [](Json* c) { (*Text(c))["num_kv_shared_layers"] = 8; }), {"num_kv_shared_layers", "below num_hidden_layers 8"});
  ExpectError(Load("gemma4_e2b", [](Json* c) { (*Text(c))["num_kv_shared_layers"] = 100; }), {"num_kv_shared_layers", "below num_hidden_layers 8"});
  ExpectError(Load("gemma4_e2b", [](Json* c) { (*Text(c))["num_kv_shared_layers"] = 6; }),
              {"layer 3", "full_attention", "before layer 2"});
}

TEST_F(BadCheckpointTest, Fields) {
  ExpectError(Load("gemma4_e2b", [](Json* c) { (*Text(c))["layer_types"][2] = "spiral_attention"; }), {"layer_types", "spiral_attention"});
  ExpectError(Load("gemma4_e2b", [](Json* c) { Text(c)->erase("layer_types"); }), {"layer_types", "missing"});
  ExpectError(Load("gemma4_e2b", [](Json* c) { c->erase("text_config"); }), {"text_config", "missing"});
  ExpectError(Load("gemma4_e2b", [](Json* c) { (*c)["text_config"] = 3; }), {"text_config", "object"});
  ExpectError(Load("gemma4_e2b", [](Json* c) { (*Text(c))["vocab_size_per_layer_input"] = 639; }), {"vocab_size_per_layer_input", "639"});
  ExpectError(Load("gemma4_e2b", [](Json* c) { (*Text(c))["hidden_size_per_layer_input"] = 48; }), {"embed_tokens_per_layer", "[640, 384]"});
  ExpectError(Load("gemma4_26b_moe", [](Json* c) { (*Text(c))["num_global_key_value_heads"] = 3; }), {"num_global_key_value_heads"});
  ExpectError(Load("gemma4_26b_moe", [](Json* c) { Text(c)->erase("moe_intermediate_size"); }), {"moe_intermediate_size", "missing"});
  ExpectError(Load("qwen3_moe", [](Json* c) { (*c)["mlp_only_layers"] = {9}; }), {"mlp_only_layers", "layer numbers"});
  ExpectError(Load("lfm2", [](Json* c) { (*c)["layer_types"][0] = "full_conv"; }), {"layer_types", "full_conv"});
  ExpectError(Load("lfm2", [](Json* c) { (*c)["conv_L_cache"] = 4; }), {"conv.conv.weight", "[128, 4, 1]"});
}

TEST_F(BadCheckpointTest, AnOverrideForNoModule) {
  ExpectError(Load("qwen3_moe-mixed48", [](Json* c) {
                (*c)["quantization"]["model.layers.0.mlp.switch_mlp.side_proj"] = {{"bits", 4}, {"group_size", 64}};
              }),
              {"quantization['model.layers.0.mlp.switch_mlp.side_proj']", "no such module"});
  // A path that is a module elsewhere: layers of shared keys have no k_proj.
  ExpectError(Load("gemma4_e2b-mixed48", [](Json* c) {
                (*c)["quantization"]["language_model.model.layers.6.self_attn.k_proj"] = {{"bits", 4}, {"group_size", 64}};
              }),
              {"layers.6.self_attn.k_proj", "no such module"});
}

}  // namespace
}  // namespace optiq
