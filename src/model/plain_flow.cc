#include "model/plain_flow.h"

#include <algorithm>

#include "base/checked.h"
#include "kernels/vector.h"

namespace optiq {

namespace {

// "model.layers.3.mlp.up_proj" -> "up_proj".
std::string_view ModuleName(std::string_view path) { return path.substr(path.rfind('.') + 1); }

}  // namespace

void GateRow(Activation activation, const float* gate, const float* up, int64_t n, float* out) {
  switch (activation) {
    case Activation::kSilu: return SiluMulRow(gate, up, n, out);
    case Activation::kGeluTanh: return GeluTanhMulRow(gate, up, n, out);
    case Activation::kGelu: return GeluMulRow(gate, up, n, out);
  }
}

AttentionShape ShapeOf(const AttentionSpec& s) {
  return {.num_heads = s.num_attention_heads, .num_kv_heads = s.num_key_value_heads, .head_dim = s.head_dim,
          .window = s.sliding_window, .scale = s.scale};
}

PlainFlow::PlainFlow(const DecoderSpec& spec, const RopeTables& ropes, std::vector<Segment> segments, ThreadPool* pool,
                     bool keep_all, BufferPool<float>* buffers, Products products)
    : spec_(spec),
      ropes_(ropes),
      segments_(std::move(segments)),
      pool_(pool),
      keep_all_(keep_all),
      products_(products),
      buffers_(buffers != nullptr ? buffers : &own_buffers_) {
  for (const Segment& s : segments_) {
    for (int64_t i = 0; i < s.rows; ++i) positions_.push_back(s.start + i);
  }
  rows_ = static_cast<int64_t>(positions_.size());
}

ValueId PlainFlow::NewValue(int64_t columns) {
  Slot slot;
  slot.columns = columns;
  const size_t need = static_cast<size_t>(rows_ * columns);
  slot.buffer = buffers_->Take(need);
  values_.push_back(std::move(slot));
  return static_cast<ValueId>(values_.size()) - 1;
}

void PlainFlow::Reset() {
  for (Slot& s : values_) buffers_->Give(std::move(s.buffer));
  values_.clear();
}

void PlainFlow::Drop(ValueId x) {
  if (keep_all_ || values_[x].buffer.capacity() == 0) return;
  buffers_->Give(std::move(values_[x].buffer));
}

template <typename Fn>
void PlainFlow::ForRows(Fn fn) {
  constexpr int64_t kChunk = 16;
  pool_->ParallelFor(DivUp(rows_, kChunk), [&](int64_t task, int) {
    for (int64_t r = task * kChunk; r < std::min(rows_, (task + 1) * kChunk); ++r) fn(r, positions_[r]);
  });
}

ValueId PlainFlow::Linear(ValueId x, const LinearWeights& w) {
  const OpTimer timer(profile_, ModuleName(w.matrix.path));
  const ValueId y = NewValue(w.matrix.rows);
  optiq::Linear(data(x), rows_, columns(x), w.matrix, w.bias_data(), data(y), columns(y), pool_, products_);
  return y;
}

ValueId PlainFlow::Linears(ValueId x, std::initializer_list<const LinearWeights*> all) {
  const OpTimer timer(profile_, ModuleName((*all.begin())->matrix.path));
  LinearProduct products[4];
  OPTIQ_CHECK(all.size() <= std::size(products));
  const ValueId first = num_values();
  size_t n = 0;
  for (const LinearWeights* w : all) {
    const ValueId y = NewValue(w->matrix.rows);
    products[n++] = {.w = &w->matrix, .bias = w->bias_data(), .y = data(y), .ldy = columns(y)};
  }
  LinearMany(data(x), rows_, columns(x), {products, n}, pool_, products_);
  return first;
}

ValueId PlainFlow::Norm(ValueId x, const std::vector<float>& weight) { return HeadNorm(x, 1, weight); }

ValueId PlainFlow::HeadNorm(ValueId x, int64_t heads, const std::vector<float>& weight) {
  const OpTimer timer(profile_, "norm");
  const int64_t n = columns(x), d = n / heads;
  const ValueId y = NewValue(n);
  const float* in = data(x);
  float* out = data(y);
  ForRows([&](int64_t r, int64_t) {
    for (int64_t h = 0; h < heads; ++h) {
      RmsNormRow(in + r * n + h * d, weight.data(), d, spec_.rms_norm_eps, out + r * n + h * d);
    }
  });
  return y;
}

ValueId PlainFlow::Rope(ValueId x, int64_t heads, int rope) {
  const OpTimer timer(profile_, "rope");
  const int64_t n = columns(x), d = n / heads;
  const ValueId y = NewValue(n);
  const float* in = data(x);
  float* out = data(y);
  const RopeTable& table = ropes_[rope];
  ForRows([&](int64_t r, int64_t position) {
    for (int64_t h = 0; h < heads; ++h) {
      RopeRow(in + r * n + h * d, table.cos(position), table.sin(position), d / 2, out + r * n + h * d);
    }
  });
  return y;
}

ValueId PlainFlow::Attend(ValueId q, ValueId k, ValueId v, const AttentionSpec& spec, int layer) {
  const OpTimer timer(profile_, "attention");
  const ValueId y = NewValue(columns(q));
  std::vector<AttentionCall> calls;
  int64_t row = 0;
  for (const Segment& s : segments_) {
    const float* keys = data(k) + row * columns(k);
    const float* values = data(v) + row * columns(v);
    if (s.cache != nullptr) {
      s.cache->Append(layer, s.rows, keys, values);
      keys = s.cache->Keys(layer);
      values = s.cache->Values(layer);
    }
    calls.push_back({.q = data(q) + row * columns(q), .k = keys, .v = values, .out = data(y) + row * columns(y),
                     .rows = s.rows, .start = s.start});
    row += s.rows;
  }
  Attention(calls, ShapeOf(spec), pool_);
  return y;
}

ValueId PlainFlow::Gate(ValueId gate, ValueId up, Activation activation) {
  const OpTimer timer(profile_, "activation");
  const int64_t n = columns(gate);
  const ValueId y = NewValue(n);
  const float* g = data(gate);
  const float* u = data(up);
  float* out = data(y);
  ForRows([&](int64_t r, int64_t) { GateRow(activation, g + r * n, u + r * n, n, out + r * n); });
  return y;
}

ValueId PlainFlow::Add(ValueId a, ValueId b) {
  const OpTimer timer(profile_, "add");
  const int64_t n = columns(a);
  const ValueId y = NewValue(n);
  const float* x = data(a);
  const float* z = data(b);
  float* out = data(y);
  ForRows([&](int64_t r, int64_t) { AddRow(x + r * n, z + r * n, n, out + r * n); });
  return y;
}

}  // namespace optiq
