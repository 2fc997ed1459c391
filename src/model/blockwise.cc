#include "model/blockwise.h"

#include <algorithm>
#include <cstring>

namespace optiq {

void Activations::CopyFrom(const Activations& other, const DecoderSpec& spec, int64_t tokens) {
  const auto copy = [](const AlignedBuffer<float>& from, int64_t n, AlignedBuffer<float>* to) {
    std::memcpy(to->Grow(n), from.data(), n * sizeof(float));
  };
  copy(other.hidden, tokens * spec.hidden_size, &hidden);
  kv.clear();
  for (const auto& [layer, rows] : other.kv) {
    const int64_t n = tokens * spec.layers[layer].attention.kv_width();
    copy(rows.k, n, &kv[layer].k);
    copy(rows.v, n, &kv[layer].v);
  }
}

void PerLayerSource::Inputs(const DecoderSpec& spec, int layer, int64_t row0, int64_t n, float* out,
                            ThreadPool* pool) const {
  PerLayerInputs(spec, weights, std::span(rows).subspan(row0, n), embedded.data() + row0 * spec.hidden_size, layer,
                 layer + 1, out, pool);
}

PerLayerSource MakePerLayerSource(const DecoderSpec& spec, PerLayerWeights weights, std::span<const int32_t> ids,
                                  const float* hidden) {
  PerLayerSource source;
  if (spec.per_layer_input_size == 0) return source;
  source.weights = std::move(weights);
  source.rows.assign(ids.begin(), ids.end());
  const size_t n = ids.size() * spec.hidden_size;
  std::memcpy(source.embedded.Grow(n), hidden, n * sizeof(float));
  return source;
}

ValueId EnterBlock(const DecoderSpec& spec, int layer, const Activations& state, const PerLayerSource& per_layer,
                   int64_t row0, PlainFlow* flow, AlignedBuffer<float>* scratch, ThreadPool* pool) {
  const auto value = [&](const AlignedBuffer<float>& rows, int64_t columns) {
    const ValueId id = flow->NewValue(columns);
    std::memcpy(flow->data(id), rows.data() + row0 * columns, flow->rows() * columns * sizeof(float));
    return id;
  };
  const LayerSpec& l = spec.layers[layer];
  const ValueId x = value(state.hidden, spec.hidden_size);
  if (l.has_attention() && !l.attention.has_own_kv()) {
    const int donor = l.attention.kv_layer;
    const SharedKvRows& kv = state.kv.at(donor);
    const int64_t width = l.attention.kv_width();
    PlainFlow::KeysValues ids;
    ids.k = value(kv.k, width);
    ids.v = value(kv.v, width);
    flow->ProvideKv(donor, ids);
  }
  if (l.per_layer_input_size > 0) {
    float* inputs = scratch->Grow(flow->rows() * l.per_layer_input_size);
    per_layer.Inputs(spec, layer, row0, flow->rows(), inputs, pool);
    flow->SetPerLayerInput(inputs, l.per_layer_input_size);
  }
  return x;
}

void LeaveBlock(const DecoderSpec& spec, int layer, const PlainFlow& flow, ValueId y, int64_t row0, int64_t tokens,
                Activations* state) {
  const int64_t d = spec.hidden_size, rows = flow.rows();
  std::memcpy(state->hidden.data() + row0 * d, flow.data(y), rows * d * sizeof(float));
  const AttentionSpec& a = spec.layers[layer].attention;
  if (!a.kv_is_read_later) return;
  const PlainFlow::KeysValues ids = flow.SharedKv(layer);
  const int64_t width = a.kv_width();
  SharedKvRows& kv = state->kv[layer];
  std::memcpy(kv.k.Grow(tokens * width) + row0 * width, flow.data(ids.k), rows * width * sizeof(float));
  std::memcpy(kv.v.Grow(tokens * width) + row0 * width, flow.data(ids.v), rows * width * sizeof(float));
}

}  // namespace optiq
