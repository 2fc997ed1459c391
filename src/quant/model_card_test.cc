#include "quant/model_card.h"

#include <gtest/gtest.h>

#include "quant/test_summary.h"

namespace optiq {
namespace {

bool Has(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

TEST(ModelCard, FrontMatter) {
  std::string card = ModelCard(ExampleSummary());
  EXPECT_EQ(card.rfind("---\nlicense: \"apache-2.0\"\nbase_model: \"example-org/SmolLM2-135M-Instruct\"\n", 0), 0u)
      << card;
  std::string front = card.substr(0, card.find("\n---\n", 4));
  for (const char* part : {"library_name: mlx", "pipeline_tag: text-generation", "\n- mlx", "\n- optiq",
                           "\n- quantized", "\n- mixed-precision"}) {
    EXPECT_TRUE(Has(front, part)) << part;
  }
}

TEST(ModelCard, UnknownLicenceAndLocalPath) {
  ConvertSummary s = ExampleSummary(4.5, 2);
  s.licence = "";
  s.base_model = "/home/somebody/models/m-1";
  std::string card = ModelCard(s);
  EXPECT_TRUE(Has(card, "license: other\n"));
  EXPECT_FALSE(Has(card, "base_model:"));
  EXPECT_FALSE(Has(card, "somebody"));
  EXPECT_TRUE(Has(card, "# m-1 (4.50 bits per weight)"));
  EXPECT_TRUE(Has(card, "licence of the base model was not found"));
  s.base_model = "models/m-1";
  EXPECT_TRUE(Has(ModelCard(s), "base_model: \"models/m-1\""));
  s.base_model_is_local = true;
  EXPECT_FALSE(Has(ModelCard(s), "base_model:"));
  s.licence = "Gemma Terms of Use";
  card = ModelCard(s);
  EXPECT_TRUE(Has(card, "license: other\nlicense_name: \"Gemma Terms of Use\"\n"));
}

TEST(ModelCard, SaysWhatWasMeasured) {
  std::string card = ModelCard(ExampleSummary());
  EXPECT_TRUE(Has(card, "| **optiq 4.50 bpw** | 4.50 |"));
  EXPECT_TRUE(Has(card, "0.1512 ± 0.0030"));
  EXPECT_TRUE(Has(card, "| 10.870 | 79.2 % |"));
  EXPECT_TRUE(Has(card, "optiq convert smollm2-135m --target-bpw 4.5"));
  EXPECT_TRUE(Has(card, "mlx_lm.generate --model"));
  EXPECT_TRUE(Has(card, "from mlx_lm import generate, load"));
  EXPECT_TRUE(Has(card, "| `down` | 30 |"));
  EXPECT_TRUE(Has(card, "> **Note.** The source is a GGUF file."));
  EXPECT_TRUE(Has(card, "proven the least possible"));
}

TEST(ModelCard, ClaimsNothingThatWasNotDone) {
  ConvertSummary s;
  s.plan.origin = "uniform 4-bit g64";
  s.plan.entries["model.layers.0.mlp.up_proj"] = {};
  std::string card = ModelCard(s);
  EXPECT_TRUE(Has(card, "No evaluation on held-out text was made"));
  EXPECT_FALSE(Has(card, "sensitivity"));
  EXPECT_FALSE(Has(card, "knapsack"));
  EXPECT_FALSE(Has(card, "predicted KL"));
  EXPECT_TRUE(Has(card, "uniform 4-bit g64"));
  s.predicted_kl = 1.02;
  s.lp_bound = 1.0;
  EXPECT_TRUE(Has(ModelCard(s), "at most 2.000 % above the least possible"));
}

TEST(ModelCard, HostileStringsCannotBreakOut) {
  std::string card = ModelCard(HostileSummary());
  // One front matter; nothing from the summary starts a line with markup outside a code block.
  std::string body = card.substr(card.find("\n---\n", 4) + 5);
  bool code = false;
  std::string fence;
  size_t at = 0;
  while (at < body.size()) {
    size_t end = body.find('\n', at);
    std::string line = body.substr(at, end - at);
    at = end + 1;
    if (!code && line.starts_with("```")) {
      code = true;
      fence = line.substr(0, line.find_first_not_of('`'));
      continue;
    }
    if (code) {
      code = line != fence;
      continue;
    }
    EXPECT_NE(line, "---");
    EXPECT_FALSE(line.starts_with("# [x]")) << line;
    // A tag is always escaped, or inside a code span.
    size_t tag = line.find("<img");
    if (tag != std::string::npos && line.find('`') > tag) {
      EXPECT_EQ(line[tag - 1], '\\') << line;
    }
  }
  EXPECT_FALSE(code);
  EXPECT_FALSE(Has(card, "\xFF"));
}

}  // namespace
}  // namespace optiq
