#include "model/decoder.h"

#include <cmath>
#include <cstring>
#include <new>

#include "base/aligned.h"
#include "kernels/vector.h"
#include "model/find_damage.h"
#include "model/per_layer_inputs.h"
#include "model/plain_flow.h"
#include "model/rope.h"
#include "ops/linear.h"

namespace optiq {

namespace {

int64_t WantedRows(const Decoder::Input& input) {
  return input.all_logits ? static_cast<int64_t>(input.ids.size()) : input.no_logits ? 0 : 1;
}

}  // namespace

Decoder::~Decoder() = default;

StatusOr<std::unique_ptr<Decoder>> Decoder::Load(const Checkpoint& checkpoint, ThreadPool* pool) {
  auto decoder = std::unique_ptr<Decoder>(new Decoder());
  ASSIGN_OR_RETURN(decoder->spec_, ParseDecoderSpec(checkpoint.config(), checkpoint.path() + "/config.json"));
  ASSIGN_OR_RETURN(decoder->weights_, LoadDecoderWeights(checkpoint, decoder->spec_));
  decoder->ropes_ = MakeRopeTables(decoder->spec_, 0);
  decoder->pool_ = pool;
  return decoder;
}

KvGeometry KvGeometryOf(const DecoderSpec& spec) {
  KvGeometry geometry;
  for (const LayerSpec& l : spec.layers) {
    const AttentionSpec& a = l.attention;
    if (!l.has_attention()) {
      geometry.push_back({.state = (l.short_conv.kernel - 1) * spec.hidden_size});
    } else if (a.has_own_kv()) {
      geometry.push_back({.heads = a.num_key_value_heads, .head_dim = a.head_dim, .window = a.sliding_window});
    } else {
      geometry.push_back({.donor = a.kv_layer});
    }
  }
  return geometry;
}

std::unique_ptr<KvCache> Decoder::MakeCache() const {
  const KvGeometry geometry = KvGeometryOf(spec_);
  return std::make_unique<KvCache>(geometry, UniformKvPlan(geometry, {.bits = 32}));
}

StatusOr<std::unique_ptr<KvCache>> Decoder::MakeCache(const KvPlan& plan) const {
  const KvGeometry geometry = KvGeometryOf(spec_);
  RETURN_IF_ERROR(CheckKvPlan(plan, geometry));
  return std::make_unique<KvCache>(geometry, plan);
}

Status Decoder::Forward(std::span<const int32_t> ids, KvCache* cache, bool all_logits, std::vector<float>* logits) {
  const Input input = {.ids = ids, .cache = cache, .all_logits = all_logits};
  return ForwardBatch({&input, 1}, logits);
}

Status Decoder::ForwardBatch(std::span<const Input> batch, std::vector<float>* logits, std::vector<bool>* finite) {
  std::vector<int32_t> ids;
  for (const Input& input : batch) {
    if (input.ids.empty()) return InvalidArgument("no tokens to run");
    ids.insert(ids.end(), input.ids.begin(), input.ids.end());
  }
  RETURN_IF_ERROR(CheckTokenIds(spec_, ids, "prompt"));
  try {
    std::vector<Segment> segments;
    int64_t logit_rows = 0;
    for (const Input& input : batch) {
      const int64_t n = static_cast<int64_t>(input.ids.size());
      RETURN_IF_ERROR(input.cache->Reserve(n));
      for (RopeTable& t : ropes_) t.Extend(input.cache->length() + n);
      segments.push_back({.rows = n, .start = input.cache->length(), .cache = input.cache, .kind = input.kind, .adapter = input.adapter});
      logit_rows += WantedRows(input);
    }
    PlainFlow flow(spec_, ropes_, std::move(segments), pool_, false, &buffers_, products_);
    flow.set_profile(profile_);
    ValueId x = flow.NewValue(spec_.hidden_size);
    EmbedTokens(spec_, weights_.embedding, ids, flow.data(x), pool_);
    AlignedBuffer<float> per_layer;
    if (spec_.per_layer_input_size > 0) {
      PerLayerInputs(spec_, weights_.per_layer, ids, flow.data(x), 0, spec_.num_layers(),
                     per_layer.Grow(flow.rows() * spec_.per_layer_width()), pool_, products_);
    }
    for (size_t i = 0; i < spec_.layers.size(); ++i) {
      if (spec_.per_layer_input_size > 0) {
        flow.SetPerLayerInput(per_layer.data() + i * spec_.per_layer_input_size, spec_.per_layer_width());
      }
      x = RunBlock(&flow, spec_.layers[i], weights_.blocks[i], static_cast<int>(i), x);
    }
    x = flow.Norm(x, weights_.final_norm);
    // The rows that logits are wanted of, moved to the front.
    float* hidden = flow.data(x);
    int64_t row = 0, kept = 0;
    for (const Input& input : batch) {
      const int64_t n = static_cast<int64_t>(input.ids.size()), wanted = WantedRows(input);
      input.cache->Advance(n);
      if (input.hidden != nullptr) {
        std::memcpy(input.hidden, hidden + row * spec_.hidden_size, n * spec_.hidden_size * sizeof(float));
      }
      row += n;
      std::memmove(hidden + kept * spec_.hidden_size, hidden + (row - wanted) * spec_.hidden_size,
                   wanted * spec_.hidden_size * sizeof(float));
      kept += wanted;
    }
    if (finite == nullptr) return Logits(hidden, logit_rows, logits);
    finite->resize(logit_rows);
    RETURN_IF_ERROR(Project(hidden, logit_rows, logits));
    for (int64_t r = 0; r < logit_rows; ++r) {
      (*finite)[r] = IsFiniteRow(logits->data() + r * spec_.vocab_size, spec_.vocab_size);
    }
    return OkStatus();
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("no memory for {} tokens at position {}; use a shorter prompt", ids.size(),
                             batch.front().cache->length());
  }
}

Status Decoder::NotFinite() {
  if (not_finite_.ok()) not_finite_ = DataLoss("the model's logits are not finite: {}", DescribeDamage(weights_));
  return not_finite_;
}

Status Decoder::Logits(const float* hidden, int64_t rows, std::vector<float>* logits) {
  RETURN_IF_ERROR(Project(hidden, rows, logits));
  if (!IsFiniteRow(logits->data(), static_cast<int64_t>(logits->size()))) return NotFinite();
  return OkStatus();
}

Status Decoder::Project(const float* hidden, int64_t rows, std::vector<float>* logits) {
  try {
    logits->resize(rows * spec_.vocab_size);
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("no memory for the logits of {} tokens", rows);
  }
  if (rows == 0) return OkStatus();
  const OpTimer timer(profile_, "lm_head");
  Linear(hidden, rows, spec_.hidden_size, weights_.head, nullptr, logits->data(), spec_.vocab_size, pool_, products_);
  if (spec_.final_logit_softcapping > 0) {
    for (int64_t r = 0; r < rows; ++r) {
      SoftcapRow(logits->data() + r * spec_.vocab_size, spec_.vocab_size, spec_.final_logit_softcapping);
    }
  }
  return OkStatus();
}

Status CheckTokenIds(const DecoderSpec& spec, std::span<const int32_t> ids, std::string_view what) {
  for (int32_t id : ids) {
    if (id < 0 || id >= spec.vocab_size) {
      return InvalidArgument("{}: token id {} is outside the vocabulary of {}", what, id, spec.vocab_size);
    }
  }
  return OkStatus();
}

void EmbedTokens(const DecoderSpec& spec, const WeightMatrix& embedding, std::span<const int32_t> ids, float* out,
                 ThreadPool* pool) {
  pool->ParallelFor(static_cast<int64_t>(ids.size()), [&](int64_t i, int) {
    float* row = out + i * spec.hidden_size;
    DecodeRows(embedding, ids[i], ids[i] + 1, row);
    if (spec.embedding_scale != 1.0f) ScaleRow(row, spec.embedding_scale, spec.hidden_size, row);
  });
}

}  // namespace optiq
