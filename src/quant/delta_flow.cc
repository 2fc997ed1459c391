#include "quant/delta_flow.h"

#include <algorithm>
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
}

void DeltaFlow::Drop(ValueId x) {
  if (values_[x].buffer.capacity() == 0) return;
  buffers_->Give(std::move(values_[x].buffer));
}

template <typename Fn>
void DeltaFlow::ForRows(Fn fn) {
  constexpr int64_t kChunk = 16;
  const int64_t total = streams_ * rows_;
  pool_->ParallelFor(DivUp(total, kChunk), [&](int64_t task, int) {
    for (int64_t r = task * kChunk; r < std::min(total, (task + 1) * kChunk); ++r) fn(r % rows_, r, positions_[r % rows_]);
  });
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

namespace {

float* RowScratch(int slot, int64_t n) {
  thread_local AlignedBuffer<float> buffers[3];
  return buffers[slot].Grow(n);
}

}  // namespace

ValueId DeltaFlow::Linear(ValueId x, const LinearWeights& w) {
  const int64_t out = w.matrix.rows, in = w.matrix.cols;
  const bool probed = probe_path_ != nullptr && *probe_path_ == w.matrix.path;
  if (!probed && is_zero(x)) return NewValue(out, true);
  const ValueId y = NewValue(out);
  flops_ += 2.0 * streams_ * rows_ * out * in;
  if (!probed) {
    optiq::Linear(data(x), streams_ * rows_, in, w.matrix, nullptr, data(y), out, pool_, products_);
    return y;
  }
  // The probe: encoded weights times the full input, minus the reference output. Same kernel, same order of additions as the
  // reference's, so equal weights give exactly zero.
  OPTIQ_CHECK(is_zero(x) && streams_ == 1);
  optiq::Linear(tape_.data(x), rows_, in, *probe_, w.bias_data(), data(y), out, pool_);
  ForRows([&](int64_t t, int64_t r, int64_t) {
    SubRow(data(y) + r * out, tape_.data(y) + t * out, out, data(y) + r * out);
  });
  return y;
}

ValueId DeltaFlow::Norm(ValueId x, const std::vector<float>& weight) { return HeadNorm(x, 1, weight); }

ValueId DeltaFlow::HeadNorm(ValueId x, int64_t heads, const std::vector<float>& weight) {
  const int64_t n = values_[x].columns, d = n / heads;
  const bool zero = is_zero(x);
  const ValueId y = NewValue(n, zero);
  if (zero) return y;
  float* out = data(y);
  ForRows([&](int64_t t, int64_t r, int64_t) {
    float* full = RowScratch(0, n);
    Full(x, t, r, full);
    for (int64_t h = 0; h < heads; ++h) RmsNormRow(full + h * d, weight.data(), d, spec_.rms_norm_eps, full + h * d);
    SubRow(full, tape_.data(y) + t * n, n, out + r * n);
  });
  return y;
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

ValueId DeltaFlow::Attend(ValueId q, ValueId k, ValueId v, const AttentionSpec& spec, int) {
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
  ForRows([&](int64_t t, int64_t r, int64_t) { SubRow(data(y) + r * nq, tape_.data(y) + t * nq, nq, data(y) + r * nq); });
  return y;
}

ValueId DeltaFlow::Gate(ValueId gate, ValueId up, Activation activation) {
  const int64_t n = values_[gate].columns;
  const bool zero = is_zero(gate) && is_zero(up);
  const ValueId y = NewValue(n, zero);
  if (zero) return y;
  float* out = data(y);
  ForRows([&](int64_t t, int64_t r, int64_t) {
    float* g = RowScratch(0, n);
    float* u = RowScratch(1, n);
    Full(gate, t, r, g);
    Full(up, t, r, u);
    GateRow(activation, g, u, n, g);
    SubRow(g, tape_.data(y) + t * n, n, out + r * n);
  });
  return y;
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

}  // namespace optiq
