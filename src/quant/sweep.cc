#include "quant/sweep.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <new>

#include "base/checked.h"
#include "base/sha256.h"
#include "kernels/vector.h"
#include "model/decoder.h"
#include "model/plain_flow.h"
#include "quant/delta_flow.h"
#include "quant/encode.h"
#include "quant/logit_compare.h"
#include "quant/sweep_state.h"

namespace optiq {
namespace {

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

class Sweep {
 public:
  Sweep(const Checkpoint& checkpoint, const DecoderSpec& spec, const TokenBatch& tokens, const InputMoments& moments,
        const SweepOptions& options, ThreadPool* pool, SweepStats* stats)
      : checkpoint_(checkpoint), spec_(spec), tokens_(tokens), moments_(moments), options_(options), pool_(pool), stats_(stats),
        modules_(spec.QuantizableModules()), total_(tokens.sequences * tokens.length),
        ropes_(MakeRopeTables(spec, tokens.length)) {}

  StatusOr<SensitivityTable> Run() {
    const double start = Now();
    RETURN_IF_ERROR(MakeTable());
    RETURN_IF_ERROR(MakeProbes());
    RETURN_IF_ERROR(Resume());
    BeginProgress();
    for (; state_.wave < static_cast<int>(wave_begin_.size()) - 1; ++state_.wave) {
      RETURN_IF_ERROR(RunWave());
    }
    if (options_.progress != nullptr) options_.progress->End();
    Fill();
    stats_->seconds = Now() - start;
    stats_->gemm_flops = flops_;
    stats_->probes = static_cast<int64_t>(probes_.size());
    stats_->waves = static_cast<int>(wave_begin_.size()) - 1;
    return std::move(table_);
  }

 private:
  int64_t hidden() const { return spec_.hidden_size; }
  int num_layers() const { return static_cast<int>(spec_.layers.size()); }

  // ---- what to measure

  Status MakeTable() {
    ASSIGN_OR_RETURN(table_.fingerprint, checkpoint_.Fingerprint());
    table_.base_model = checkpoint_.path();
    table_.calibration_sha256 = tokens_.sha256;
    table_.calibration_sequences = tokens_.sequences;
    table_.calibration_length = tokens_.length;
    for (const DecoderSpec::Module& m : modules_) {
      ASSIGN_OR_RETURN(WeightMatrix w, LoadWeightMatrix(checkpoint_, m.path, m.out, m.in));
      if (w.affine) {
        return FailedPrecondition("{}: module '{}' is quantized already; the reference must be a float model",
                                  checkpoint_.path(), m.path);
      }
      SensitivityItem item;
      item.path = m.path;
      item.shape = {m.out, m.in};
      item.block = m.block;
      const int scale_bytes = DTypeBlockBytes(ScaleDType(w));
      item.dense_bytes = static_cast<uint64_t>(m.out) * m.in * scale_bytes;
      for (AffineFormat f : options_.candidates) {
        if (m.in % f.group_size != 0) continue;
        SensitivityOption o;
        o.format = f;
        o.encoder = options_.encoder;
        o.bytes = AffineBytes(item.shape, f, scale_bytes);
        item.options.push_back(o);
      }
      table_.items.push_back(std::move(item));
    }
    return OkStatus();
  }

  Status MakeProbes() {
    for (size_t i = 0; i < table_.items.size(); ++i) {
      std::vector<AffineFormat> formats;
      for (const SensitivityOption& o : table_.items[i].options) formats.push_back(o.format);
      const std::vector<bool> probed = ProbedOptions(formats, options_.probe_all);
      for (size_t o = 0; o < formats.size(); ++o) {
        if (probed[o]) probes_.push_back({static_cast<int>(i), static_cast<int>(o)});
      }
    }
    if (probes_.empty()) {
      return InvalidArgument("{}: no weight can be quantized: no candidate group size divides its inputs",
                             checkpoint_.path());
    }
    // Streams that fit beside the tape, temporaries and the slices of the comparison.
    const int64_t stream_bytes = total_ * hidden() * static_cast<int64_t>(sizeof(float));
    const int64_t for_streams = static_cast<int64_t>(options_.memory_bytes) - 4 * TemporaryBytes();
    const int64_t at_once = std::max<int64_t>(1, for_streams / stream_bytes);
    const int64_t waves = DivUp(static_cast<int64_t>(probes_.size()), at_once);
    // Equal amounts of work: late probes are cheap, so waves are cut where the costs, not the counts, are even. The first
    // wave's streams are all alive at the end, so counts bound memory.
    for (int64_t w = 0; w < waves; ++w) wave_begin_.push_back(static_cast<int>(w * probes_.size() / waves));
    wave_begin_.push_back(static_cast<int>(probes_.size()));
    return OkStatus();
  }

