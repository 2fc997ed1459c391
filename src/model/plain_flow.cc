#include "model/plain_flow.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/checked.h"
#include "kernels/vector.h"
#include "model/routing.h"
#include "ops/expert_linear.h"

namespace optiq {

namespace {

// Segments up to this many rows are decode steps; longer ones are parts of prompts.
constexpr int64_t kDecodeRows = 16;

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
  int64_t row = 0;
  for (const Segment& s : segments_) {
    if (s.adapter != nullptr) {
      auto it = std::find_if(adapters_.begin(), adapters_.end(), [&](const AdapterRows& a) { return a.adapter == s.adapter; });
      if (it == adapters_.end()) it = adapters_.insert(it, {s.adapter, {}});
      for (int64_t i = 0; i < s.rows; ++i) it->rows.push_back(row + i);
    }
    row += s.rows;
  }
}

void PlainFlow::AddAdapters(ValueId x, const LinearWeights& w, ValueId y) {
  for (const AdapterRows& a : adapters_) {
    const LoraAdapter::Delta* delta = a.adapter->Find(w);
    if (delta == nullptr) continue;
    const OpTimer timer(profile_, "adapter");
    const int64_t n = static_cast<int64_t>(a.rows.size()), in = columns(x), out = columns(y);
    if (a.rows.back() - a.rows.front() + 1 == n) {
      AddDelta(*delta, data(x) + a.rows.front() * in, n, in, data(y) + a.rows.front() * out, out, pool_);
      continue;
    }
    AlignedBuffer<float> from = buffers_->Take(n * in), to = buffers_->Take(n * out);
    for (int64_t i = 0; i < n; ++i) {
      std::memcpy(from.data() + i * in, data(x) + a.rows[i] * in, in * sizeof(float));
      std::memcpy(to.data() + i * out, data(y) + a.rows[i] * out, out * sizeof(float));
    }
    AddDelta(*delta, from.data(), n, in, to.data(), out, pool_);
    for (int64_t i = 0; i < n; ++i) std::memcpy(data(y) + a.rows[i] * out, to.data() + i * out, out * sizeof(float));
    buffers_->Give(std::move(from));
    buffers_->Give(std::move(to));
  }
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
  shared_.clear();
}

void PlainFlow::Drop(ValueId x) {
  if (keep_all_ || values_[x].buffer.capacity() == 0) return;
  for (const auto& [layer, kv] : shared_) {
    if (x == kv.k || x == kv.v) return;
  }
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
  AddAdapters(x, w, y);
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
  ValueId y = first;
  for (const LinearWeights* w : all) AddAdapters(x, *w, y++);
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
      RmsNormRow(in + r * n + h * d, weight.empty() ? nullptr : weight.data(), d, spec_.rms_norm_eps, out + r * n + h * d);
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
  int64_t row = 0;
  bool cached = false;
  for (const Segment& s : segments_) {
    if (s.cache != nullptr) {
      s.cache->Append(layer, s.rows, data(k) + row * columns(k), data(v) + row * columns(v), pool_);
      cached = true;
    }
    row += s.rows;
  }
  if (spec.kv_is_read_later && !cached) shared_[layer] = {k, v};
  return AttendTo(q, {k, v}, spec, layer);
}

ValueId PlainFlow::AttendShared(ValueId q, const AttentionSpec& spec) {
  return AttendTo(q, SharedKv(spec.kv_layer), spec, spec.kv_layer);
}

// Over the rows of kv, or over what a segment's cache holds for `layer` (this call's rows included).
ValueId PlainFlow::AttendTo(ValueId q, KeysValues kv, const AttentionSpec& spec, int layer) {
  const OpTimer timer(profile_, "attention");
  const ValueId y = NewValue(columns(q));
  std::vector<AttentionCall> calls;
  std::vector<KvAttentionCall> cached;
  int64_t row = 0;
  for (const Segment& s : segments_) {
    const float* queries = data(q) + row * columns(q);
    float* out = data(y) + row * columns(y);
    if (s.cache != nullptr && (s.kind == RowKind::kAnswer ||
                               (s.kind == RowKind::kAny && IsFast(products_) && s.rows <= kDecodeRows))) {
      // A step that checks drafts computes each row as a plain step does: one query over the keys up to it.
      for (int64_t i = 0; i < s.rows; ++i) {
        std::vector<KvSpan> spans = s.cache->Spans(layer);
        const int64_t position = s.start + i;
        std::erase_if(spans, [&](const KvSpan& span) { return span.position > position; });
        for (KvSpan& span : spans) span.count = std::min(span.count, position + 1 - span.position);
        cached.push_back({.q = queries + i * columns(q), .out = out + i * columns(y), .rows = 1, .start = position,
                          .spans = std::move(spans)});
      }
    } else if (s.cache != nullptr) {
      cached.push_back({.q = queries, .out = out, .rows = s.rows, .start = s.start, .spans = s.cache->Spans(layer),
                        .tiles = s.kind == RowKind::kPrompt});
    } else {
      OPTIQ_CHECK(kv.k >= 0);
      calls.push_back({.q = queries, .k = data(kv.k) + row * columns(kv.k), .v = data(kv.v) + row * columns(kv.v), .out = out,
                       .rows = s.rows, .start = s.start});
    }
    row += s.rows;
  }
  Attention(calls, ShapeOf(spec), pool_);
  KvAttention(cached, ShapeOf(spec), pool_);
  for (const Segment& s : segments_) {
    if (s.cache != nullptr) s.cache->Done(layer);
  }
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

ValueId PlainFlow::Scale(ValueId x, float factor) {
  const int64_t n = columns(x);
  const ValueId y = NewValue(n);
  const float* in = data(x);
  float* out = data(y);
  ForRows([&](int64_t r, int64_t) { ScaleRow(in + r * n, factor, n, out + r * n); });
  return y;
}

ValueId PlainFlow::SigmoidScale(ValueId x, ValueId gate) {
  const int64_t n = columns(x);
  const ValueId y = NewValue(n);
  const float* in = data(x);
  const float* g = data(gate);
  float* out = data(y);
  ForRows([&](int64_t r, int64_t) { ScaleRow(in + r * n, 1.0f / (1.0f + std::exp(-g[r])), n, out + r * n); });
  return y;
}

ValueId PlainFlow::PerLayerInput() {
  OPTIQ_CHECK(per_layer_ != nullptr);
  const int64_t n = spec_.per_layer_input_size;
  const ValueId y = NewValue(n);
  float* out = data(y);
  ForRows([&](int64_t r, int64_t) { std::memcpy(out + r * n, per_layer_ + r * per_layer_stride_, n * sizeof(float)); });
  return y;
}

void ShortConvRows(const float* bcx, int64_t rows, int64_t d, const std::vector<float>& conv, const std::vector<float>& bias,
                   int64_t kernel, const float* history, float* out, float* new_history) {
  // B * x of the positions before the first row, then of the rows.
  std::vector<float> bx(static_cast<size_t>((kernel - 1 + rows) * d), 0.0f);
  if (history != nullptr) std::memcpy(bx.data(), history, (kernel - 1) * d * sizeof(float));
  float* fresh = bx.data() + (kernel - 1) * d;
  for (int64_t r = 0; r < rows; ++r) {
    const float* b = bcx + r * 3 * d;
    const float* x = b + 2 * d;
    for (int64_t i = 0; i < d; ++i) fresh[r * d + i] = b[i] * x[i];
  }
  for (int64_t r = 0; r < rows; ++r) {
    const float* c = bcx + r * 3 * d + d;
    float* to = out + r * d;
    for (int64_t i = 0; i < d; ++i) {
      float sum = bias.empty() ? 0.0f : bias[i];
      for (int64_t k = 0; k < kernel; ++k) sum += conv[i * kernel + k] * bx[(r + k) * d + i];
      to[i] = c[i] * sum;
    }
  }
  if (new_history != nullptr) std::memcpy(new_history, bx.data() + rows * d, (kernel - 1) * d * sizeof(float));
}

ValueId PlainFlow::ShortConv(ValueId bcx, const BlockWeights& w, const ShortConvSpec& spec, int layer) {
  const int64_t d = columns(bcx) / 3;
  const ValueId y = NewValue(d);
  const float* in = data(bcx);
  float* out = data(y);
  std::vector<int64_t> first(segments_.size());
  for (size_t s = 1; s < segments_.size(); ++s) first[s] = first[s - 1] + segments_[s - 1].rows;
  pool_->ParallelFor(static_cast<int64_t>(segments_.size()), [&](int64_t s, int) {
    const Segment& segment = segments_[s];
    float* state = segment.cache != nullptr ? segment.cache->State(layer) : nullptr;
    ShortConvRows(in + first[s] * 3 * d, segment.rows, d, w.conv, w.conv_bias, spec.kernel, state, out + first[s] * d, state);
  });
  return y;
}

ValueId PlainFlow::Route(ValueId logits, const MoeSpec& spec, const std::vector<float>& per_expert_scale) {
  const int64_t n = columns(logits), k = spec.experts_per_token;
  const ValueId y = NewValue(k);
  std::vector<int32_t> experts(rows_ * k);
  const float* in = data(logits);
  float* out = data(y);
  ForRows([&](int64_t r, int64_t) {
    ChooseExperts(in + r * n, spec, experts.data() + r * k);
    RoutingWeights(in + r * n, spec, per_expert_scale, experts.data() + r * k, out + r * k);
  });
  values_[y].experts = std::move(experts);
  return y;
}

ValueId PlainFlow::ExpertLinear(ValueId x, ValueId routing, const ExpertWeights& w) {
  const int64_t k = columns(routing);
  const ValueId y = NewValue(k * w.out);
  const std::vector<int32_t>& experts = values_[routing].experts;
  std::vector<ExpertPair> pairs(experts.size());
  for (size_t i = 0; i < pairs.size(); ++i) pairs[i] = {experts[i], static_cast<int64_t>(i) / k, static_cast<int64_t>(i)};
  optiq::ExpertLinear(data(x), w.in, pairs, w.experts, data(y), w.out, pool_,
                      {.products = products_, .fixed_order = fixed_order_ && !IsFast(products_)});
  return y;
}

ValueId PlainFlow::ExpertScale(ValueId slots, ValueId routing) {
  const int64_t n = columns(slots), k = columns(routing), width = n / k;
  const ValueId y = NewValue(n);
  const float* in = data(slots);
  const float* weights = data(routing);
  float* out = data(y);
  ForRows([&](int64_t r, int64_t) {
    for (int64_t s = 0; s < k; ++s) ScaleRow(in + r * n + s * width, weights[r * k + s], width, out + r * n + s * width);
  });
  return y;
}

ValueId PlainFlow::ExpertSum(ValueId slots, ValueId routing, const ExpertWeights& w) {
  const int64_t k = columns(routing);
  const ValueId y = NewValue(w.out);
  std::memset(data(y), 0, rows_ * w.out * sizeof(float));
  const std::vector<int32_t>& experts = values_[routing].experts;
  std::vector<ExpertPair> pairs(experts.size());
  for (size_t i = 0; i < pairs.size(); ++i) pairs[i] = {experts[i], static_cast<int64_t>(i), static_cast<int64_t>(i) / k};
  optiq::ExpertLinear(data(slots), w.in, pairs, w.experts, data(y), w.out, pool_,
                      {.products = products_,
                       .output = ExpertOutput::kAccumulate,
                       .fixed_order = fixed_order_ && !IsFast(products_)});
  return y;
}

}  // namespace optiq
