// Layers that read another's keys and values, against a computation that shares nothing: every such layer projects the
// donor's input itself, quantizes the rows by the scalar definition into a history of its own and attends over it in
// double.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>

#include "base/half.h"
#include "io/checkpoint.h"
#include "model/decoder.h"
#include "model/per_layer_inputs.h"
#include "tensor/affine.h"

namespace optiq {
namespace {

// One layer's rows so far: as the cache's format decodes them, and as bf16 for the tokens that stay dense.
struct Rows {
  std::vector<float> stored, dense;
};
struct History {
  Rows keys, values;
};

float RoundToBF16(float x) { return BF16ToF32(F32ToBF16(x)); }

void AddRow(const float* row, int64_t heads, int64_t dim, const KvFormat& format, Rows* rows) {
  for (int64_t h = 0; h < heads; ++h, row += dim) {
    std::vector<float> x(row, row + dim);
    if (format.bits == 32) {
      rows->stored.insert(rows->stored.end(), x.begin(), x.end());
      rows->dense.insert(rows->dense.end(), x.begin(), x.end());
      continue;
    }
    if (format.scale_dtype == DType::kBF16) std::transform(x.begin(), x.end(), x.begin(), RoundToBF16);
    rows->dense.insert(rows->dense.end(), x.begin(), x.end());
    if (format.quantized()) {
      AffineMatrix one = MakeAffineMatrix(1, dim, {format.bits, format.group_size}, format.scale_dtype);
      EncodeRowRtn(x.data(), 0, &one);
      DecodeRow(one, 0, x.data());
    }
    rows->stored.insert(rows->stored.end(), x.begin(), x.end());
  }
}

class UnsharedFlow : public PlainFlow {
 public:
  UnsharedFlow(const Decoder& decoder, const RopeTables& ropes, Segment segment, ThreadPool* pool,
               std::map<int, History>* histories)
      : PlainFlow(decoder.spec(), ropes, {segment}, pool, true, nullptr, decoder.products()),
        decoder_(decoder),
        segment_(segment),
        histories_(*histories) {}

  void BeginBlock(int layer, ValueId x) {
    layer_ = layer;
    inputs_[layer].assign(data(x), data(x) + rows() * columns(x));
  }
  int compared() const { return compared_; }

  ValueId AttendShared(ValueId q, const AttentionSpec& spec) override {
    const ValueId ours = PlainFlow::AttendShared(q, spec);
    const int donor = spec.kv_layer;
    const AttentionSpec& own = decoder_.spec().layers[donor].attention;
    const BlockWeights& w = decoder_.weights().blocks[donor];
    const int64_t heads = own.num_key_value_heads, dim = own.head_dim, width = heads * dim;
    ValueId x = NewValue(decoder_.spec().hidden_size);
    std::copy(inputs_[donor].begin(), inputs_[donor].end(), data(x));
    x = Norm(x, w.input_norm);
    const ValueId k = Rope(HeadNorm(Linear(x, w.k), heads, w.k_norm), heads, own.rope);
    const ValueId v = HeadNorm(Linear(x, w.v), heads, {});
    History& history = histories_[layer_];
    const KvLayerPlan& plan = segment_.cache->plan().layers[donor];
    for (int64_t r = 0; r < rows(); ++r) {
      AddRow(data(k) + r * width, heads, dim, plan.keys, &history.keys);
      AddRow(data(v) + r * width, heads, dim, plan.values, &history.values);
    }
    const ValueId y = NewValue(columns(q));
    for (int64_t r = 0; r < rows(); ++r) {
      for (int64_t h = 0; h < spec.num_attention_heads; ++h) {
        const int64_t at = h * dim, group = h / (spec.num_attention_heads / heads);
        AttendRow(spec, plan, history, segment_.start + r, group, width, data(q) + r * columns(q) + at,
                  data(y) + r * columns(y) + at);
        for (int64_t e = at; e < at + dim; ++e) {
          const float got = data(ours)[r * columns(ours) + e], want = data(y)[r * columns(y) + e];
          if (!(std::fabs(got - want) <= 2e-5f)) {
            ADD_FAILURE() << "layer " << layer_ << " position " << segment_.start + r << ": " << got << ", unshared "
                          << want;
            return y;
          }
        }
      }
    }
    ++compared_;
    return y;
  }

 private:
  void AttendRow(const AttentionSpec& spec, const KvLayerPlan& plan, const History& history, int64_t position,
                 int64_t group, int64_t width, const float* q, float* out) const {
    const int64_t window = spec.sliding_window, dim = spec.head_dim;
    const int64_t first = window > 0 ? std::max<int64_t>(0, position - window + 1) : 0;
    // Rows of this pass, and the recent ones before it, are not quantized yet when the plan keeps recent tokens dense.
    const int64_t reach = window > 0 ? std::min(plan.dense_recent, window) : plan.dense_recent;
    const auto row = [&](const Rows& rows, int64_t j) {
      const bool dense = plan.quantized() && (j < plan.dense_first || (reach > 0 && j >= segment_.start - reach));
      return (dense ? rows.dense : rows.stored).data() + j * width + group * dim;
    };
    std::vector<double> p;
    double top = -1e300, sum = 0;
    for (int64_t j = first; j <= position; ++j) {
      const float* key = row(history.keys, j);
      double s = 0;
      for (int64_t e = 0; e < dim; ++e) s += double{q[e]} * key[e];
      p.push_back(s * spec.scale);
      top = std::max(top, p.back());
    }
    for (double& s : p) sum += s = std::exp(s - top);
    std::vector<double> total(dim, 0.0);
    for (int64_t j = first; j <= position; ++j) {
      const float* value = row(history.values, j);
      for (int64_t e = 0; e < dim; ++e) total[e] += p[j - first] / sum * value[e];
    }
    for (int64_t e = 0; e < dim; ++e) out[e] = static_cast<float>(total[e]);
  }