  // Bound on tape and on each flow's temporaries.
  int64_t TemporaryBytes() const {
    return std::clamp<int64_t>(static_cast<int64_t>(options_.memory_bytes) / 8, 64 << 20, 256 << 20);
  }

  int64_t TapeRowBytes() const {
    const LayerSpec& l = spec_.layers[0];
    const AttentionSpec& a = l.attention;
    int64_t inter = 0;
    for (const LayerSpec& layer : spec_.layers) inter = std::max(inter, layer.intermediate_size);
    return 4 * (8 * hidden() + 3 * inter + 3 * (a.num_attention_heads + a.num_key_value_heads) * a.head_dim);
  }

  int64_t SequencesPerGroup() const {
    return std::clamp<int64_t>(TemporaryBytes() / (TapeRowBytes() * tokens_.length), 1, tokens_.sequences);
  }

  // ---- progress, in operations

  double BlockFlops(int layer) const {
    double sum = 0;
    for (const DecoderSpec::Module& m : modules_) {
      if (m.block == layer) sum += 2.0 * m.out * m.in * total_;
    }
    return sum;
  }
  double HeadFlops() const { return 2.0 * spec_.vocab_size * hidden() * total_; }

  double WaveFlops(int wave) const {
    double sum = 3 * HeadFlops();
    const int first = std::max(0, modules_[probes_[wave_begin_[wave]].item].block);
    for (int b = first; b < num_layers(); ++b) sum += BlockFlops(b);
    for (int p = wave_begin_[wave]; p < wave_begin_[wave + 1]; ++p) {
      for (int b = std::max(0, modules_[probes_[p].item].block); b < num_layers(); ++b) sum += BlockFlops(b);
      sum += HeadFlops();
    }
    return sum;
  }

  void BeginProgress() {
    if (options_.progress == nullptr) return;
    double sum = 0;
    for (size_t w = 0; w + 1 < wave_begin_.size(); ++w) sum += WaveFlops(static_cast<int>(w));
    options_.progress->Begin("measuring sensitivity", static_cast<int64_t>(sum / 1e9), "GFLOP");
    for (int w = 0; w < state_.wave; ++w) planned_flops_ += WaveFlops(w);
    const int first = std::max(0, modules_[probes_[wave_begin_[state_.wave]].item].block);
    for (int b = first; b < state_.next_block; ++b) planned_flops_ += BlockFlops(b) * (1 + AliveAt(b));
  }

  int64_t AliveAt(int block) const {
    int64_t n = 0;
    for (int p = wave_begin_[state_.wave]; p < wave_begin_[state_.wave + 1]; ++p) n += modules_[probes_[p].item].block <= block;
    return n;
  }

  void Advance(double flops, const std::string& note) {
    planned_flops_ += flops;
    if (options_.progress != nullptr) options_.progress->Update(static_cast<int64_t>(planned_flops_ / 1e9), note);
  }

  // ---- resuming

  std::string StatePath() const { return options_.work_dir + "/sweep_state.safetensors"; }

  Status Resume() {
    std::string key = fmt::format("sweep 2|{}|{}|{}x{}|{}|{}|{}|", table_.fingerprint, tokens_.sha256,
                                  tokens_.sequences, tokens_.length, options_.encoder, options_.probe_all,
                                  static_cast<int>(options_.products));
    for (AffineFormat f : options_.candidates) key += fmt::format("{}g{},", f.bits, f.group_size);
    for (int w : wave_begin_) key += fmt::format("{};", w);
    state_.key = Sha256Hex(key);
    state_.results.resize(probes_.size());
    state_.weight_error.resize(table_.items.size());
    if (options_.work_dir.empty()) return OkStatus();
    const Status loaded = LoadSweepState(StatePath(), state_.key, total_, hidden(), &state_);
    if (loaded.ok()) {
      stats_->resumed = true;
    } else if (loaded.code() != absl::StatusCode::kNotFound) {
      return loaded;
    }
    last_save_ = Now();
    return OkStatus();
  }

