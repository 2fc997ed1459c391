#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <random>
#include <string>

#include "base/json.h"
#include "io/mapped_file.h"
#include "io/safetensors.h"

namespace optiq {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
using Rows = std::vector<std::vector<float>>;

// tests/data/goldens/sampling: what mlx-lm's functions give for six rows of logits.
class SamplingGoldens : public testing::Test {
 protected:
  void SetUp() override {
    const std::string folder = std::string(OPTIQ_TEST_DATA) + "/goldens/sampling/";
    auto file = MappedFile::Open(folder + "sampling.safetensors");
    ASSERT_TRUE(file.ok()) << file.status();
    auto tensors = ParseSafetensors((*file)->bytes(), folder + "sampling.safetensors", nullptr);
    ASSERT_TRUE(tensors.ok()) << tensors.status();
    for (const StoredTensor& t : *tensors) {
      Rows rows(t.rows(), std::vector<float>(t.cols()));
      for (int64_t r = 0; r < t.rows(); ++r) ReadRows(t, r, r + 1, rows[r].data());
      values_[t.name] = rows;
    }
    auto json = ReadJsonFile(folder + "sampling.json");
    ASSERT_TRUE(json.ok()) << json.status();
    json_ = *json;
  }

  // Filters only move values to -infinity, so everything is compared exactly.
  static void ExpectSame(const std::vector<float>& actual, const std::vector<float>& expected,
                         const std::string& what) {
    ASSERT_EQ(actual.size(), expected.size());
    for (size_t i = 0; i < actual.size(); ++i) EXPECT_EQ(actual[i], expected[i]) << what << " token " << i;
  }

