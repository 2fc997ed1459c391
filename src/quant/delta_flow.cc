#include "quant/delta_flow.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/checked.h"
#include "kernels/vector.h"

namespace optiq {

DeltaFlow::DeltaFlow(const DecoderSpec& spec, const RopeTables& ropes, std::vector<Segment> segments,
                     const PlainFlow& tape, int64_t streams, Products products, ThreadPool* pool,
                     BufferPool<float>* buffers)
    : spec_(spec),
      ropes_(ropes),
      segments_(std::move(segments)),
      tape_(tape),
      streams_(streams),
      rows_(tape.rows()),
      products_(products),
      pool_(pool),
      buffers_(buffers) {
  for (const Segment& s : segments_) {
    OPTIQ_CHECK(s.start == 0 && s.cache == nullptr);
    for (int64_t i = 0; i < s.rows; ++i) positions_.push_back(i);
  }
}

ValueId DeltaFlow::NewValue(int64_t columns, bool zero) {
  Slot slot;
  slot.columns = columns;
  slot.zero = zero;
  if (!zero) {
    const size_t need = static_cast<size_t>(streams_ * rows_ * columns);
    slot.buffer = buffers_->Take(need);
  }
  values_.push_back(std::move(slot));
  const ValueId id = static_cast<ValueId>(values_.size()) - 1;
  OPTIQ_CHECK(id < tape_.num_values() && tape_.columns(id) == columns);  // the same block as the tape's
  return id;
}

ValueId DeltaFlow::Input(int64_t columns, bool zero) { return NewValue(columns, zero); }

void DeltaFlow::Reset() {
  for (Slot& s : values_) buffers_->Give(std::move(s.buffer));
  values_.clear();
  shared_.clear();
}

void DeltaFlow::Drop(ValueId x) {
  if (values_[x].buffer.capacity() == 0) return;
  for (const auto& [layer, kv] : shared_) {
    if (x == kv.k || x == kv.v) return;
  }
  buffers_->Give(std::move(values_[x].buffer));
}

void DeltaFlow::Full(ValueId id, int64_t tape_row, int64_t row, float* out) const {
  const Slot& s = values_[id];
  const float* reference = tape_.data(id) + tape_row * s.columns;
  if (s.zero) {
    std::memcpy(out, reference, s.columns * sizeof(float));
  } else {
    AddRow(reference, s.buffer.data() + row * s.columns, s.columns, out);
  }
}

void DeltaFlow::TakeOffReference(ValueId id) {
  const int64_t n = values_[id].columns;
  float* out = data(id);
  ForRows([&](int64_t t, int64_t r, int64_t) { SubRow(out + r * n, tape_.data(id) + t * n, n, out + r * n); });
}

ValueId DeltaFlow::Linear(ValueId x, const LinearWeights& w) {
  const int64_t out = w.matrix.rows, in = w.matrix.cols;
  const bool probed = IsProbed(w.matrix.path);
  if (!probed && is_zero(x)) return NewValue(out, true);
  const ValueId y = NewValue(out);
  flops_ += 2.0 * streams_ * rows_ * out * in;
  if (!probed) {
    optiq::Linear(data(x), streams_ * rows_, in, w.matrix, nullptr, data(y), out, pool_, products_);
    return y;
  }
  // The probe: encoded weights times the full input, minus the reference output. Same kernel, same order of additions
  // as the reference's, so equal weights give exactly zero.
  OPTIQ_CHECK(is_zero(x) && streams_ == 1);
  optiq::Linear(tape_.data(x), rows_, in, probe_[0], w.bias_data(), data(y), out, pool_);
  TakeOffReference(y);
  return y;
}

ValueId DeltaFlow::Norm(ValueId x, const std::vector<float>& weight) { return HeadNorm(x, 1, weight); }

ValueId DeltaFlow::HeadNorm(ValueId x, int64_t heads, const std::vector<float>& weight) {
  const int64_t d = values_[x].columns / heads;
  return PerRow({x}, [&](float* const* full) {
    for (int64_t h = 0; h < heads; ++h) {
      float* head = full[0] + h * d;
      RmsNormRow(head, weight.empty() ? nullptr : weight.data(), d, spec_.rms_norm_eps, head);
    }
  });
}

ValueId DeltaFlow::Rope(ValueId x, int64_t heads, int rope) {
  const int64_t n = values_[x].columns, d = n / heads;
  const bool zero = is_zero(x);
  const ValueId y = NewValue(n, zero);
  if (zero) return y;
  // A rotation is linear: it turns the difference itself.
  const RopeTable& table = ropes_[rope];
  const float* in = data(x);
  float* out = data(y);
  ForRows([&](int64_t, int64_t r, int64_t position) {
    for (int64_t h = 0; h < heads; ++h) {
      RopeRow(in + r * n + h * d, table.cos(position), table.sin(position), d / 2, out + r * n + h * d);
    }
  });
  return y;
}

ValueId DeltaFlow::Attend(ValueId q, ValueId k, ValueId v, const AttentionSpec& spec, int layer) {
  if (spec.kv_is_read_later) shared_[layer] = {k, v};
  return AttendOver(q, k, v, spec);
}

ValueId DeltaFlow::AttendShared(ValueId q, const AttentionSpec& spec) {
  const PlainFlow::KeysValues kv = SharedKv(spec.kv_layer);
  OPTIQ_CHECK(kv.k >= 0);
  return AttendOver(q, kv.k, kv.v, spec);
}

ValueId DeltaFlow::AttendOver(ValueId q, ValueId k, ValueId v, const AttentionSpec& spec) {
  const int64_t nq = values_[q].columns, nk = values_[k].columns;
  const bool zero = is_zero(q) && is_zero(k) && is_zero(v);
  const ValueId y = NewValue(nq, zero);
  if (zero) return y;
  // Full queries, keys and values, in place of the differences where there are some.
  AlignedBuffer<float> made[3];
  const float* full[3];
  const ValueId ids[3] = {q, k, v};
  for (int i = 0; i < 3; ++i) {
    const int64_t n = values_[ids[i]].columns;
    if (is_zero(ids[i])) {
      full[i] = tape_.data(ids[i]);
      continue;
    }
    float* to = made[i].Grow(streams_ * rows_ * n);
    ForRows([&](int64_t t, int64_t r, int64_t) { Full(ids[i], t, r, to + r * n); });
    full[i] = to;
  }
  const auto row_of = [&](int i, int64_t stream, int64_t row) { return is_zero(ids[i]) ? row : stream * rows_ + row; };
  std::vector<AttentionCall> calls;
  for (int64_t s = 0; s < streams_; ++s) {
    int64_t row = 0;
    for (const Segment& segment : segments_) {
      calls.push_back({.q = full[0] + row_of(0, s, row) * nq,
                       .k = full[1] + row_of(1, s, row) * nk,
                       .v = full[2] + row_of(2, s, row) * nk,
                       .out = data(y) + (s * rows_ + row) * nq,
                       .rows = segment.rows,
                       .start = 0});
      row += segment.rows;
    }
  }
  Attention(calls, ShapeOf(spec), pool_);
  TakeOffReference(y);
  return y;
}

ValueId DeltaFlow::Gate(ValueId gate, ValueId up, Activation activation) {
  const int64_t n = values_[gate].columns;
  return PerRow({gate, up}, [&](float* const* full) { GateRow(activation, full[0], full[1], n, full[0]); });
}

ValueId DeltaFlow::Add(ValueId a, ValueId b) {
  const int64_t n = values_[a].columns;
  const bool zero = is_zero(a) && is_zero(b);
  const ValueId y = NewValue(n, zero);
  if (zero) return y;
  float* out = data(y);
  if (is_zero(a) || is_zero(b)) {
    const float* in = data(is_zero(a) ? b : a);
    ForRows([&](int64_t, int64_t r, int64_t) { std::memcpy(out + r * n, in + r * n, n * sizeof(float)); });
  } else {
    const float* x = data(a);
    const float* z = data(b);
    ForRows([&](int64_t, int64_t r, int64_t) { AddRow(x + r * n, z + r * n, n, out + r * n); });
  }
  return y;
}

ValueId DeltaFlow::Scale(ValueId x, float factor) {
  const int64_t n = values_[x].columns;
  const bool zero = is_zero(x);
  const ValueId y = NewValue(n, zero);
  if (zero) return y;
  const float* in = data(x);
  float* out = data(y);
  ForRows([&](int64_t, int64_t r, int64_t) { ScaleRow(in + r * n, factor, n, out + r * n); });
  return y;
}

ValueId DeltaFlow::SigmoidScale(ValueId x, ValueId gate) {
  const int64_t n = values_[x].columns;
  return PerRow({x, gate},
                [&](float* const* full) { ScaleRow(full[0], 1.0f / (1.0f + std::exp(-*full[1])), n, full[0]); });
}

ValueId DeltaFlow::PerLayerInput() {
  const int64_t n = spec_.per_layer_input_size;
  const ValueId y = NewValue(n, per_layer_ == nullptr);
  if (per_layer_ != nullptr) std::memcpy(data(y), per_layer_, streams_ * rows_ * n * sizeof(float));
  return y;
}

ValueId DeltaFlow::ShortConv(ValueId bcx, const BlockWeights& w, const ShortConvSpec& spec, int) {
  const int64_t n = values_[bcx].columns, d = n / 3;
  const bool zero = is_zero(bcx);
  const ValueId y = NewValue(d, zero);
  if (zero) return y;
  AlignedBuffer<float> full(streams_ * rows_ * n);
  ForRows([&](int64_t t, int64_t r, int64_t) { Full(bcx, t, r, full.data() + r * n); });
  std::vector<int64_t> first(segments_.size());
  for (size_t s = 1; s < segments_.size(); ++s) first[s] = first[s - 1] + segments_[s - 1].rows;
  const int64_t count = static_cast<int64_t>(segments_.size());
  float* out = data(y);
  pool_->ParallelFor(streams_ * count, [&](int64_t task, int) {
    const int64_t row = task / count * rows_ + first[task % count];
    ShortConvRows(full.data() + row * n, segments_[task % count].rows, d, w.conv, w.conv_bias, spec.kernel, nullptr,
                  out + row * d, nullptr);
  });
  TakeOffReference(y);
  return y;
}

}  // namespace optiq