  Status MaybeSave(bool force) {
    if (options_.work_dir.empty() || (!force && Now() - last_save_ < options_.save_seconds)) return OkStatus();
    RETURN_IF_ERROR(SaveSweepState(state_, total_, hidden(), StatePath()));
    last_save_ = Now();
    return OkStatus();
  }

  // ---- one wave

  Status RunWave() {
    const int begin = wave_begin_[state_.wave], end = wave_begin_[state_.wave + 1];
    const int first_block = modules_[probes_[begin].item].block;
    if (!started_ && stats_->resumed) {
      started_ = true;  // the state is in the middle of this wave
    } else {
      started_ = true;
      state_.stream_probe.clear();
      state_.streams.clear();
      state_.next_block = first_block;
      if (state_.wave == 0) {
        RETURN_IF_ERROR(EmbedReference());
      } else {
        OPTIQ_CHECK(state_.has_next_reference);
        std::swap(state_.reference, state_.next_reference);
      }
      state_.has_next_reference = false;
    }
    const bool last_wave = state_.wave + 2 == static_cast<int>(wave_begin_.size());
    const int next_wave_block = last_wave ? num_layers() + 1 : modules_[probes_[end].item].block;
    while (state_.next_block < num_layers()) {
      const int b = state_.next_block;
      if (b == next_wave_block) KeepForNextWave();
      if (b < 0) {
        RETURN_IF_ERROR(ProbeEmbedding(begin, end));
      } else {
        RETURN_IF_ERROR(RunOneBlock(b, begin, end));
      }
      ++state_.next_block;
      RETURN_IF_ERROR(MaybeSave(false));
      if (options_.stop_after_block >= 0 && b == options_.stop_after_block) {
        RETURN_IF_ERROR(MaybeSave(true));
        return Cancelled("stopped after block {}", b);
      }
    }
    if (next_wave_block == num_layers()) KeepForNextWave();
    return CompareStreams(begin, end);
  }

  void KeepForNextWave() {
    std::memcpy(state_.next_reference.Grow(total_ * hidden()), state_.reference.data(),
                total_ * hidden() * sizeof(float));
    state_.has_next_reference = true;
  }

  Status EmbedReference() {
    ASSIGN_OR_RETURN(WeightMatrix embedding, LoadEmbedding(checkpoint_, spec_));
    for (int32_t id : tokens_.ids) {
      if (id < 0 || id >= spec_.vocab_size) return InvalidArgument("calibration: token id {} is outside the vocabulary", id);
    }
    EmbedTokens(spec_, embedding, tokens_.ids, state_.reference.Grow(total_ * hidden()), pool_);
    return OkStatus();
  }

  AlignedBuffer<float>& NewStream(int probe) {
    state_.stream_probe.push_back(probe);
    state_.streams.emplace_back(total_ * hidden());
    return state_.streams.back();
  }

  Status ProbeEmbedding(int begin, int end) {
    ASSIGN_OR_RETURN(WeightMatrix embedding, LoadEmbedding(checkpoint_, spec_));
    for (int p = begin; p < end; ++p) {
      if (modules_[probes_[p].item].block != -1) continue;
      ASSIGN_OR_RETURN(AffineMatrix encoded, Encode(p, embedding));
      float* stream = NewStream(p).data();
      EmbedTokens(spec_, ViewOf(encoded, embedding.path), tokens_.ids, stream, pool_);
      SubRow(stream, state_.reference.data(), total_ * hidden(), stream);
    }
    RETURN_IF_ERROR(MeasureErrors(0, embedding));
    checkpoint_.Release(embedding.weight);
    return OkStatus();
  }

  StatusOr<AffineMatrix> Encode(int probe, const WeightMatrix& w) {
    const SensitivityOption& o = table_.items[probes_[probe].item].options[probes_[probe].option];
    return EncodeMatrix(w, o.format, o.encoder, MomentsOf(probes_[probe].item), pool_);
  }

