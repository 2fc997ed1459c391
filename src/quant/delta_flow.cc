#include "quant/delta_flow.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/checked.h"
#include "kernels/vector.h"
#include "model/routing.h"
#include "ops/expert_linear.h"

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

template <typename Fn>
void DeltaFlow::ForRows(Fn fn) {
  constexpr int64_t kChunk = 16;
  const int64_t total = streams_ * rows_;
  pool_->ParallelFor(DivUp(total, kChunk), [&](int64_t task, int) {
    for (int64_t r = task * kChunk; r < std::min(total, (task + 1) * kChunk); ++r)
      fn(r % rows_, r, positions_[r % rows_]);
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
    for (int64_t h = 0; h < heads; ++h) {
      RmsNormRow(full + h * d, weight.empty() ? nullptr : weight.data(), d, spec_.rms_norm_eps, full + h * d);
    }
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
  ForRows(
      [&](int64_t t, int64_t r, int64_t) { SubRow(data(y) + r * nq, tape_.data(y) + t * nq, nq, data(y) + r * nq); });
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
  const bool zero = is_zero(x) && is_zero(gate);
  const ValueId y = NewValue(n, zero);
  if (zero) return y;
  float* out = data(y);
  ForRows([&](int64_t t, int64_t r, int64_t) {
    float* full = RowScratch(0, n);
    float g;
    Full(x, t, r, full);
    Full(gate, t, r, &g);
    ScaleRow(full, 1.0f / (1.0f + std::exp(-g)), n, full);
    SubRow(full, tape_.data(y) + t * n, n, out + r * n);
  });
  return y;
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
  ForRows([&](int64_t t, int64_t r, int64_t) { SubRow(out + r * d, tape_.data(y) + t * d, d, out + r * d); });
  return y;
}

namespace {

// Puts the experts of `chosen` that the reference has too into the reference's slots, the others into the free ones.
void AlignSlots(const int32_t* reference, int64_t k, int32_t* chosen) {
  thread_local std::vector<int32_t> slots, fresh;
  slots.assign(k, -1);
  fresh.clear();
  for (int64_t i = 0; i < k; ++i) {
    const int32_t* at = std::find(reference, reference + k, chosen[i]);
    if (at == reference + k) {
      fresh.push_back(chosen[i]);
    } else {
      slots[at - reference] = chosen[i];
    }
  }
  size_t next = 0;
  for (int64_t i = 0; i < k; ++i) chosen[i] = slots[i] >= 0 ? slots[i] : fresh[next++];
}

}  // namespace

ValueId DeltaFlow::Route(ValueId logits, const MoeSpec& spec, const std::vector<float>& per_expert_scale) {
  const int64_t n = values_[logits].columns, k = spec.experts_per_token;
  const bool zero = is_zero(logits);
  const ValueId y = NewValue(k, zero);
  if (zero) return y;
  const std::vector<int32_t>& reference = tape_.experts(y);
  std::vector<int32_t> experts(streams_ * rows_ * k);
  float* out = data(y);
  ForRows([&](int64_t t, int64_t r, int64_t) {
    float* full = RowScratch(0, n);
    Full(logits, t, r, full);
    int32_t* chosen = experts.data() + r * k;
    ChooseExperts(full, spec, chosen);
    // Weights in the order of the reference's slots.
    AlignSlots(reference.data() + t * k, k, chosen);
    RoutingWeights(full, spec, per_expert_scale, chosen, out + r * k);
    SubRow(out + r * k, tape_.data(y) + t * k, k, out + r * k);
  });
  values_[y].experts = std::move(experts);
  return y;
}

ValueId DeltaFlow::ExpertLinear(ValueId x, ValueId routing, const ExpertWeights& w) {
  const int64_t k = values_[routing].columns, out = w.out, in = w.in;
  const std::vector<int32_t>& reference = tape_.experts(routing);
  const std::vector<int32_t>& own = values_[routing].experts;
  const bool probed = IsProbed(w.path);
  if (!probed && is_zero(x) && own.empty()) return NewValue(k * out, true);
  const ValueId y = NewValue(k * out);
  float* to = data(y);
  if (probed) {
    OPTIQ_CHECK(is_zero(x) && own.empty() && streams_ == 1);
    std::vector<ExpertPair> pairs(reference.size());
    for (size_t i = 0; i < pairs.size(); ++i)
      pairs[i] = {reference[i], static_cast<int64_t>(i) / k, static_cast<int64_t>(i)};
    optiq::ExpertLinear(tape_.data(x), in, pairs, probe_, to, out, pool_, {.fixed_order = true});
    flops_ += 2.0 * pairs.size() * out * in;
    ForRows([&](int64_t t, int64_t r, int64_t) {
      SubRow(to + r * k * out, tape_.data(y) + t * k * out, k * out, to + r * k * out);
    });
    return y;
  }
  std::vector<ExpertPair> same, moved;
  for (int64_t r = 0; r < streams_ * rows_; ++r) {
    for (int64_t s = 0; s < k; ++s) {
      const int32_t before = reference[r % rows_ * k + s], now = own.empty() ? before : own[r * k + s];
      if (now == before) {
        same.push_back({now, r, r * k + s});
      } else {
        moved.push_back({now, static_cast<int64_t>(moved.size()), r * k + s});
      }
    }
  }
  if (is_zero(x)) {
    for (const ExpertPair& p : same) std::memset(to + p.out_row * out, 0, out * sizeof(float));
  } else {
    optiq::ExpertLinear(data(x), in, same, w.experts, to, out, pool_, {.products = products_, .fixed_order = true});
    flops_ += 2.0 * same.size() * out * in;
  }
  if (!moved.empty()) {
    AlignedBuffer<float> full(moved.size() * in);
    for (const ExpertPair& p : moved) Full(x, p.out_row / k % rows_, p.out_row / k, full.data() + p.in_row * in);
    optiq::ExpertLinear(full.data(), in, moved, w.experts, to, out, pool_, {.fixed_order = true});
    flops_ += 2.0 * moved.size() * out * in;
    for (const ExpertPair& p : moved) {
      const int64_t slot = p.out_row % (rows_ * k);
      SubRow(to + p.out_row * out, tape_.data(y) + slot * out, out, to + p.out_row * out);
    }
  }
  return y;
}

ValueId DeltaFlow::ExpertScale(ValueId slots, ValueId routing) {
  const int64_t n = values_[slots].columns, k = values_[routing].columns, width = n / k;
  const bool zero = is_zero(slots) && is_zero(routing);
  const ValueId y = NewValue(n, zero);
  if (zero) return y;
  float* out = data(y);
  ForRows([&](int64_t t, int64_t r, int64_t) {
    float* full = RowScratch(0, n);
    float* weights = RowScratch(1, k);
    Full(slots, t, r, full);
    Full(routing, t, r, weights);
    for (int64_t s = 0; s < k; ++s) ScaleRow(full + s * width, weights[s], width, full + s * width);
    SubRow(full, tape_.data(y) + t * n, n, out + r * n);
  });
  return y;
}

ValueId DeltaFlow::ExpertSum(ValueId slots, ValueId routing, const ExpertWeights& w) {
  const int64_t k = values_[routing].columns, out = w.out, in = w.in;
  const std::vector<int32_t>& reference = tape_.experts(routing);
  const std::vector<int32_t>& own = values_[routing].experts;
  const bool probed = IsProbed(w.path);
  if (!probed && is_zero(slots) && own.empty()) return NewValue(out, true);
  const ValueId y = NewValue(out);
  float* to = data(y);
  std::memset(to, 0, streams_ * rows_ * out * sizeof(float));
  if (probed) {
    OPTIQ_CHECK(is_zero(slots) && own.empty() && streams_ == 1);
    std::vector<ExpertPair> pairs(reference.size());
    for (size_t i = 0; i < pairs.size(); ++i)
      pairs[i] = {reference[i], static_cast<int64_t>(i), static_cast<int64_t>(i) / k};
    optiq::ExpertLinear(tape_.data(slots), in, pairs, probe_, to, out, pool_,
                        {.output = ExpertOutput::kAccumulate, .fixed_order = true});
    flops_ += 2.0 * pairs.size() * out * in;
    ForRows([&](int64_t t, int64_t r, int64_t) { SubRow(to + r * out, tape_.data(y) + t * out, out, to + r * out); });
    return y;
  }
  // A slot whose expert changed adds the new expert's product and takes the old one's off.
  std::vector<ExpertPair> same, added, removed;
  for (int64_t r = 0; r < streams_ * rows_; ++r) {
    for (int64_t s = 0; s < k; ++s) {
      const int32_t before = reference[r % rows_ * k + s], now = own.empty() ? before : own[r * k + s];
      if (now == before) {
        same.push_back({now, r * k + s, r});
      } else {
        added.push_back({now, static_cast<int64_t>(added.size()), r});
        removed.push_back({before, r * k + s, r});
      }
    }
  }
  const ExpertLinearOptions exact{.output = ExpertOutput::kAccumulate, .fixed_order = true};
  if (!is_zero(slots)) {
    ExpertLinearOptions options = exact;
    options.products = products_;
    optiq::ExpertLinear(data(slots), in, same, w.experts, to, out, pool_, options);
    flops_ += 2.0 * same.size() * out * in;
  }
  if (!added.empty()) {
    AlignedBuffer<float> now(added.size() * in), before(added.size() * in);
    for (size_t i = 0; i < added.size(); ++i) {
      const int64_t slot = removed[i].in_row, tape_slot = slot % (rows_ * k);
      float* full = now.data() + i * in;
      const float* old = tape_.data(slots) + tape_slot * in;
      if (is_zero(slots)) {
        std::memcpy(full, old, in * sizeof(float));
      } else {
        AddRow(old, data(slots) + slot * in, in, full);
      }
      ScaleRow(old, -1.0f, in, before.data() + i * in);
      removed[i].in_row = static_cast<int64_t>(i);
    }
    optiq::ExpertLinear(now.data(), in, added, w.experts, to, out, pool_, exact);
    optiq::ExpertLinear(before.data(), in, removed, w.experts, to, out, pool_, exact);
    flops_ += 4.0 * added.size() * out * in;
  }
  return y;
}

}  // namespace optiq
