// The sweep against its definition: one weight replaced, the whole model run, KL over the full vocabulary in double.
#include "quant/sweep.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <numeric>

#include "model/decoder.h"
#include "quant/delta_flow.h"
#include "quant/encode.h"
#include "quant/evaluate.h"

namespace optiq {
namespace {

struct Model {
  std::unique_ptr<Checkpoint> checkpoint;
  DecoderSpec spec;
};

Model Open(const std::string& name) {
  Model m;
  m.checkpoint = *Checkpoint::Open(std::string(OPTIQ_TEST_DATA) + "/goldens/models/" + name);
  m.spec = *ParseDecoderSpec(m.checkpoint->config(), name);
  return m;
}

TokenBatch Tokens(const Model& m, int64_t sequences, int64_t length) {
  TokenBatch t;
  t.sequences = sequences;
  t.length = length;
  for (int64_t i = 0; i < sequences * length; ++i) t.ids.push_back(static_cast<int32_t>((i * 7919 + 13) % m.spec.vocab_size));
  t.sha256 = "test";
  return t;
}

InputMoments MomentsOf(const Model& m, const TokenBatch& tokens) {
  ThreadPool pool(2);
  return *MeasureInputMoments(*m.checkpoint, m.spec, tokens, "", &pool, nullptr);
}

SweepOptions Options(Products products = Products::kF32) {
  SweepOptions o;
  o.candidates = {{4, 32}, {8, 32}};
  o.probe_all = true;
  o.products = products;
  return o;
}

class SweepTest : public testing::TestWithParam<std::string> {
 protected:
  ThreadPool pool_{2};
};

// Each option's KL by running two whole models (EvaluateVariants shares no code with the difference streams but the kernels).
TEST_P(SweepTest, EqualsWholeModelRuns) {
  const Model m = Open(GetParam());
  const TokenBatch tokens = Tokens(m, 3, 24);
  StatusOr<SensitivityTable> table = MeasureSensitivity(*m.checkpoint, m.spec, tokens, MomentsOf(m, tokens), Options(), &pool_, nullptr);
  ASSERT_TRUE(table.ok()) << table.status();
  std::vector<Plan> plans;
  std::vector<double> expected;
  for (const SensitivityItem& item : table->items) {
    for (const SensitivityOption& o : item.options) {
      // The first blocks, the last, and those whose keys and values later blocks read.
      if (item.block > 1 && item.block < m.spec.num_layers() - 1 && !m.spec.layers[item.block].attention.kv_is_read_later) continue;
      Plan plan;
      plan.entries[item.path] = {.format = o.format, .encoder = o.encoder};
      plans.push_back(plan);
      expected.push_back(o.kl);
      EXPECT_TRUE(o.measured);
    }
  }
  const InputMoments moments = MomentsOf(m, tokens);
  std::vector<EvalVariant> variants;
  for (const Plan& p : plans) variants.push_back({.name = p.entries.begin()->first, .plan = &p, .moments = &moments});
  StatusOr<Evaluation> evaluation = EvaluateVariants(*m.checkpoint, m.spec, tokens, variants, &pool_, nullptr);
  ASSERT_TRUE(evaluation.ok()) << evaluation.status();
  ASSERT_GE(plans.size(), 20u);
  for (size_t i = 0; i < plans.size(); ++i) {
    const double want = evaluation->rows[i].kl_mean;
    // Whole-model runs carry f32 rounding of logits of size 10 into the KL: about 1e-6 of noise per position at most.
    EXPECT_NEAR(expected[i], want, 1e-3 * want + 2e-9) << variants[i].name;
    EXPECT_GT(want, 0);
  }
}

// The moments are the mean squares of what the layers read, and do not depend on how many threads there are.
TEST_P(SweepTest, InputMoments) {
  const Model m = Open(GetParam());
  const TokenBatch tokens = Tokens(m, 3, 24);
  const InputMoments moments = MomentsOf(m, tokens);
  for (const DecoderSpec::Module& module : m.spec.QuantizableModules()) {
    ASSERT_EQ(static_cast<int64_t>(moments.Of(module.path).size()), std::max<int64_t>(1, module.experts) * module.in) << module.path;
    if (module.experts == 0) continue;
    const std::vector<int64_t>& routed = moments.expert_tokens.at(module.path);
    EXPECT_EQ(std::accumulate(routed.begin(), routed.end(), int64_t{0}), module.experts_per_token * 72);
  }
  // The first attention reads the normed embeddings: computed here by hand.
  std::vector<float> x(tokens.ids.size() * m.spec.hidden_size);
  EmbedTokens(m.spec, *LoadEmbedding(*m.checkpoint, m.spec), tokens.ids, x.data(), &pool_);
  const std::vector<float> norm = LoadBlockWeights(*m.checkpoint, m.spec, 0)->input_norm;
  std::vector<double> want(m.spec.hidden_size);
  for (size_t r = 0; r < tokens.ids.size(); ++r) {
    const float* row = x.data() + r * m.spec.hidden_size;
    double squares = 0;
    for (int64_t i = 0; i < m.spec.hidden_size; ++i) squares += double{row[i]} * row[i];
    const double inv = 1 / std::sqrt(squares / m.spec.hidden_size + m.spec.rms_norm_eps);
    for (int64_t i = 0; i < m.spec.hidden_size; ++i) want[i] += std::pow(row[i] * inv * norm[i], 2) / tokens.ids.size();
  }
  const LayerSpec& first = m.spec.layers[0];
  const std::span<const float> got = moments.Of(first.prefix + (first.has_attention() ? first.names.q : "conv.in_proj"));
  for (int64_t i = 0; i < m.spec.hidden_size; ++i) EXPECT_NEAR(got[i], want[i], 1e-4 * want[i] + 1e-9);
  ThreadPool one(1);
  EXPECT_EQ(MeasureInputMoments(*m.checkpoint, m.spec, tokens, "", &one, nullptr)->mean_squares, moments.mean_squares);
}

TEST_P(SweepTest, BF16ProductsChangeKlByLessThanOnePercent) {
  const Model m = Open(GetParam());
  const TokenBatch tokens = Tokens(m, 3, 24);
  const SensitivityTable exact = *MeasureSensitivity(*m.checkpoint, m.spec, tokens, MomentsOf(m, tokens), Options(), &pool_, nullptr);
  const SensitivityTable fast = *MeasureSensitivity(*m.checkpoint, m.spec, tokens, MomentsOf(m, tokens), Options(Products::kBF16), &pool_, nullptr);
  const bool routes = std::any_of(m.spec.layers.begin(), m.spec.layers.end(), [](const LayerSpec& l) { return l.moe.num_experts > 0; });
  double got_sum = 0, want_sum = 0;
  for (size_t i = 0; i < exact.items.size(); ++i) {
    for (size_t o = 0; o < exact.items[i].options.size(); ++o) {
      const double want = exact.items[i].options[o].kl, got = fast.items[i].options[o].kl;
      got_sum += got;
      want_sum += want;
      // A router that is all but undecided may go the other way by any rounding: one token of these 72 then has another divergence.
      if (!routes) {
        EXPECT_NEAR(got, want, 0.01 * want) << exact.items[i].path;
      }
    }
  }
  EXPECT_NEAR(got_sum, want_sum, 0.01 * want_sum);
}

TEST_P(SweepTest, WavesThreadsAndKillsDoNotChangeABit) {
  const Model m = Open(GetParam());
  const TokenBatch tokens = Tokens(m, 3, 24);
  const std::string whole = MeasureSensitivity(*m.checkpoint, m.spec, tokens, MomentsOf(m, tokens), Options(), &pool_, nullptr)->ToJson().dump();

  ThreadPool one(1);
  EXPECT_EQ(MeasureSensitivity(*m.checkpoint, m.spec, tokens, MomentsOf(m, tokens), Options(), &one, nullptr)->ToJson().dump(), whole);

  SweepOptions small = Options();
  small.memory_bytes = 4 * (64 << 20) + tokens.ids.size() * m.spec.hidden_size * 4 * 9;  // nine streams at a time
  SweepStats stats;
  EXPECT_EQ(MeasureSensitivity(*m.checkpoint, m.spec, tokens, MomentsOf(m, tokens), small, &pool_, &stats)->ToJson().dump(), whole);
  EXPECT_GT(stats.waves, 3);

  const std::string work = std::filesystem::temp_directory_path() / fmt::format("optiq_sweep_{}_{}", GetParam(), getpid());
  for (uint64_t memory : {uint64_t{2} << 30, small.memory_bytes}) {
    std::filesystem::create_directory(work);
    SweepOptions killed = Options();
    killed.memory_bytes = memory;
    killed.work_dir = work;
    killed.stop_after_block = 1;
    EXPECT_EQ(MeasureSensitivity(*m.checkpoint, m.spec, tokens, MomentsOf(m, tokens), killed, &pool_, nullptr).status().code(), absl::StatusCode::kCancelled);
    killed.stop_after_block = -1;
    SweepStats resumed;
    EXPECT_EQ(MeasureSensitivity(*m.checkpoint, m.spec, tokens, MomentsOf(m, tokens), killed, &pool_, &resumed)->ToJson().dump(), whole);
    EXPECT_TRUE(resumed.resumed);
    std::filesystem::remove_all(work);
  }
}

INSTANTIATE_TEST_SUITE_P(Architectures, SweepTest, testing::Values("llama", "qwen2", "qwen3", "gemma3_text", "smollm3", "gemma4_e2b", "gemma4_26b_moe",
                                                                   "gemma4_31b", "qwen3_moe", "lfm2"),
                         [](const auto& info) { return info.param; });

TEST(DeltaFlowTest, AProbeThatChangesNothingGivesExactlyZero) {
  for (const char* name : {"llama", "qwen2", "gemma3_text", "gemma4_e2b", "gemma4_26b_moe", "qwen3_moe", "lfm2"}) {
    const Model m = Open(name);
    ThreadPool pool(2);
    const RopeTables ropes = MakeRopeTables(m.spec, 24);
    const std::vector<Segment> segments(2, Segment{.rows = 24});
    BufferPool<float> buffers;
    PlainFlow tape(m.spec, ropes, segments, &pool, true);
    tape.set_fixed_order(true);
    BlockWeights weights = *LoadBlockWeights(*m.checkpoint, m.spec, 0);
    const ValueId x = tape.NewValue(m.spec.hidden_size);
    for (int64_t i = 0; i < 48 * m.spec.hidden_size; ++i) tape.data(x)[i] = std::sin(0.37f * i);
    std::vector<float> inputs(48 * m.spec.per_layer_input_size);
    for (size_t i = 0; i < inputs.size(); ++i) inputs[i] = std::cos(0.21f * i);
    tape.SetPerLayerInput(inputs.data(), m.spec.per_layer_input_size);
    RunBlock(&tape, m.spec.layers[0], weights, 0, x);
    for (const DecoderSpec::Module& module : m.spec.QuantizableModules()) {
      if (module.block != 0) continue;
      // The same numbers, as an f32 copy in other memory.
      std::vector<std::vector<float>> values;
      std::vector<WeightMatrix> copies;
      for (const WeightMatrix& w : weights.Find(module.path)) {
        values.emplace_back(w.rows * w.cols);
        DecodeRows(w, 0, w.rows, values.back().data());
        copies.push_back(ViewOf(values.back().data(), w.rows, w.cols, w.path));
      }
      for (Products products : {Products::kF32, Products::kBF16}) {
        DeltaFlow flow(m.spec, ropes, segments, tape, 1, products, &pool, &buffers);
        flow.SetProbe(&module.path, copies);
        const ValueId y = RunBlock(&flow, m.spec.layers[0], weights, 0, flow.Input(m.spec.hidden_size, true));
        for (int64_t i = 0; i < 48 * m.spec.hidden_size; ++i) ASSERT_EQ(flow.data(y)[i], 0.0f) << name << " " << module.path;
      }
    }
  }
}

TEST(ProbedOptionsTest, OneGroupPerWidthUpToFourBits) {
  EXPECT_EQ(ProbedOptions({{4, 64}, {8, 64}}, false), (std::vector<bool>{true, false}));
  EXPECT_EQ(ProbedOptions({{4, 64}, {8, 64}}, true), (std::vector<bool>{true, true}));
  EXPECT_EQ(ProbedOptions({{6, 64}, {8, 64}}, false), (std::vector<bool>{true, false}));
  EXPECT_EQ(ProbedOptions({{2, 64}, {2, 32}, {3, 32}, {3, 64}, {4, 128}, {4, 32}}, false),
            (std::vector<bool>{true, false, false, true, true, false}));
}

}  // namespace
}  // namespace optiq