  std::span<const float> MomentsOf(int item) const { return moments_.Of(table_.items[item].path); }

  // weight_error of all options of an item, once.
  Status MeasureErrors(int item, const WeightMatrix& w) {
    if (!state_.weight_error[item].empty()) return OkStatus();
    std::vector<double> errors;
    for (const SensitivityOption& o : table_.items[item].options) {
      ASSIGN_OR_RETURN(AffineMatrix encoded, EncodeMatrix(w, o.format, o.encoder, MomentsOf(item), pool_));
      errors.push_back(RelativeError(w, encoded, MomentsOf(item), pool_));
    }
    state_.weight_error[item] = std::move(errors);
    return OkStatus();
  }

  Status RunOneBlock(int b, int begin, int end) {
    ASSIGN_OR_RETURN(BlockWeights weights, LoadBlockWeights(checkpoint_, spec_, b));
    if (b + 1 < num_layers()) {
      ASSIGN_OR_RETURN(BlockWeights next, LoadBlockWeights(checkpoint_, spec_, b + 1));
      for (LinearWeights* l : next.linears()) checkpoint_.Prefetch(l->matrix.weight);
    }
    // Probes that branch off here, with their encoded matrices.
    std::vector<int> fresh;
    std::vector<AffineMatrix> encoded;
    for (int p = begin; p < end; ++p) {
      if (modules_[probes_[p].item].block != b) continue;
      ASSIGN_OR_RETURN(AffineMatrix m, Encode(p, MatrixOf(weights, modules_[probes_[p].item].path)));
      fresh.push_back(p);
      encoded.push_back(std::move(m));
    }
    const size_t old_streams = state_.streams.size();
    for (int p : fresh) NewStream(p);

    const int64_t group = SequencesPerGroup();
    for (int64_t s0 = 0; s0 < tokens_.sequences; s0 += group) {
      const int64_t sequences = std::min(group, tokens_.sequences - s0);
      RunGroup(b, weights, s0 * tokens_.length, sequences, old_streams, fresh, encoded);
    }
    for (size_t i = 0; i < table_.items.size(); ++i) {
      if (modules_[i].block != b) continue;
      RETURN_IF_ERROR(MeasureErrors(static_cast<int>(i), MatrixOf(weights, modules_[i].path)));
    }
    for (LinearWeights* l : weights.linears()) checkpoint_.Release(l->matrix.weight);
    return OkStatus();
  }

  const WeightMatrix& MatrixOf(const BlockWeights& weights, const std::string& path) {
    for (const LinearWeights* l : weights.linears()) {
      if (l->matrix.path == path) return l->matrix;
    }
    OPTIQ_CHECK(false);
  }

