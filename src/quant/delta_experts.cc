// The mixture-of-experts operations of DeltaFlow. A stream may route a token elsewhere than the reference does.
#include <algorithm>
#include <cstring>

#include "kernels/vector.h"
#include "model/routing.h"
#include "ops/expert_linear.h"
#include "quant/delta_flow.h"

namespace optiq {

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
    thread_local AlignedBuffer<float> scratch;
    float* full = scratch.Grow(n);
    Full(logits, t, r, full);
    int32_t* chosen = experts.data() + r * k;
    ChooseExperts(full, spec, chosen);
    // Weights in the order of the reference's slots.
    AlignSlots(reference.data() + t * k, k, chosen);
    RoutingWeights(full, spec, per_expert_scale, chosen, out + r * k);
  });
  TakeOffReference(y);
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
    TakeOffReference(y);
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
  const int64_t k = values_[routing].columns, width = values_[slots].columns / k;
  return PerRow({slots, routing}, [&](float* const* full) {
    for (int64_t s = 0; s < k; ++s) ScaleRow(full[0] + s * width, full[1][s], width, full[0] + s * width);
  });
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
    TakeOffReference(y);
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
