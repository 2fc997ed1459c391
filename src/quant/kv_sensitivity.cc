#include "quant/kv_sensitivity.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>
#include <set>

#include "base/aligned.h"
#include "base/checked.h"
#include "kernels/vector.h"
#include "model/decoder.h"
#include "model/per_layer_inputs.h"
#include "model/plain_flow.h"
#include "ops/norm.h"
#include "quant/logit_compare.h"

namespace optiq {
namespace {

constexpr int64_t kPrefillChunk = 512;
constexpr int64_t kRowsAtOnce = 1024;  // of streams in one flow

struct Stream {
  int layer = 0;
  KvSide side = KvSide::kKeys;
  int bits = 0;
  std::unique_ptr<KvEntry> encoded;  // the layer's prefix
  std::unique_ptr<KvCache> cache;
  AlignedBuffer<float> x;            // [score, hidden_size]
};

// One sequence.
class Prober {
 public:
  Prober(Decoder* decoder, const KvSensitivityOptions& options, ThreadPool* pool)
      : decoder_(decoder), spec_(decoder->spec()), geometry_(KvGeometryOf(spec_)), options_(options), pool_(pool),
        rows_(options.score_tokens), width_(spec_.hidden_size) {}

  Status Prepare(std::span<const int32_t> ids) {
    const int64_t prefix = static_cast<int64_t>(ids.size()) - rows_;
    path_.reset();
    base_ = decoder_->MakeCache();
    const Products products = decoder_->products();
    decoder_->set_products(Products::kFast);
    Status status = OkStatus();
    std::vector<float> logits;
    for (int64_t done = 0; done < prefix && status.ok(); done += kPrefillChunk) {
      status = decoder_->Forward(ids.subspan(done, std::min(kPrefillChunk, prefix - done)), base_.get(), false, &logits);
    }
    decoder_->set_products(products);
    RETURN_IF_ERROR(status);
    const std::span<const int32_t> tail = ids.subspan(prefix);
    ropes_ = MakeRopeTables(spec_, prefix + rows_);
    inputs_.resize(spec_.layers.size() + 1);
    for (auto& x : inputs_) x.Grow(rows_ * width_);
    EmbedTokens(spec_, decoder_->weights().embedding, tail, inputs_[0].data(), pool_);
    if (spec_.per_layer_input_size > 0) {
      // The same rows for every stream of a flow.
      const int64_t size = rows_ * spec_.per_layer_width();
      float* one = per_layer_.Grow(size * StreamsAtOnce());
      PerLayerInputs(spec_, decoder_->weights().per_layer, tail, inputs_[0].data(), 0, spec_.num_layers(), one, pool_);
      for (int64_t i = 1; i < StreamsAtOnce(); ++i) std::memcpy(one + i * size, one, size * sizeof(float));
    }
    // The reference's path; every probe of layer i starts from its input.
    path_ = KvCache::Probe(*base_);
    path_->KeepShared();
    for (int i = 0; i < spec_.num_layers(); ++i) {
      KvCache* c = path_.get();
      const float* in = inputs_[i].data();
      float* out = inputs_[i + 1].data();
      RunLayer(i, {&c, 1}, {&in, 1}, {&out, 1});
    }
    Normed(inputs_.back().data(), reference_.Grow(rows_ * width_));
    return OkStatus();
  }

  // Probes of layers [begin, end): mean KL per stream goes to record.
  Status Run(int begin, int end, const std::function<void(const Stream&, double)>& record, const std::function<void()>& step) {
    std::vector<std::unique_ptr<Stream>> streams;
    for (int i = begin; i < spec_.num_layers(); ++i) {
      if (i < end) AddStreams(i, &streams);
      for (size_t s = 0; s < streams.size(); s += StreamsAtOnce()) {
        const size_t n = std::min<size_t>(StreamsAtOnce(), streams.size() - s);
        std::vector<KvCache*> caches;
        std::vector<const float*> in;
        std::vector<float*> out;
        for (size_t j = s; j < s + n; ++j) {
          caches.push_back(streams[j]->cache.get());
          in.push_back(streams[j]->x.data());
          out.push_back(streams[j]->x.data());
        }
        RunLayer(i, caches, in, out);
      }
      for (auto& s : streams) {
        if (s->layer == i && !ReadLater(i)) {
          s->cache->Drop(i);
          s->encoded.reset();
        }
      }
      step();
    }
    if (streams.empty()) return OkStatus();
    std::vector<LogitCandidate> candidates;
    for (auto& s : streams) {
      Normed(s->x.data(), s->x.data());
      for (int64_t r = 0; r < rows_; ++r) {
        SubRow(s->x.data() + r * width_, reference_.data() + r * width_, width_, s->x.data() + r * width_);
      }
      candidates.push_back({.hidden = s->x.data()});
    }
    const LogitReference reference{.hidden = reference_.data(), .rows = rows_, .head = &decoder_->weights().head,
                                   .softcap = spec_.final_logit_softcapping};
    const std::vector<LogitComparison> results = CompareLogits(reference, candidates, {}, pool_, nullptr, nullptr);
    for (size_t i = 0; i < streams.size(); ++i) {
      const double kl = results[i].mean_kl();
      if (!std::isfinite(kl)) return DataLoss("the model's logits are not finite; a weight is damaged (NaN or infinity)");
      record(*streams[i], kl);
    }
    return OkStatus();
  }

  // Bytes that one layer's probes take while they run.
  int64_t BytesPerLayer() const {
    return static_cast<int64_t>(2 * options_.bits.size()) * rows_ * width_ * static_cast<int64_t>(sizeof(float));
  }