  // Rows [row0, row0 + sequences * length) of the reference and of all streams through block b.
  void RunGroup(int b, const BlockWeights& weights, int64_t row0, int64_t sequences, size_t old_streams,
                const std::vector<int>& fresh, const std::vector<AffineMatrix>& encoded) {
    const int64_t rows = sequences * tokens_.length, d = hidden();
    const double block_flops = BlockFlops(b) * rows / total_;
    const std::vector<Segment> segments(sequences, Segment{.rows = tokens_.length});
    PlainFlow tape(spec_, ropes_, segments, pool_, /*keep_all=*/true, &buffers_);
    const ValueId x = tape.NewValue(d);
    std::memcpy(tape.data(x), state_.reference.data() + row0 * d, rows * d * sizeof(float));
    const ValueId out = RunBlock(&tape, spec_.layers[b], weights, b, x);
    flops_ += block_flops;
    Advance(block_flops, spec_.layers[b].prefix.substr(0, spec_.layers[b].prefix.size() - 1));

    // Older streams, as many side by side as temporaries allow.
    const int64_t at_once =
        std::clamp<int64_t>(TemporaryBytes() / (TapeRowBytes() * rows), 1, std::max<int64_t>(1, old_streams));
    for (size_t first = 0; first < old_streams; first += at_once) {
      const int64_t count = std::min<int64_t>(at_once, old_streams - first);
      DeltaFlow flow(spec_, ropes_, segments, tape, count, options_.products, pool_, &buffers_);
      const ValueId in = flow.Input(d, false);
      for (int64_t s = 0; s < count; ++s) {
        std::memcpy(flow.data(in) + s * rows * d, state_.streams[first + s].data() + row0 * d, rows * d * sizeof(float));
      }
      const ValueId y = RunBlock(&flow, spec_.layers[b], weights, b, in);
      for (int64_t s = 0; s < count; ++s) {
        std::memcpy(state_.streams[first + s].data() + row0 * d, flow.data(y) + s * rows * d, rows * d * sizeof(float));
      }
      flops_ += flow.gemm_flops();
      Advance(block_flops * count, "");
    }
    for (size_t i = 0; i < fresh.size(); ++i) {
      DeltaFlow flow(spec_, ropes_, segments, tape, 1, options_.products, pool_, &buffers_);
      const std::string& path = modules_[probes_[fresh[i]].item].path;
      const WeightMatrix view = ViewOf(encoded[i], path);
      flow.SetProbe(&path, &view);
      const ValueId y = RunBlock(&flow, spec_.layers[b], weights, b, flow.Input(d, true));
      std::memcpy(state_.streams[old_streams + i].data() + row0 * d, flow.data(y), rows * d * sizeof(float));
      flops_ += flow.gemm_flops();
      Advance(block_flops, "");
    }
    std::memcpy(state_.reference.data() + row0 * d, tape.data(out), rows * d * sizeof(float));
  }

  // Final norm, head, KL of every stream.
  Status CompareStreams(int begin, int end) {
    const int64_t d = hidden();
    ASSIGN_OR_RETURN(std::vector<float> norm, LoadNorm(checkpoint_, spec_, spec_.norm_path, d));
    ASSIGN_OR_RETURN(WeightMatrix head, LoadHead(checkpoint_, spec_));
    // Untied head: its probes have no stream; their input is the reference's.
    std::vector<int> probe_of = state_.stream_probe;
    for (int p = begin; p < end; ++p) {
      if (modules_[probes_[p].item].block == num_layers()) probe_of.push_back(p);
    }
    AlignedBuffer<float> normed(total_ * d);
    pool_->ParallelFor(total_, [&](int64_t r, int) {
      RmsNormRow(state_.reference.data() + r * d, norm.data(), d, spec_.rms_norm_eps, normed.data() + r * d);
    });
    std::vector<LogitCandidate> candidates(probe_of.size());
    std::vector<AffineMatrix> encoded(probe_of.size());
    std::vector<WeightMatrix> heads(probe_of.size());
    for (size_t i = 0; i < probe_of.size(); ++i) {
      const int block = modules_[probes_[probe_of[i]].item].block;
      const bool has_stream = i < state_.streams.size();
      const bool own_head = block == num_layers() || (block == -1 && spec_.tie_word_embeddings);
      if (has_stream) {
        float* stream = state_.streams[i].data();
        pool_->ParallelFor(total_, [&](int64_t r, int) {
          float* row = stream + r * d;
          AddRow(row, state_.reference.data() + r * d, d, row);
          RmsNormRow(row, norm.data(), d, spec_.rms_norm_eps, row);
          if (!own_head) SubRow(row, normed.data() + r * d, d, row);  // differences; else full hidden states
        });
      }
      candidates[i].hidden = has_stream ? state_.streams[i].data() : normed.data();
      if (own_head) {
        ASSIGN_OR_RETURN(encoded[i], Encode(probe_of[i], head));
        heads[i] = ViewOf(encoded[i], head.path);
        candidates[i].head = &heads[i];
      }
    }
    for (size_t item = 0; item < table_.items.size(); ++item) {
      if (modules_[item].block != num_layers() || !state_.weight_error[item].empty()) continue;
      RETURN_IF_ERROR(MeasureErrors(static_cast<int>(item), head));
    }
    const LogitReference reference{.hidden = normed.data(), .rows = total_, .head = &head,
                                   .softcap = spec_.final_logit_softcapping};
    const double before = planned_flops_;
    const double work = HeadFlops() * (3 + candidates.size());
    CompareOptions compare{.products = options_.products, .progress = [&](double fraction) {
                             planned_flops_ = before;
                             Advance(work * fraction, "logits");
                           }};
    const std::vector<LogitComparison> results = CompareLogits(reference, candidates, compare, pool_, nullptr, &flops_);
    for (size_t i = 0; i < probe_of.size(); ++i) {
      const double kl = results[i].mean_kl();
      if (!std::isfinite(kl)) {
        return DataLoss("{}: the logits are not finite when '{}' is encoded; is a weight damaged?", checkpoint_.path(),
                        modules_[probes_[probe_of[i]].item].path);
      }
      state_.results[probe_of[i]] = {true, std::max(0.0, kl), results[i].stderr_kl()};
    }
    checkpoint_.Release(head.weight);
    return OkStatus();
  }

