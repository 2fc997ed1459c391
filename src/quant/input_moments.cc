#include "quant/input_moments.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>

#include "base/aligned.h"
#include "base/checked.h"
#include "base/file.h"
#include "io/mapped_file.h"
#include "io/safetensors.h"
#include "io/safetensors_writer.h"
#include "kernels/vector.h"
#include "model/blockwise.h"
#include "model/decoder.h"
#include "model/plain_flow.h"
#include "ops/norm.h"

namespace optiq {
namespace {

using Sums = std::map<std::string, std::vector<double>>;

// Adds the squares of `rows` rows, columns split over threads: a column's sum runs over rows in order.
void AddSquares(const float* x, int64_t rows, int64_t n, ThreadPool* pool, std::vector<double>* sums) {
  sums->resize(n, 0.0);
  constexpr int64_t kColumns = 256;
  pool->ParallelFor(DivUp(n, kColumns), [&](int64_t task, int) {
    const int64_t begin = task * kColumns, end = std::min(n, begin + kColumns);
    float part[kColumns] = {};
    for (int64_t r = 0; r < rows; ++r) AddSquaresRow(x + r * n + begin, end - begin, part);
    for (int64_t i = begin; i < end; ++i) (*sums)[i] += part[i - begin];
  });
}

// Ordinary activations that add up the squares of every linear's inputs; of stacked experts by expert.
class MomentFlow : public PlainFlow {
 public:
  MomentFlow(const DecoderSpec& spec, const RopeTables& ropes, std::vector<Segment> segments, ThreadPool* pool, Sums* sums,
             std::map<std::string, std::vector<int64_t>>* expert_tokens)
      : PlainFlow(spec, ropes, std::move(segments), pool), pool_(pool), sums_(sums), expert_tokens_(expert_tokens) {}
  ValueId Linear(ValueId x, const LinearWeights& w) override {
    AddSquares(data(x), rows(), columns(x), pool_, &(*sums_)[w.matrix.path]);
    return PlainFlow::Linear(x, w);
  }
  ValueId ExpertLinear(ValueId x, ValueId routing, const ExpertWeights& w) override {
    AddExpertSquares(x, routing, w, false);
    return PlainFlow::ExpertLinear(x, routing, w);
  }
  ValueId ExpertSum(ValueId slots, ValueId routing, const ExpertWeights& w) override {
    AddExpertSquares(slots, routing, w, true);
    return PlainFlow::ExpertSum(slots, routing, w);
  }
  ValueId Linears(ValueId x, std::initializer_list<const LinearWeights*> all) override { return Flow::Linears(x, all); }

 private:
  void AddExpertSquares(ValueId x, ValueId routing, const ExpertWeights& w, bool slots) {
    const std::vector<int32_t>& chosen = experts(routing);
    const int64_t k = columns(routing), in = w.in;
    std::vector<double>& sums = (*sums_)[w.path];
    std::vector<int64_t>& tokens = (*expert_tokens_)[w.path];
    sums.resize(w.experts.size() * in, 0.0);
    tokens.resize(w.experts.size(), 0);
    for (int32_t e : chosen) ++tokens[e];
    constexpr int64_t kColumns = 256;
    const float* from = data(x);
    pool_->ParallelFor(DivUp(in, kColumns), [&](int64_t task, int) {
      const int64_t begin = task * kColumns, end = std::min(in, begin + kColumns);
      for (size_t i = 0; i < chosen.size(); ++i) {
        const float* row = from + (slots ? static_cast<int64_t>(i) : static_cast<int64_t>(i) / k) * in;
        double* to = sums.data() + chosen[i] * in;
        for (int64_t c = begin; c < end; ++c) to[c] += static_cast<double>(row[c]) * row[c];
      }
    });
  }

