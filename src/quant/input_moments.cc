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
#include "model/decoder.h"
#include "model/plain_flow.h"

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

// Ordinary activations that add up the squares of every linear's inputs.
class MomentFlow : public PlainFlow {
 public:
  MomentFlow(const DecoderSpec& spec, const RopeTables& ropes, std::vector<Segment> segments, ThreadPool* pool, Sums* sums)
      : PlainFlow(spec, ropes, std::move(segments), pool), pool_(pool), sums_(sums) {}
  ValueId Linear(ValueId x, const LinearWeights& w) override {
    AddSquares(data(x), rows(), columns(x), pool_, &(*sums_)[w.matrix.path]);
    return PlainFlow::Linear(x, w);
  }
  ValueId Linears(ValueId x, std::initializer_list<const LinearWeights*> all) override { return Flow::Linears(x, all); }

 private:
  ThreadPool* pool_;
  Sums* sums_;
};

StatusOr<Sums> SumSquares(const Checkpoint& checkpoint, const DecoderSpec& spec, const TokenBatch& tokens, ThreadPool* pool,
                          ProgressSink* progress) {
  const int64_t d = spec.hidden_size, total = tokens.sequences * tokens.length;
  ASSIGN_OR_RETURN(WeightMatrix embedding, LoadEmbedding(checkpoint, spec));
  for (int32_t id : tokens.ids) {
    if (id < 0 || id >= spec.vocab_size) return InvalidArgument("calibration: token id {} is outside the vocabulary", id);
  }
  AlignedBuffer<float> hidden(total * d);
  EmbedTokens(spec, embedding, tokens.ids, hidden.data(), pool);
  const RopeTables ropes = MakeRopeTables(spec, tokens.length);
  const int blocks = static_cast<int>(spec.layers.size());
  if (progress != nullptr) progress->Begin("reading the inputs of every layer", blocks, "block");
  Sums sums;
  const int64_t group = std::max<int64_t>(1, 2048 / tokens.length);  // bounds the temporaries
  for (int b = 0; b < blocks; ++b) {
    ASSIGN_OR_RETURN(BlockWeights weights, LoadBlockWeights(checkpoint, spec, b));
    for (int64_t s0 = 0; s0 < tokens.sequences; s0 += group) {
      const int64_t sequences = std::min(group, tokens.sequences - s0);
      const int64_t rows = sequences * tokens.length;
      float* state = hidden.data() + s0 * tokens.length * d;
      MomentFlow flow(spec, ropes, std::vector<Segment>(sequences, Segment{.rows = tokens.length}), pool, &sums);
      const ValueId x = flow.NewValue(d);
      std::memcpy(flow.data(x), state, rows * d * sizeof(float));
      const ValueId y = RunBlock(&flow, spec.layers[b], weights, b, x);
      std::memcpy(state, flow.data(y), rows * d * sizeof(float));
    }
    for (LinearWeights* l : weights.linears()) checkpoint.Release(l->matrix.weight);
    if (progress != nullptr) progress->Update(b + 1, "");
  }
  ASSIGN_OR_RETURN(std::vector<float> norm, LoadNorm(checkpoint, spec, spec.norm_path, d));
  pool->ParallelFor(total, [&](int64_t r, int) {
    RmsNormRow(hidden.data() + r * d, norm.data(), d, spec.rms_norm_eps, hidden.data() + r * d);
  });
  AddSquares(hidden.data(), total, d, pool, &sums[spec.tie_word_embeddings ? spec.embed_path : spec.head_path]);
  if (progress != nullptr) progress->End();
  return sums;
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
  for (const DecoderSpec::Module& m : spec.QuantizableModules()) {
    if (static_cast<int64_t>(out.Of(m.path).size()) != m.in) {
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

StatusOr<InputMoments> MeasureInputMoments(const Checkpoint& checkpoint, const DecoderSpec& spec, const TokenBatch& tokens,
                                           const std::string& work_dir, ThreadPool* pool, ProgressSink* progress) {
  ASSIGN_OR_RETURN(const std::string fingerprint, checkpoint.Fingerprint());
  const std::string key = fmt::format("moments 1|{}|{}|{}x{}", fingerprint, tokens.sha256, tokens.sequences, tokens.length);
  const std::string path = work_dir + "/input_moments.safetensors";
  if (!work_dir.empty()) {
    StatusOr<InputMoments> saved = LoadMoments(spec, path, key);
    if (saved.ok() || saved.status().code() != absl::StatusCode::kNotFound) return saved;
  }
  InputMoments out;
  try {
    ASSIGN_OR_RETURN(Sums sums, SumSquares(checkpoint, spec, tokens, pool, progress));
    const double total = static_cast<double>(tokens.sequences * tokens.length);
    for (const auto& [name, values] : sums) {
      std::vector<float>& mean = out.mean_squares[name];
      for (double v : values) {
        if (!std::isfinite(v)) return DataLoss("{}: the inputs of '{}' are not finite; is a weight damaged?", checkpoint.path(), name);
        mean.push_back(static_cast<float>(v / total));
      }
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
  if (!work_dir.empty()) {
    std::vector<TensorData> tensors;
    for (const auto& [name, values] : out.mean_squares) {
      tensors.push_back({.spec = {.name = name, .dtype = DType::kF32, .shape = {static_cast<int64_t>(values.size())}},
                         .bytes = std::as_bytes(std::span(values))});
    }
    RETURN_IF_ERROR(WriteSafetensors(path, tensors, {{"key", key}}));
  }
  return out;
}

}  // namespace optiq