 private:
  int64_t StreamsAtOnce() const { return std::max<int64_t>(1, kRowsAtOnce / rows_); }

  bool ReadLater(int layer) const {
    for (size_t j = layer + 1; j < geometry_.size(); ++j) {
      if (geometry_[j].donor == layer) return true;
    }
    return false;
  }

  void AddStreams(int layer, std::vector<std::unique_ptr<Stream>>* streams) {
    const KvLayerGeometry& g = geometry_[layer];
    const int group = g.heads > 0 ? KvGroupFor(g.head_dim, options_.group_size) : 0;
    if (group == 0) return;
    for (KvSide side : {KvSide::kKeys, KvSide::kValues}) {
      for (int bits : options_.bits) {
        if (bits > 8) continue;
        auto s = std::make_unique<Stream>();
        s->layer = layer;
        s->side = side;
        s->bits = bits;
        KvLayerPlan plan{.keys = {32}, .values = {32}, .dense_first = options_.dense_first, .dense_recent = options_.dense_recent};
        (side == KvSide::kKeys ? plan.keys : plan.values) = {bits, group};
        s->encoded = std::make_unique<KvEntry>(g, plan);
        s->encoded->Encode(*base_->entry(layer));
        s->cache = KvCache::Probe(*base_);
        s->cache->Replace(layer, KvEntry::Probe(*s->encoded));
        for (int donor = 0; donor < layer; ++donor) {
          if (ReadLater(donor)) s->cache->Borrow(donor, *path_);
        }
        std::memcpy(s->x.Grow(rows_ * width_), inputs_[layer].data(), rows_ * width_ * sizeof(float));
        streams->push_back(std::move(s));
      }
    }
  }

  void RunLayer(int layer, std::span<KvCache* const> caches, std::span<const float* const> in, std::span<float* const> out) {
    std::vector<Segment> segments;
    for (KvCache* c : caches) segments.push_back({.rows = rows_, .start = base_->length(), .cache = c});
    PlainFlow flow(spec_, ropes_, std::move(segments), pool_, false, &buffers_);
    flow.set_fixed_order(true);
    if (spec_.per_layer_input_size > 0) {
      flow.SetPerLayerInput(per_layer_.data() + layer * spec_.per_layer_input_size, spec_.per_layer_width());
    }
    const ValueId x = flow.NewValue(width_);
    for (size_t i = 0; i < in.size(); ++i) std::memcpy(flow.data(x) + i * rows_ * width_, in[i], rows_ * width_ * sizeof(float));
    const ValueId y = RunBlock(&flow, spec_.layers[layer], decoder_->weights().blocks[layer], layer, x);
    for (size_t i = 0; i < out.size(); ++i) std::memcpy(out[i], flow.data(y) + i * rows_ * width_, rows_ * width_ * sizeof(float));
  }

  void Normed(const float* x, float* out) {
    RmsNormRows(x, rows_, width_, decoder_->weights().final_norm.data(), spec_.rms_norm_eps, out, pool_);
  }

  Decoder* decoder_;
  const DecoderSpec& spec_;
  const KvGeometry geometry_;
  const KvSensitivityOptions& options_;
  ThreadPool* pool_;
  const int64_t rows_, width_;
  std::unique_ptr<KvCache> base_, path_;  // the prefix; the reference's pass over the scored tokens
  RopeTables ropes_;
  BufferPool<float> buffers_;
  std::vector<AlignedBuffer<float>> inputs_;  // of every layer, and the last one's output
  AlignedBuffer<float> reference_, per_layer_;
};

}  // namespace

int KvGroupFor(int64_t head_dim, int group_size) {
  for (int g = group_size; g >= 32; g /= 2) {
    if (head_dim % g == 0) return g;
  }
  return 0;
}

StatusOr<KvSensitivity> MeasureKvSensitivity(Decoder* decoder, const TokenBatch& tokens, const KvSensitivityOptions& options,
                                             ThreadPool* pool, ProgressSink* progress) {
  if (tokens.length <= options.score_tokens) {
    return InvalidArgument("sequences of {} tokens cannot have {} scored at their ends", tokens.length, options.score_tokens);
  }
  const int layers = decoder->spec().num_layers();
  KvSensitivity out;
  out.layers.resize(layers);
  try {
    Prober prober(decoder, options, pool);
    const int at_once = static_cast<int>(std::clamp<int64_t>(static_cast<int64_t>(options.memory_bytes) / std::max<int64_t>(1, prober.BytesPerLayer()), 1, layers));
    // A wave passes the layers from its first one on.
    int64_t units = 0, done = 0;
    for (int begin = 0; begin < layers; begin += at_once) units += layers - begin;
    if (progress != nullptr) progress->Begin("measuring the KV cache", tokens.sequences * units, "layers");
    for (int64_t s = 0; s < tokens.sequences; ++s) {
      RETURN_IF_ERROR(prober.Prepare(std::span(tokens.ids).subspan(s * tokens.length, tokens.length)));
      for (int begin = 0; begin < layers; begin += at_once) {
        RETURN_IF_ERROR(prober.Run(
            begin, std::min(layers, begin + at_once),
            [&](const Stream& stream, double kl) {
              KvLayerSensitivity& l = out.layers[stream.layer];
              (stream.side == KvSide::kKeys ? l.keys : l.values)[stream.bits] += kl / tokens.sequences;
            },
            [&] {
              if (progress != nullptr) progress->Update(++done, "");
            }));
      }
      out.tokens += options.score_tokens;
    }
    if (progress != nullptr) progress->End();
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("measuring the KV cache: out of memory; use shorter sequences or fewer scored tokens");
  }
  return out;
}

}  // namespace optiq