  std::map<std::string, Rows> values_;
  Json json_;
};

TEST_F(SamplingGoldens, Logprobs) {
  for (size_t r = 0; r < 6; ++r) {
    std::vector<float> row = values_["logits"][r];
    ToLogprobs(row);
    for (size_t i = 0; i < row.size(); ++i) EXPECT_NEAR(row[i], values_["logprobs"][r][i], 2e-6);
  }
}

TEST_F(SamplingGoldens, Filters) {
  int filters = 0;
  for (const Json& c : json_["cases"]) {
    const std::string key = c["key"], op = c["op"];
    if (op == "processors") continue;
    ++filters;
    for (size_t r = 0; r < 6; ++r) {
      std::vector<float> row = values_["logprobs"][r];
      if (op == "top_p") {
        ApplyTopP(c["value"], row);
      } else if (op == "min_p") {
        ApplyMinP(c["value"], c.value("min_tokens_to_keep", 1), row);
      } else if (op == "top_k") {
        ApplyTopK(c["value"], row);
      } else if (op == "xtc") {
        ASSERT_EQ(c["probability"], 1.0);
        ApplyXtc(c["threshold"], c["special_tokens"].get<std::vector<int32_t>>(), row);
      } else {
        ASSERT_EQ(op, "chain");
        ApplyTopP(c["top_p"], row);
        ApplyMinP(c["min_p"], 1, row);
        ApplyXtc(c["xtc_threshold"], c["special_tokens"].get<std::vector<int32_t>>(), row);
        ApplyTopK(c["top_k"], row);
      }
      ExpectSame(row, values_[key][r], key + " row " + std::to_string(r));
    }
  }
  EXPECT_EQ(filters, 20);
}

TEST_F(SamplingGoldens, LogitsProcessors) {
  int processors = 0;
  const auto history = json_["history"].get<std::vector<int32_t>>();
  for (const Json& c : json_["cases"]) {
    if (c["op"] != "processors") continue;
    ++processors;
    SamplingParams params;
    const Json& a = c["arguments"];
    if (a.contains("logit_bias")) {
      for (const auto& [id, bias] : a["logit_bias"].items()) params.logit_bias.emplace_back(std::stoi(id), bias);
    }
    params.repetition_penalty = a.value("repetition_penalty", 0.0);
    params.repetition_context = a.value("repetition_context_size", 20);
    params.presence_penalty = a.value("presence_penalty", 0.0);
    params.frequency_penalty = a.value("frequency_penalty", 0.0);
    std::vector<float> row = values_["logits"][c["row"].get<size_t>()];
    ApplyLogitsProcessors(params, history, row);
    const auto& expected = values_[c["key"]][0];
    for (size_t i = 0; i < row.size(); ++i) {
      EXPECT_NEAR(row[i], expected[i], 1e-6 * std::max(1.0f, std::fabs(expected[i]))) << c["key"] << " token " << i;
    }
  }
  EXPECT_EQ(processors, 6);
}

// The plain definition of mlx-lm: sort, sum from the top, keep what is at least the last one kept.
std::vector<float> TopPBySorting(double top_p, std::vector<float> logprobs) {
  std::vector<float> sorted = logprobs;
  std::sort(sorted.begin(), sorted.end(), std::greater<float>());
  double total = 0, above = 0;
  for (float x : sorted) total += std::exp(x);
  float threshold = sorted[0];
  for (float x : sorted) {
    if (above >= top_p * total) break;
    threshold = x;
    above += std::exp(x);
  }
  for (float& x : logprobs) x = x < threshold ? -kInf : x;
  return logprobs;
}

TEST(Sampler, TopPBySelectionIsTopPBySorting) {
  std::mt19937 rng(5);
  std::normal_distribution<float> normal(0, 3);
  for (int round = 0; round < 300; ++round) {
    std::vector<float> row(1 + rng() % 200);
    for (float& x : row) x = round % 2 ? normal(rng) : std::round(normal(rng));  // every other row has many ties
    ToLogprobs(row);
    const double top_p = (1 + rng() % 999) / 1000.0;
    const std::vector<float> expected = TopPBySorting(top_p, row);
    ApplyTopP(top_p, row);
    EXPECT_EQ(row, expected) << "round " << round << " top_p " << top_p;
  }
}

TEST(Sampler, TopKKeepsExactlyK) {
  std::vector<float> row = {1, 2, 2, 2, 0, 3};
  ApplyTopK(3, row);
  EXPECT_EQ(row, (std::vector<float>{-kInf, 2, 2, -kInf, -kInf, 3}));
  row = {1, 2};
  ApplyTopK(5, row);
  EXPECT_EQ(row, (std::vector<float>{1, 2}));
}

TEST(Sampler, GreedyTakesTheLowestIdAmongEquals) {
  std::vector<float> logits = {0, 5, 1, 5};
  EXPECT_EQ(*Sampler(SamplingParams{}).Sample({}, logits), 1);
}

TEST(Sampler, SuppressedTokensAreNeverTaken) {
  std::vector<float> logits = {0, 5, 1};
  SamplingParams params;
  params.suppress_tokens = {1};
  EXPECT_EQ(*Sampler(params).Sample({}, logits), 2);
  params.suppress_tokens = {0, 1, 2};
  logits = {0, 5, 1};
  EXPECT_FALSE(Sampler(params).Sample({}, logits).ok());
}

TEST(Sampler, NotFiniteLogitsAreAnError) {
  for (float bad : {kInf, std::nanf("")}) {
    std::vector<float> logits = {0, bad, 1};
    EXPECT_EQ(Sampler(SamplingParams{}).Sample({}, logits).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(Sampler, DrawsFollowTheDistribution) {
  const std::vector<float> base = {std::log(0.5f), std::log(0.3f), std::log(0.15f), std::log(0.05f)};
  for (double temperature : {1.0, 0.5, 2.0}) {
    SamplingParams params;
    params.temperature = temperature;
    params.seed = 11;
    Sampler sampler(params);
    constexpr int kDraws = 50000;
    std::vector<double> counts(4), expected(4);
    double total = 0;
    for (int i = 0; i < 4; ++i) total += expected[i] = std::exp(base[i] / temperature);
    for (int i = 0; i < kDraws; ++i) {
      std::vector<float> logits = base;
      ++counts[*sampler.Sample({}, logits)];
    }
    double chi2 = 0;
    for (int i = 0; i < 4; ++i) {
      const double e = kDraws * expected[i] / total;
      chi2 += (counts[i] - e) * (counts[i] - e) / e;
    }
    EXPECT_LT(chi2, 16.3) << temperature;  // 3 degrees of freedom, p = 0.001
  }
}

TEST(Sampler, TheSeedDecides) {
  const auto draw = [](uint64_t seed) {
    SamplingParams params;
    params.temperature = 1;
    params.seed = seed;
    Sampler sampler(params);
    std::vector<int32_t> tokens;
    for (int i = 0; i < 20; ++i) {
      std::vector<float> logits(1000, 0);
      tokens.push_back(*sampler.Sample({}, logits));
    }
    return tokens;
  };
  EXPECT_EQ(draw(1), draw(1));
  EXPECT_NE(draw(1), draw(2));
}

TEST(Categorical, EdgesOfTheUnitInterval) {
  const std::vector<float> row = {-kInf, 0, -kInf, 0, -kInf};
  EXPECT_EQ(Categorical(1, 0, row), 1);
  EXPECT_EQ(Categorical(1, 0.499999, row), 1);
  EXPECT_EQ(Categorical(1, 0.5, row), 3);
  EXPECT_EQ(Categorical(1, std::nextafter(1.0, 0.0), row), 3);
  EXPECT_EQ(Categorical(1e-300, 0.7, std::vector<float>{-1, 0, -1}), 1);  // almost argmax, no overflow
}

TEST(ValidateSampling, NamesWhatIsWrong) {
  const auto error = [](auto change) {
    SamplingParams params;
    change(params);
    return Message(ValidateSampling(params, 100));
  };
  EXPECT_EQ(error([](auto&) {}), "");
  EXPECT_NE(error([](auto& p) { p.temperature = -1; }).find("temperature"), std::string::npos);
  EXPECT_NE(error([](auto& p) { p.temperature = std::nan(""); }).find("temperature"), std::string::npos);
  EXPECT_NE(error([](auto& p) { p.top_p = 1.5; }).find("top_p"), std::string::npos);
  EXPECT_NE(error([](auto& p) { p.min_p = -0.1; }).find("min_p"), std::string::npos);
  EXPECT_NE(error([](auto& p) { p.top_k = -1; }).find("top_k"), std::string::npos);
  EXPECT_NE(error([](auto& p) { p.logit_bias = {{100, 1}}; }).find("token 100"), std::string::npos);
  EXPECT_NE(error([](auto& p) { p.repetition_penalty = -2; }).find("repetition_penalty"), std::string::npos);
}

}  // namespace
}  // namespace optiq