  // ---- results

  void Fill() {
    for (size_t i = 0; i < table_.items.size(); ++i) {
      std::vector<SensitivityOption>& options = table_.items[i].options;
      for (size_t o = 0; o < options.size(); ++o) options[o].weight_error = state_.weight_error[i][o];
      std::vector<int> measured;
      for (size_t p = 0; p < probes_.size(); ++p) {
        if (probes_[p].item != static_cast<int>(i)) continue;
        SensitivityOption& o = options[probes_[p].option];
        o.measured = true;
        o.kl = state_.results[p].kl;
        o.kl_stderr = state_.results[p].kl_stderr;
        measured.push_back(probes_[p].option);
      }
      for (SensitivityOption& o : options) {
        if (o.measured) continue;
        // The nearest probe in bits; of several the one with the nearest error.
        int nearest = -1;
        for (int m : measured) {
          const int distance = std::abs(options[m].format.bits - o.format.bits);
          if (nearest < 0 || distance < std::abs(options[nearest].format.bits - o.format.bits)) nearest = m;
        }
        const SensitivityOption& from = options[nearest];
        o.kl = from.weight_error > 0 ? from.kl * o.weight_error / from.weight_error : 0;
        o.kl_stderr = from.weight_error > 0 ? from.kl_stderr * o.weight_error / from.weight_error : 0;
      }
    }
  }

  const Checkpoint& checkpoint_;
  const DecoderSpec& spec_;
  const TokenBatch& tokens_;
  const InputMoments& moments_;
  const SweepOptions& options_;
  ThreadPool* pool_;
  SweepStats* stats_;
  const std::vector<DecoderSpec::Module> modules_;
  const int64_t total_;  // tokens
  RopeTables ropes_;
  SensitivityTable table_;
  std::vector<Probe> probes_;
  std::vector<int> wave_begin_;  // waves are [wave_begin_[i], wave_begin_[i+1])
  SweepState state_;
  BufferPool<float> buffers_;
  bool started_ = false;
  double last_save_ = 0;
  double flops_ = 0, planned_flops_ = 0;
};

}  // namespace

std::vector<bool> ProbedOptions(const std::vector<AffineFormat>& formats, bool probe_all) {
  std::vector<bool> probed(formats.size(), probe_all);
  if (probe_all || formats.empty()) return probed;
  int smallest = formats[0].bits;
  for (AffineFormat f : formats) smallest = std::min(smallest, f.bits);
  for (size_t i = 0; i < formats.size(); ++i) {
    if (formats[i].bits > std::max(4, smallest) && formats[i].bits != smallest) continue;
    // One group size per width: 64 if it is there, else the first.
    bool better = false;
    for (size_t j = 0; j < formats.size(); ++j) {
      if (formats[j].bits != formats[i].bits || j == i) continue;
      better |= formats[j].group_size == 64 || (formats[i].group_size != 64 && j < i);
    }
    probed[i] = !better;
  }
  return probed;
}

StatusOr<SensitivityTable> MeasureSensitivity(const Checkpoint& checkpoint, const DecoderSpec& spec,
                                              const TokenBatch& tokens, const InputMoments& moments,
                                              const SweepOptions& options, ThreadPool* pool, SweepStats* stats) {
  try {
    SweepStats unused;
    return Sweep(checkpoint, spec, tokens, moments, options, pool, stats != nullptr ? stats : &unused).Run();
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("sensitivity: out of memory; use fewer calibration tokens or a smaller --memory");
  }
}

}  // namespace optiq
