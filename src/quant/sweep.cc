#include "quant/sweep.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>

#include "base/checked.h"
#include "base/clock.h"
#include "base/sha256.h"
#include "kernels/vector.h"
#include "model/blockwise.h"
#include "model/decoder.h"
#include "model/plain_flow.h"
#include "ops/norm.h"
#include "quant/delta_flow.h"
#include "quant/encode_module.h"
#include "quant/logit_compare.h"
#include "quant/sweep_state.h"

namespace optiq {
namespace {

using Kind = DecoderSpec::ModuleKind;

// Weights that are encoded at a time where a module is taken in slices.
constexpr int64_t kSliceWeights = 32 << 20;

class Sweep {
 public:
  Sweep(const Checkpoint& checkpoint, const DecoderSpec& spec, const TokenBatch& tokens, const InputMoments& moments,
        const SweepOptions& options, ThreadPool* pool, SweepStats* stats)
      : checkpoint_(checkpoint), spec_(spec), tokens_(tokens), moments_(moments), options_(options), pool_(pool), stats_(stats),
        modules_(spec.QuantizableModules()), total_(tokens.sequences * tokens.length),
        ropes_(MakeRopeTables(spec, tokens.length)) {}

  StatusOr<SensitivityTable> Run() {
    const double start = SteadySeconds();
    RETURN_IF_ERROR(MakeTable());
    RETURN_IF_ERROR(MakeProbes());
    RETURN_IF_ERROR(Resume());
    BeginProgress();
    for (; state_.wave < static_cast<int>(wave_begin_.size()) - 1; ++state_.wave) {
      RETURN_IF_ERROR(RunWave());
    }
    if (options_.progress != nullptr) options_.progress->End();
    Fill();
    stats_->seconds = SteadySeconds() - start;
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
      ASSIGN_OR_RETURN(const std::vector<WeightMatrix> parts, LoadModule(checkpoint_, spec_, m));
      const WeightMatrix& w = parts[0];
      if (w.affine) {
        return FailedPrecondition("{}: module '{}' is quantized already; the reference must be a float model",
                                  checkpoint_.path(), m.path);
      }
      SensitivityItem item;
      item.path = m.path;
      item.shape = m.shape();
      item.block = m.block;
      const int scale_bytes = DTypeBlockBytes(ScaleDType(w));
      item.dense_bytes = m.params() * scale_bytes;
      if (auto it = moments_.expert_tokens.find(m.path); it != moments_.expert_tokens.end()) item.expert_tokens = it->second;
      for (AffineFormat f : CandidatesFor(m, options_.candidates)) {
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
    int64_t stream_width = hidden();
    for (const LayerSpec& l : spec_.layers) stream_width += l.attention.kv_is_read_later ? 2 * l.attention.kv_width() : 0;
    const int64_t stream_bytes = total_ * stream_width * static_cast<int64_t>(sizeof(float));
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
    int64_t most = 0;
    for (const LayerSpec& l : spec_.layers) {
      const AttentionSpec& a = l.attention;
      const MoeSpec& moe = l.moe;
      most = std::max(most, 8 * hidden() + 3 * l.intermediate_size + 3 * (a.q_width() + a.kv_width()) +
                                4 * moe.experts_per_token * moe.intermediate_size + 3 * moe.shared_expert_intermediate_size +
                                (moe.num_experts > 0 ? 6 * hidden() + moe.num_experts : 0) + 3 * l.per_layer_input_size +
                                (l.has_attention() ? 0 : 4 * hidden()));
    }
    return 4 * most;
  }

  int64_t SequencesPerGroup() const {
    return std::clamp<int64_t>(TemporaryBytes() / (TapeRowBytes() * tokens_.length), 1, tokens_.sequences);
  }

  // ---- progress, in operations

  double BlockFlops(int layer) const {
    double sum = 0;
    for (const DecoderSpec::Module& m : modules_) {
      if (m.block == layer) sum += 2.0 * m.active_weights() * total_;
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
    std::string key = fmt::format("sweep 3|{}|{}|{}x{}|{}|{}|{}|", table_.fingerprint, tokens_.sha256,
                                  tokens_.sequences, tokens_.length, options_.encoder, options_.probe_all,
                                  static_cast<int>(options_.products));
    for (AffineFormat f : options_.candidates) key += fmt::format("{}g{},", f.bits, f.group_size);
    for (int w : wave_begin_) key += fmt::format("{};", w);
    state_.key = Sha256Hex(key);
    state_.results.resize(probes_.size());
    state_.weight_error.resize(table_.items.size());
    state_.expert_shares.resize(table_.items.size());
    if (options_.work_dir.empty()) return OkStatus();
    const Status loaded = LoadSweepState(StatePath(), state_.key, total_, spec_, &state_);
    if (loaded.ok()) {
      stats_->resumed = true;
    } else if (loaded.code() != absl::StatusCode::kNotFound) {
      return loaded;
    }
    last_save_ = SteadySeconds();
    return OkStatus();
  }

  Status MaybeSave(bool force) {
    if (options_.work_dir.empty() || (!force && SteadySeconds() - last_save_ < options_.save_seconds)) return OkStatus();
    RETURN_IF_ERROR(SaveSweepState(state_, total_, spec_, StatePath()));
    last_save_ = SteadySeconds();
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
    RETURN_IF_ERROR(MakePerLayerSources(begin, end));
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
    state_.next_reference.CopyFrom(state_.reference, spec_, total_);
    state_.has_next_reference = true;
  }

  Status EmbedReference() {
    ASSIGN_OR_RETURN(WeightMatrix embedding, LoadEmbedding(checkpoint_, spec_));
    RETURN_IF_ERROR(CheckTokenIds(spec_, tokens_.ids, "calibration"));
    state_.reference.kv.clear();
    EmbedTokens(spec_, embedding, tokens_.ids, state_.reference.hidden.Grow(total_ * hidden()), pool_);
    return OkStatus();
  }

  Activations& NewStream(int probe) {
    state_.stream_probe.push_back(probe);
    state_.streams.emplace_back();
    state_.streams.back().hidden.Grow(total_ * hidden());
    return state_.streams.back();
  }

  // The scaled embeddings as a probe of the embedding has them. Only the rows of the calibration's tokens are encoded.
  Status EmbedProbe(int probe, float* out) {
    ASSIGN_OR_RETURN(WeightMatrix embedding, LoadEmbedding(checkpoint_, spec_));
    const GatheredRows gathered = GatherRows(embedding, tokens_.ids);
    ASSIGN_OR_RETURN(EncodedModule encoded, Encode(probe, std::span(&gathered.matrix, 1)));
    EmbedTokens(spec_, ViewOf(encoded[0], embedding.path), gathered.rows, out, pool_);
    return OkStatus();
  }

  // Probes before the first block: the embedding, and the per-layer embeddings, which leave the first block's input as it is.
  Status ProbeEmbedding(int begin, int end) {
    for (int p = begin; p < end; ++p) {
      if (modules_[probes_[p].item].block != -1) continue;
      float* stream = NewStream(p).hidden.data();
      if (modules_[probes_[p].item].kind == Kind::kEmbedding) {
        RETURN_IF_ERROR(EmbedProbe(p, stream));
        SubRow(stream, state_.reference.hidden.data(), total_ * hidden(), stream);
      } else {
        std::memset(stream, 0, total_ * hidden() * sizeof(float));
      }
    }
    for (size_t i = 0; i < modules_.size(); ++i) {
      if (modules_[i].block != -1) continue;
      ASSIGN_OR_RETURN(std::vector<WeightMatrix> parts, LoadModule(checkpoint_, spec_, modules_[i]));
      if (modules_[i].kind == Kind::kPerLayerEmbedding) {
        // A table that is only looked up: what matters is the rows in use.
        const GatheredRows gathered = GatherRows(parts[0], tokens_.ids);
        RETURN_IF_ERROR(MeasureErrors(static_cast<int>(i), std::span(&gathered.matrix, 1)));
      } else {
        RETURN_IF_ERROR(MeasureErrors(static_cast<int>(i), parts));
      }
      for (const WeightMatrix& w : parts) checkpoint_.Release(w.weight);
    }
    return OkStatus();
  }

  // ---- per-layer embeddings: recomputed block by block from the tokens, for the reference and for the probes that change them

  struct ProbeSource {
    PerLayerSource source;
    EncodedModule encoded;
  };

  Status MakePerLayerSources(int begin, int end) {
    probe_sources_.clear();
    if (spec_.per_layer_input_size == 0) return OkStatus();
    AlignedBuffer<float> hidden_rows(total_ * hidden());
    ASSIGN_OR_RETURN(WeightMatrix embedding, LoadEmbedding(checkpoint_, spec_));
    ASSIGN_OR_RETURN(PerLayerWeights weights, LoadPerLayerWeights(checkpoint_, spec_));
    EmbedTokens(spec_, embedding, tokens_.ids, hidden_rows.data(), pool_);
    per_layer_ = MakePerLayerSource(spec_, weights, tokens_.ids, hidden_rows.data());
    for (int p = begin; p < end; ++p) {
      const DecoderSpec::Module& m = modules_[probes_[p].item];
      if (m.block != -1) continue;
      ProbeSource& probe = probe_sources_[p];
      PerLayerWeights changed = weights;
      if (m.kind == Kind::kPerLayerProjection) {
        ASSIGN_OR_RETURN(probe.encoded, Encode(p, std::span(&weights.projection.matrix, 1)));
        changed.projection.matrix = ViewOf(probe.encoded[0], m.path);
        probe.source = MakePerLayerSource(spec_, changed, tokens_.ids, hidden_rows.data());
      } else if (m.kind == Kind::kPerLayerEmbedding) {
        const GatheredRows gathered = GatherRows(weights.embedding, tokens_.ids);
        ASSIGN_OR_RETURN(probe.encoded, Encode(p, std::span(&gathered.matrix, 1)));
        changed.embedding = ViewOf(probe.encoded[0], m.path);
        probe.source = MakePerLayerSource(spec_, changed, gathered.rows, hidden_rows.data());
      } else {
        AlignedBuffer<float> probed(total_ * hidden());
        RETURN_IF_ERROR(EmbedProbe(p, probed.data()));
        probe.source = MakePerLayerSource(spec_, changed, tokens_.ids, probed.data());
      }
    }
    return OkStatus();
  }

  // Differences of the per-layer inputs of streams [first, first + count) from the reference's; nullptr when there are none.
  const float* PerLayerDifferences(int b, size_t first, int64_t count, int64_t row0, int64_t rows, const float* reference) {
    bool any = false;
    for (int64_t s = 0; s < count; ++s) any |= probe_sources_.contains(state_.stream_probe[first + s]);
    if (!any) return nullptr;
    const int64_t n = rows * spec_.per_layer_input_size;
    float* out = per_layer_differences_.Grow(count * n);
    for (int64_t s = 0; s < count; ++s) {
      auto it = probe_sources_.find(state_.stream_probe[first + s]);
      if (it == probe_sources_.end()) {
        std::memset(out + s * n, 0, n * sizeof(float));
      } else {
        it->second.source.Inputs(spec_, b, row0, rows, out + s * n, pool_);
        SubRow(out + s * n, reference, n, out + s * n);
      }
    }
    return out;
  }

  StatusOr<EncodedModule> Encode(int probe, std::span<const WeightMatrix> parts) {
    const SensitivityOption& o = table_.items[probes_[probe].item].options[probes_[probe].option];
    return EncodeModule(parts, o.format, o.encoder, moments_, pool_);
  }

  // weight_error of all options of an item, once; slice by slice.
  Status MeasureErrors(int item, std::span<const WeightMatrix> parts) {
    if (!state_.weight_error[item].empty()) return OkStatus();
    const bool stacked = modules_[item].experts > 0;
    std::vector<double> errors;
    for (const SensitivityOption& o : table_.items[item].options) {
      std::vector<OutputError> sums(parts.size());
      RETURN_IF_ERROR(ForEachSlice(parts, stacked, kSliceWeights, [&](const WeightMatrix& rows, int expert) -> Status {
        const std::span<const float> h = moments_.OfPart(rows.path, expert, rows.cols);
        ASSIGN_OR_RETURN(AffineMatrix encoded, EncodeMatrix(rows, o.format, o.encoder, h, pool_));
        const OutputError e = OutputErrorOf(rows, encoded, h, pool_);
        OutputError& sum = sums[std::max(0, expert)];
        sum.error += e.error;
        sum.total += e.total;
        return OkStatus();
      }));
      double error = 0, total = 0;
      for (const OutputError& e : sums) {
        error += e.error;
        total += e.total;
      }
      if (stacked && errors.empty() && error > 0) {
        for (const OutputError& e : sums) state_.expert_shares[item].push_back(e.error / error);
      }
      errors.push_back(total > 0 ? error / total : 0);
    }
    state_.weight_error[item] = std::move(errors);
    return OkStatus();
  }

  Status RunOneBlock(int b, int begin, int end) {
    ASSIGN_OR_RETURN(BlockWeights weights, LoadBlockWeights(checkpoint_, spec_, b));
    if (b + 1 < num_layers()) {
      ASSIGN_OR_RETURN(BlockWeights next, LoadBlockWeights(checkpoint_, spec_, b + 1));
      for (const WeightMatrix* m : next.matrices()) checkpoint_.Prefetch(m->weight);
    }
    // Probes that branch off here, with their encoded matrices.
    std::vector<int> fresh;
    std::vector<EncodedModule> encoded;
    for (int p = begin; p < end; ++p) {
      if (modules_[probes_[p].item].block != b) continue;
      ASSIGN_OR_RETURN(EncodedModule m, Encode(p, weights.Find(modules_[probes_[p].item].path)));
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
      RETURN_IF_ERROR(MeasureErrors(static_cast<int>(i), weights.Find(modules_[i].path)));
    }
    for (const WeightMatrix* m : weights.matrices()) checkpoint_.Release(m->weight);
    return OkStatus();
  }

  // The inputs of block b for streams [first, first + count): their differences, or zeros for streams that begin here.
  ValueId EnterStreams(int b, size_t first, int64_t count, bool begin_here, int64_t row0, const PlainFlow& tape,
                       DeltaFlow* flow) {
    const int64_t rows = tape.rows();
    // One value from one buffer per stream; a stream without it has zeros.
    const auto value = [&](int64_t columns, auto buffer_of) {
      bool any = false;
      for (int64_t s = 0; s < count; ++s) any |= buffer_of(state_.streams[first + s]) != nullptr;
      const ValueId id = flow->Input(columns, !any);
      for (int64_t s = 0; any && s < count; ++s) {
        const AlignedBuffer<float>* from = buffer_of(state_.streams[first + s]);
        float* to = flow->data(id) + s * rows * columns;
        if (from == nullptr) {
          std::memset(to, 0, rows * columns * sizeof(float));
        } else {
          std::memcpy(to, from->data() + row0 * columns, rows * columns * sizeof(float));
        }
      }
      return id;
    };
    const ValueId x = value(hidden(), [&](const Activations& a) { return begin_here ? nullptr : &a.hidden; });
    const AttentionSpec& attention = spec_.layers[b].attention;
    if (spec_.layers[b].has_attention() && !attention.has_own_kv()) {
      const auto rows_of = [&](const Activations& a, bool keys) -> const AlignedBuffer<float>* {
        auto it = a.kv.find(attention.kv_layer);
        if (begin_here || it == a.kv.end()) return nullptr;
        return keys ? &it->second.k : &it->second.v;
      };
      PlainFlow::KeysValues kv;
      kv.k = value(attention.kv_width(), [&](const Activations& a) { return rows_of(a, true); });
      kv.v = value(attention.kv_width(), [&](const Activations& a) { return rows_of(a, false); });
      flow->ProvideKv(attention.kv_layer, kv);
    }
    if (spec_.layers[b].per_layer_input_size > 0) {
      flow->SetPerLayerInput(PerLayerDifferences(b, first, count, row0, rows, per_layer_inputs_.data()));
    }
    return x;
  }

  // Takes the block's output y, and keys and values that later blocks read.
  void LeaveStreams(int b, size_t first, int64_t count, int64_t row0, int64_t rows, ValueId y, DeltaFlow* flow) {
    const auto take = [&](ValueId id, int64_t columns, int64_t s, AlignedBuffer<float>* to) {
      std::memcpy(to->Grow(total_ * columns) + row0 * columns, flow->data(id) + s * rows * columns, rows * columns * sizeof(float));
    };
    const AttentionSpec& attention = spec_.layers[b].attention;
    const PlainFlow::KeysValues kv = flow->SharedKv(b);
    for (int64_t s = 0; s < count; ++s) {
      Activations& stream = state_.streams[first + s];
      if (flow->is_zero(y)) {
        std::memset(stream.hidden.data() + row0 * hidden(), 0, rows * hidden() * sizeof(float));
      } else {
        take(y, hidden(), s, &stream.hidden);
      }
      if (!attention.kv_is_read_later || (flow->is_zero(kv.k) && flow->is_zero(kv.v))) continue;
      SharedKvRows& mine = stream.kv[b];
      for (auto [id, to] : {std::pair(kv.k, &mine.k), std::pair(kv.v, &mine.v)}) {
        if (flow->is_zero(id)) {
          std::memset(to->Grow(total_ * attention.kv_width()), 0, total_ * attention.kv_width() * sizeof(float));
        } else {
          take(id, attention.kv_width(), s, to);
        }
      }
    }
  }

  // Rows [row0, row0 + sequences * length) of the reference and of all streams through block b.
  void RunGroup(int b, const BlockWeights& weights, int64_t row0, int64_t sequences, size_t old_streams,
                const std::vector<int>& fresh, const std::vector<EncodedModule>& encoded) {
    const int64_t rows = sequences * tokens_.length;
    const double block_flops = BlockFlops(b) * rows / total_;
    const std::vector<Segment> segments(sequences, Segment{.rows = tokens_.length});
    PlainFlow tape(spec_, ropes_, segments, pool_, /*keep_all=*/true, &buffers_);
    tape.set_fixed_order(true);
    const ValueId x = EnterBlock(spec_, b, state_.reference, per_layer_, row0, &tape, &per_layer_inputs_, pool_);
    const ValueId out = RunBlock(&tape, spec_.layers[b], weights, b, x);
    flops_ += block_flops;
    Advance(block_flops, spec_.layers[b].prefix.substr(0, spec_.layers[b].prefix.size() - 1));

    // Older streams, as many side by side as temporaries allow.
    const int64_t at_once =
        std::clamp<int64_t>(TemporaryBytes() / (TapeRowBytes() * rows), 1, std::max<int64_t>(1, old_streams));
    for (size_t first = 0; first < old_streams; first += at_once) {
      const int64_t count = std::min<int64_t>(at_once, old_streams - first);
      DeltaFlow flow(spec_, ropes_, segments, tape, count, options_.products, pool_, &buffers_);
      const ValueId in = EnterStreams(b, first, count, false, row0, tape, &flow);
      LeaveStreams(b, first, count, row0, rows, RunBlock(&flow, spec_.layers[b], weights, b, in), &flow);
      flops_ += flow.gemm_flops();
      Advance(block_flops * count, "");
    }
    for (size_t i = 0; i < fresh.size(); ++i) {
      DeltaFlow flow(spec_, ropes_, segments, tape, 1, options_.products, pool_, &buffers_);
      const std::string& path = modules_[probes_[fresh[i]].item].path;
      const std::vector<WeightMatrix> views = ViewsOf(encoded[i], path);
      flow.SetProbe(&path, views);
      const ValueId in = EnterStreams(b, old_streams + i, 1, true, row0, tape, &flow);
      LeaveStreams(b, old_streams + i, 1, row0, rows, RunBlock(&flow, spec_.layers[b], weights, b, in), &flow);
      flops_ += flow.gemm_flops();
      Advance(block_flops, "");
    }
    LeaveBlock(spec_, b, tape, out, row0, total_, &state_.reference);
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
    RmsNormRows(state_.reference.hidden.data(), total_, d, norm.data(), spec_.rms_norm_eps, normed.data(), pool_);
    std::vector<LogitCandidate> candidates(probe_of.size());
    std::vector<EncodedModule> encoded(probe_of.size());
    std::vector<WeightMatrix> heads(probe_of.size());
    for (size_t i = 0; i < probe_of.size(); ++i) {
      const bool has_stream = i < state_.streams.size();
      const Kind kind = modules_[probes_[probe_of[i]].item].kind;
      const bool own_head = kind == Kind::kHead || (kind == Kind::kEmbedding && spec_.tie_word_embeddings);
      if (has_stream) {
        float* stream = state_.streams[i].hidden.data();
        pool_->ParallelFor(total_, [&](int64_t r, int) {
          float* row = stream + r * d;
          AddRow(row, state_.reference.hidden.data() + r * d, d, row);
          RmsNormRow(row, norm.data(), d, spec_.rms_norm_eps, row);
          if (!own_head) SubRow(row, normed.data() + r * d, d, row);  // differences; else full hidden states
        });
      }
      candidates[i].hidden = has_stream ? state_.streams[i].hidden.data() : normed.data();
      if (own_head) {
        ASSIGN_OR_RETURN(encoded[i], Encode(probe_of[i], std::span(&head, 1)));
        heads[i] = ViewOf(encoded[i][0], head.path);
        candidates[i].head = &heads[i];
      }
    }
    for (size_t item = 0; item < table_.items.size(); ++item) {
      if (modules_[item].block != num_layers() || !state_.weight_error[item].empty()) continue;
      RETURN_IF_ERROR(MeasureErrors(static_cast<int>(item), std::span(&head, 1)));
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
      table_.items[i].expert_error_shares = state_.expert_shares[i];
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
  PerLayerSource per_layer_;                  // of the reference
  std::map<int, ProbeSource> probe_sources_;  // of probes before the first block
  AlignedBuffer<float> per_layer_inputs_, per_layer_differences_;
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