  const Decoder& decoder_;
  const Segment segment_;
  std::map<int, History>& histories_;
  std::map<int, std::vector<float>> inputs_;  // of blocks, this pass's rows
  int layer_ = 0, compared_ = 0;
};

struct Case {
  const char* name;
  KvLayerPlan plan;
};

class KvSharingTest : public testing::TestWithParam<Case> {};

TEST_P(KvSharingTest, EqualsAComputationThatSharesNothing) {
  auto checkpoint = Checkpoint::Open(std::string(OPTIQ_TEST_DATA) + "/goldens/models/gemma4_e2b");
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  ThreadPool pool(2);
  auto loaded = Decoder::Load(**checkpoint, &pool);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  Decoder& decoder = **loaded;
  decoder.set_products(Products::kF32Fixed);  // rows do not depend on the chunk they come in
  const DecoderSpec& spec = decoder.spec();
  const DecoderWeights& weights = decoder.weights();
  const KvGeometry geometry = KvGeometryOf(spec);
  const int readers =
      static_cast<int>(std::count_if(geometry.begin(), geometry.end(), [](const auto& g) { return g.donor >= 0; }));
  ASSERT_EQ(readers, 4);  // of a ring's rows and of a full layer's
  KvPlan plan;
  plan.layers.assign(geometry.size(), GetParam().plan);
  auto shared = decoder.MakeCache(plan), beside = decoder.MakeCache(plan);
  ASSERT_TRUE(shared.ok() && beside.ok()) << shared.status();

  std::map<int, History> histories;
  std::mt19937 random(11);
  std::vector<float> logits, want;
  int compared = 0;
  // Chunks beyond the window of 16, single steps, and beyond a page of 256 positions.
  const std::vector<int64_t> schedule = {1, 1, 40, 1, 3, 1, 150, 1, 16, 17, 1, 15, 60, 1, 1};
  for (const int64_t n : schedule) {
    std::vector<int32_t> ids(n);
    for (int32_t& id : ids) id = static_cast<int32_t>(random() % spec.vocab_size);
    const int64_t start = (*beside)->length();
    const RopeTables ropes = MakeRopeTables(spec, start + n);
    ASSERT_TRUE((*beside)->Reserve(n).ok());
    UnsharedFlow flow(decoder, ropes, {.rows = n, .start = start, .cache = beside->get()}, &pool, &histories);
    ValueId x = flow.NewValue(spec.hidden_size);
    EmbedTokens(spec, weights.embedding, ids, flow.data(x), &pool);
    std::vector<float> per_layer(n * spec.per_layer_width());
    PerLayerInputs(spec, weights.per_layer, ids, flow.data(x), 0, spec.num_layers(), per_layer.data(), &pool,
                   decoder.products());
    for (int i = 0; i < spec.num_layers(); ++i) {
      flow.SetPerLayerInput(per_layer.data() + i * spec.per_layer_input_size, spec.per_layer_width());
      flow.BeginBlock(i, x);
      x = RunBlock(&flow, spec.layers[i], weights.blocks[i], i, x);
    }
    x = flow.Norm(x, weights.final_norm);
    (*beside)->Advance(n);
    compared += flow.compared();
    ASSERT_TRUE(decoder.Logits(flow.data(x), n, &want).ok());
    ASSERT_TRUE(decoder.Forward(ids, shared->get(), true, &logits).ok());
    ASSERT_EQ(logits.size(), want.size());
    double worst = 0;
    for (size_t i = 0; i < want.size(); ++i) worst = std::max(worst, std::fabs(double{logits[i]} - want[i]));
    // As between any two f32 implementations (golden_test).
    EXPECT_LT(worst, 2e-4) << n << " tokens at " << start;
  }
  EXPECT_EQ(compared, readers * static_cast<int>(schedule.size()));
  EXPECT_EQ((*shared)->bytes(), KvAllocatedBytes(geometry, plan, (*shared)->length()));
}

INSTANTIATE_TEST_SUITE_P(
    Storages, KvSharingTest,
    testing::Values(Case{"f32", {.keys = {32}, .values = {32}}}, Case{"bf16", {.keys = {16}, .values = {16}}},
                    Case{"bits8", {.keys = {8, 32}, .values = {8, 32}}},
                    Case{"bits4", {.keys = {4, 32}, .values = {4, 32}}},
                    Case{"bits4_f32_scales", {.keys = {4, 32, DType::kF32}, .values = {4, 32, DType::kF32}}},
                    Case{"keys6_values3", {.keys = {6, 32}, .values = {3, 32}}},
                    Case{"keys2_values5", {.keys = {2, 32}, .values = {5, 32}}},
                    Case{"first_and_recent",
                         {.keys = {4, 32}, .values = {4, 32}, .dense_first = 3, .dense_recent = 7}}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace optiq