  ThreadPool* pool_;
  Sums* sums_;
  std::map<std::string, std::vector<int64_t>>* expert_tokens_;
};

StatusOr<Sums> SumSquares(const Checkpoint& checkpoint, const DecoderSpec& spec, const TokenBatch& tokens, ThreadPool* pool,
                          ProgressSink* progress, std::map<std::string, std::vector<int64_t>>* expert_tokens) {
  const int64_t d = spec.hidden_size, total = tokens.sequences * tokens.length;
  ASSIGN_OR_RETURN(WeightMatrix embedding, LoadEmbedding(checkpoint, spec));
  RETURN_IF_ERROR(CheckTokenIds(spec, tokens.ids, "calibration"));
  Activations state;
  EmbedTokens(spec, embedding, tokens.ids, state.hidden.Grow(total * d), pool);
  Sums sums;
  PerLayerSource per_layer;
  if (spec.per_layer_input_size > 0) {
    ASSIGN_OR_RETURN(PerLayerWeights weights, LoadPerLayerWeights(checkpoint, spec));
    per_layer = MakePerLayerSource(spec, std::move(weights), tokens.ids, state.hidden.data());
    AddSquares(state.hidden.data(), total, d, pool, &sums[spec.per_layer_projection_path]);
  }
  const RopeTables ropes = MakeRopeTables(spec, tokens.length);
  const int blocks = static_cast<int>(spec.layers.size());
  if (progress != nullptr) progress->Begin("reading the inputs of every layer", blocks, "block");
  const int64_t group = std::max<int64_t>(1, 2048 / tokens.length);  // bounds the temporaries
  for (int b = 0; b < blocks; ++b) {
    ASSIGN_OR_RETURN(BlockWeights weights, LoadBlockWeights(checkpoint, spec, b));
    for (int64_t s0 = 0; s0 < tokens.sequences; s0 += group) {
      const int64_t sequences = std::min(group, tokens.sequences - s0), row0 = s0 * tokens.length;
      AlignedBuffer<float> inputs;
      MomentFlow flow(spec, ropes, std::vector<Segment>(sequences, Segment{.rows = tokens.length}), pool, &sums, expert_tokens);
      const ValueId x = EnterBlock(spec, b, state, per_layer, row0, &flow, &inputs, pool);
      const ValueId y = RunBlock(&flow, spec.layers[b], weights, b, x);
      LeaveBlock(spec, b, flow, y, row0, total, &state);
    }
    for (const WeightMatrix* m : weights.matrices()) checkpoint.Release(m->weight);
    if (progress != nullptr) progress->Update(b + 1, "");
  }
  ASSIGN_OR_RETURN(std::vector<float> norm, LoadNorm(checkpoint, spec, spec.norm_path, d));
  float* hidden = state.hidden.data();
  RmsNormRows(hidden, total, d, norm.data(), spec.rms_norm_eps, hidden, pool);
  AddSquares(hidden, total, d, pool, &sums[spec.tie_word_embeddings ? spec.embed_path : spec.head_path]);
  if (progress != nullptr) progress->End();
  return sums;
}

// Experts that no token reached get the average of the others: calibration says nothing about them, least of all that they do not matter.
void FillUnreached(const std::vector<int64_t>& tokens, std::vector<float>* mean_squares) {
  const size_t in = mean_squares->size() / tokens.size();
  std::vector<double> average(in, 0.0);
  int64_t reached = 0;
  for (size_t e = 0; e < tokens.size(); ++e) {
    if (tokens[e] == 0) continue;
    ++reached;
    for (size_t i = 0; i < in; ++i) average[i] += (*mean_squares)[e * in + i];
  }
  for (size_t e = 0; e < tokens.size(); ++e) {
    if (tokens[e] > 0) continue;
    for (size_t i = 0; i < in; ++i) (*mean_squares)[e * in + i] = static_cast<float>(average[i] / std::max<int64_t>(1, reached));
  }
}

StatusOr<InputMoments> LoadMoments(const DecoderSpec& spec, const std::string& path, const std::string& key) {
  if (!FileExists(path)) return NotFound("{}: no file", path);
  ASSIGN_OR_RETURN(std::unique_ptr<MappedFile> file, MappedFile::Open(path));
  std::map<std::string, std::string> metadata;
  ASSIGN_OR_RETURN(std::vector<StoredTensor> tensors, ParseSafetensors(file->bytes(), path, &metadata));
  if (metadata["key"] != key) return NotFound("{}: of another job", path);
  InputMoments out;
  for (const StoredTensor& t : tensors) {
    ASSIGN_OR_RETURN(out.mean_squares[t.name], ReadVector(t));
  }
  ASSIGN_OR_RETURN(Json counts, ParseJson(metadata["expert_tokens"], path));
  try {
    out.expert_tokens = counts.get<std::map<std::string, std::vector<int64_t>>>();
  } catch (const Json::exception&) {
    return DataLoss("{}: damaged; delete the file to start again", path);
  }
  for (const DecoderSpec::Module& m : spec.QuantizableModules()) {
    if (static_cast<int64_t>(out.Of(m.path).size()) != std::max<int64_t>(1, m.experts) * m.in) {
      return DataLoss("{}: '{}' is missing or has another size; delete the file to start again", path, m.path);
    }
  }
  return out;
}

}  // namespace

std::span<const float> InputMoments::Of(const std::string& path) const {
  auto it = mean_squares.find(path);
  return it == mean_squares.end() ? std::span<const float>() : std::span<const float>(it->second);
}

std::span<const float> InputMoments::OfPart(const std::string& path, int expert, int64_t in) const {
  const std::span<const float> all = Of(path);
  return expert < 0 || all.empty() ? all : all.subspan(expert * in, in);
}

StatusOr<InputMoments> MeasureInputMoments(const Checkpoint& checkpoint, const DecoderSpec& spec, const TokenBatch& tokens,
                                           const std::string& work_dir, ThreadPool* pool, ProgressSink* progress) {
  ASSIGN_OR_RETURN(const std::string fingerprint, checkpoint.Fingerprint());
  const std::string key = fmt::format("moments 2|{}|{}|{}x{}", fingerprint, tokens.sha256, tokens.sequences, tokens.length);
  const std::string path = work_dir + "/input_moments.safetensors";
  if (!work_dir.empty()) {
    StatusOr<InputMoments> saved = LoadMoments(spec, path, key);
    if (saved.ok() || saved.status().code() != absl::StatusCode::kNotFound) return saved;
  }
  InputMoments out;
  try {
    ASSIGN_OR_RETURN(Sums sums, SumSquares(checkpoint, spec, tokens, pool, progress, &out.expert_tokens));
    const double total = static_cast<double>(tokens.sequences * tokens.length);
    for (const auto& [name, values] : sums) {
      std::vector<float>& mean = out.mean_squares[name];
      for (double v : values) {
        if (!std::isfinite(v)) return DataLoss("{}: the inputs of '{}' are not finite; is a weight damaged?", checkpoint.path(), name);
        mean.push_back(static_cast<float>(v / total));
      }
      if (auto it = out.expert_tokens.find(name); it != out.expert_tokens.end()) FillUnreached(it->second, &mean);
    }
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("calibration: out of memory; use fewer calibration tokens");
  }
  if (spec.tie_word_embeddings) {
    std::vector<float>& h = out.mean_squares[spec.embed_path];
    double mean = 0;
    for (float v : h) mean += v / h.size();
    for (float& v : h) v = mean > 0 ? static_cast<float>(v / mean) + 1.0f : 1.0f;
  } else {
    out.mean_squares[spec.embed_path].assign(spec.hidden_size, 1.0f);
  }
  if (spec.per_layer_input_size > 0) out.mean_squares[spec.per_layer_embed_path].assign(spec.per_layer_width(), 1.0f);
  if (!work_dir.empty()) {
    std::vector<TensorData> tensors;
    for (const auto& [name, values] : out.mean_squares) {
      tensors.push_back({.spec = {.name = name, .dtype = DType::kF32, .shape = {static_cast<int64_t>(values.size())}},
                         .bytes = std::as_bytes(std::span(values))});
    }
    RETURN_IF_ERROR(WriteSafetensors(path, tensors, {{"key", key}, {"expert_tokens", Json(out.expert_tokens).dump()}}));
  }
  return out;
}

}  // namespace optiq
