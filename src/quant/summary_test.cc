#include "quant/summary.h"

#include <gtest/gtest.h>

#include <cmath>

#include "quant/test_table.h"

namespace optiq {
namespace {

TEST(Summary, KindOf) {
  EXPECT_EQ(KindOf("model.layers.3.self_attn.q_proj"), "q");
  EXPECT_EQ(KindOf("model.layers.3.mlp.down_proj"), "down");
  EXPECT_EQ(KindOf("model.layers.3.mlp.gate"), "router");
  EXPECT_EQ(KindOf("model.layers.3.router.proj"), "router");
  EXPECT_EQ(KindOf("model.layers.3.mlp.switch_mlp.up_proj"), "experts up");
  EXPECT_EQ(KindOf("model.layers.0.experts.switch_glu.gate_proj"), "experts gate");
  EXPECT_EQ(KindOf("model.layers.3.mlp.shared_expert.down_proj"), "shared down");
  EXPECT_EQ(KindOf("model.layers.0.linear_attn.in_proj_qkv"), "linear_attn in_proj_qkv");
  EXPECT_EQ(KindOf("model.layers.0.per_layer_input_gate"), "per_layer_input_gate");
  EXPECT_EQ(KindOf("model.embed_tokens"), "embed_tokens");
  EXPECT_EQ(KindOf("lm_head"), "lm_head");
  EXPECT_EQ(KindOf(""), "");
  EXPECT_EQ(KindOf("layers.x.q_proj"), "q_proj");
}

TEST(Summary, BlockOf) {
  EXPECT_EQ(BlockOf("model.layers.13.mlp.up_proj"), 13);
  EXPECT_EQ(BlockOf("language_model.model.layers.0.self_attn.q_proj"), 0);
  EXPECT_EQ(BlockOf("transformer.h.7.attn.c_attn"), 7);
  EXPECT_EQ(BlockOf("model.embed_tokens"), -1);
  EXPECT_EQ(BlockOf("layers"), -1);
  EXPECT_EQ(BlockOf("layers.99999999999999999999.q"), -1);
  EXPECT_EQ(BlockOf("7.layers"), -1);
}

TEST(Summary, ItemsJoinTableAndPlan) {
  ConvertSummary s;
  s.table = SmolTable(1);
  s.plan.default_format = {6, 32};
  s.plan.entries["model.embed_tokens"] = {{4, 64}, "rtn", false};
  s.plan.entries["model.layers.0.self_attn.q_proj"] = {{}, "rtn", true};
  s.plan.entries["model.layers.0.self_attn.k_proj"] = {{4, 64}, "other", false};
  std::vector<SummaryItem> items = SummaryItems(s);
  ASSERT_EQ(items.size(), s.table.items.size());
  EXPECT_EQ(items[0].bits, 4);
  EXPECT_DOUBLE_EQ(items[0].kl, 0.096);
  EXPECT_DOUBLE_EQ(items[0].sensitivity, 0.096);
  EXPECT_EQ(items[0].bytes, AffineBytes({49152, 576}, {4, 64}));
  EXPECT_EQ(items[1].bits, 16);  // dense
  EXPECT_EQ(items[1].bytes, 576u * 576 * 2);
  EXPECT_EQ(items[1].kl, 0.0);
  EXPECT_FALSE(items[2].measured);  // an encoder that was not probed
  EXPECT_EQ(items[2].bytes, AffineBytes({192, 576}, {4, 64}));
  EXPECT_EQ(items[3].bits, 6);  // not named: the default
  EXPECT_EQ(items[3].group_size, 32);
}

TEST(Summary, SensitivityIsBroughtToFourBits) {
  ConvertSummary s;
  s.table = SmolTable(1);
  std::erase_if(s.table.items[0].options, [](const SensitivityOption& o) { return o.format.bits != 6; });
  EXPECT_NEAR(SummaryItems(s)[0].sensitivity, 0.096, 1e-12);
  s.table.items[0].options.clear();
  EXPECT_LT(SummaryItems(s)[0].sensitivity, 0);
}

TEST(Summary, ItemsOfAPlanWithoutTable) {
  ConvertSummary s;
  for (int layer : {10, 2}) s.plan.entries[fmt::format("model.layers.{}.mlp.up_proj", layer)] = {{4, 64}, "rtn", false};
  s.plan.entries["model.embed_tokens"] = {{8, 64}, "rtn", false};
  std::vector<SummaryItem> items = SummaryItems(s);
  ASSERT_EQ(items.size(), 3u);
  EXPECT_EQ(items[0].path, "model.embed_tokens");
  EXPECT_EQ(items[1].block, 2);
  EXPECT_EQ(items[2].block, 10);
  EXPECT_EQ(items[2].item, nullptr);
}

TEST(Summary, DisplayName) {
  auto name = [](std::string base) {
    ConvertSummary s;
    s.base_model = std::move(base);
    return DisplayName(s);
  };
  EXPECT_EQ(name("org/model-1.5"), "org/model-1.5");
  EXPECT_EQ(name("/home/me/models/m"), "m");
  EXPECT_EQ(name("./m/"), "m");
  EXPECT_EQ(name("a/b/c.gguf"), "c.gguf");
  EXPECT_EQ(name("gguf/m.Q4_1.gguf"), "m.Q4_1.gguf");
  EXPECT_EQ(name("models/m/"), "m");
  EXPECT_EQ(name(""), "model");
  EXPECT_EQ(name("/"), "model");
  ConvertSummary s;
  s.base_model = "models/m";
  EXPECT_EQ(DisplayName(s), "models/m");
  s.base_model_is_local = true;
  EXPECT_EQ(DisplayName(s), "m");
}

TEST(Summary, Numbers) {
  EXPECT_EQ(HumanBytes(999), "999 B");
  EXPECT_EQ(HumanBytes(76'300'000), "76.3 MB");
  EXPECT_EQ(HumanBytes(999'600'000), "1.00 GB");
  EXPECT_EQ(HumanBytes(UINT64_MAX), "18.4 EB");
  EXPECT_EQ(Grouped(134515008), "134,515,008");
  EXPECT_EQ(Grouped(7), "7");
  EXPECT_EQ(Short(0.36481), "0.365");
  EXPECT_EQ(Short(0.0024), "0.00240");
  EXPECT_EQ(Short(6e-5), "6.00e-05");
  EXPECT_EQ(Short(12.98), "13.0");
  EXPECT_EQ(Short(0), "0");
  EXPECT_EQ(Short(std::nan("")), "?");
  EXPECT_EQ(WithError(0.36481, 0.006), "0.3648 ± 0.0060");
  EXPECT_EQ(WithError(0.0024, 0.00006), "0.002400 ± 0.000060");
  EXPECT_EQ(WithError(12.3, 0), "12.3");
  EXPECT_EQ(HumanSeconds(1.24), "1.2 s");
  EXPECT_EQ(HumanSeconds(140.2), "2 min 20 s");
  EXPECT_EQ(HumanSeconds(7260), "2 h 1 min");
  EXPECT_EQ(HumanSeconds(std::nan("")), "?");
}

}  // namespace
}  // namespace optiq
