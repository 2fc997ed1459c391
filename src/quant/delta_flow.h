// The flow of differences from a reference. A stream is what one perturbation of a weight (a probe) does to the activations: every
// value is reference + difference, the reference is read from the tape of a PlainFlow that ran the same block, and only the
// difference is carried:
//
//   linear:      d_out = W d_in                          (bias cancels; products may be bf16: only the difference is rounded)
//   otherwise:   d_out = f(reference + d_in) - f(reference)   in f32
//
// Routing to experts is real: a stream's tokens go to the experts that its own router values choose. Where those are the reference's,
// an expert is a linear like any other; where a token goes elsewhere, its slot holds the new expert's full value minus the old one's.
//
// A probe that changes nothing gives differences that are exactly 0, and the KL of a small probe does not drown in the rounding of
// the large reference.
#ifndef OPTIQ_QUANT_DELTA_FLOW_H_
#define OPTIQ_QUANT_DELTA_FLOW_H_

#include <algorithm>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/aligned.h"
#include "base/checked.h"
#include "kernels/vector.h"
#include "model/plain_flow.h"

namespace optiq {

class DeltaFlow : public Flow {
 public:
  // `tape` ran the block with keep_all over the same segments, without caches. `streams` differences are carried side by side, each
  // tape.rows() rows.
  DeltaFlow(const DecoderSpec& spec, const RopeTables& ropes, std::vector<Segment> segments, const PlainFlow& tape,
            int64_t streams, Products products, ThreadPool* pool, BufferPool<float>* buffers);
  ~DeltaFlow() override { Reset(); }

  // Replaces the matrix of the module `path`, or its matrices if it is a stack of experts, by `encoded`, for all streams of this flow.
  void SetProbe(const std::string* path, std::span<const WeightMatrix> encoded) {
    probe_path_ = path;
    probe_ = encoded;
  }

  // The input value (id 0 of the tape): [streams * rows, columns]; null data means zero differences.
  ValueId Input(int64_t columns, bool zero);
  float* data(ValueId id) { return values_[id].buffer.data(); }
  bool is_zero(ValueId id) const { return values_[id].zero; }
  void Reset();  // forgets all values

  // Differences of what the next block's PerLayerInput returns: [streams * rows, per_layer_input_size]; nullptr: zeros. Not owned.
  void SetPerLayerInput(const float* differences) { per_layer_ = differences; }
  // As PlainFlow's; the ids are those of the tape.
  PlainFlow::KeysValues SharedKv(int layer) const {
    auto it = shared_.find(layer);
    return it == shared_.end() ? PlainFlow::KeysValues() : it->second;
  }
  void ProvideKv(int layer, PlainFlow::KeysValues kv) { shared_[layer] = kv; }

  // Floating point operations of matrix products so far.
  double gemm_flops() const { return flops_; }

  ValueId Linear(ValueId x, const LinearWeights& w) override;
  ValueId Norm(ValueId x, const std::vector<float>& weight) override;
  ValueId HeadNorm(ValueId x, int64_t heads, const std::vector<float>& weight) override;
  ValueId Rope(ValueId x, int64_t heads, int rope) override;
  ValueId Attend(ValueId q, ValueId k, ValueId v, const AttentionSpec& spec, int layer) override;
  ValueId AttendShared(ValueId q, const AttentionSpec& spec) override;
  ValueId Gate(ValueId gate, ValueId up, Activation activation) override;
  ValueId Add(ValueId a, ValueId b) override;
  ValueId Scale(ValueId x, float factor) override;
  ValueId SigmoidScale(ValueId x, ValueId gate) override;
  ValueId PerLayerInput() override;
  ValueId ShortConv(ValueId bcx, const BlockWeights& w, const ShortConvSpec& spec, int layer) override;
  ValueId Route(ValueId logits, const MoeSpec& spec, const std::vector<float>& per_expert_scale) override;
  ValueId ExpertLinear(ValueId x, ValueId routing, const ExpertWeights& w) override;
  ValueId ExpertScale(ValueId slots, ValueId routing) override;
  ValueId ExpertSum(ValueId slots, ValueId routing, const ExpertWeights& w) override;
  void Drop(ValueId x) override;

 private:
  struct Slot {
    AlignedBuffer<float> buffer;
    int64_t columns = 0;
    bool zero = false;  // all differences are zero; no buffer
    std::vector<int32_t> experts;  // of a routing value, [streams * rows, k], in the slots of the tape's; empty: the tape's
  };
  ValueId NewValue(int64_t columns, bool zero = false);
  ValueId AttendOver(ValueId q, ValueId k, ValueId v, const AttentionSpec& spec);
  bool IsProbed(const std::string& path) const { return probe_path_ != nullptr && *probe_path_ == path; }
  // fn(row of the tape, row of the stream, position) for all rows of all streams.
  template <typename Fn>
  void ForRows(Fn fn);
  // A value like inputs[0], by rows: fn gets the rows' full inputs and turns the first of them into the full output, in place.
  template <size_t kInputs, typename Fn>
  ValueId PerRow(const ValueId (&inputs)[kInputs], Fn fn);
  // Turns the full output that a value holds into its difference from the reference.
  void TakeOffReference(ValueId id);
  // out = reference of id + difference, one row.
  void Full(ValueId id, int64_t tape_row, int64_t row, float* out) const;

  const DecoderSpec& spec_;
  const RopeTables& ropes_;
  std::vector<Segment> segments_;
  std::vector<int64_t> positions_;
  const PlainFlow& tape_;
  int64_t streams_, rows_;
  Products products_;
  ThreadPool* pool_;
  const std::string* probe_path_ = nullptr;
  std::span<const WeightMatrix> probe_;
  const float* per_layer_ = nullptr;
  std::map<int, PlainFlow::KeysValues> shared_;
  double flops_ = 0;
  std::vector<Slot> values_;
  BufferPool<float>* buffers_;
};

template <typename Fn>
void DeltaFlow::ForRows(Fn fn) {
  constexpr int64_t kChunk = 16;
  const int64_t total = streams_ * rows_;
  pool_->ParallelFor(DivUp(total, kChunk), [&](int64_t task, int) {
    for (int64_t r = task * kChunk; r < std::min(total, (task + 1) * kChunk); ++r)
      fn(r % rows_, r, positions_[r % rows_]);
  });
}

template <size_t kInputs, typename Fn>
ValueId DeltaFlow::PerRow(const ValueId (&inputs)[kInputs], Fn fn) {
  const int64_t n = values_[inputs[0]].columns;
  const bool zero = std::all_of(inputs, inputs + kInputs, [&](ValueId x) { return is_zero(x); });
  const ValueId y = NewValue(n, zero);
  if (zero) return y;
  float* out = data(y);
  ForRows([&](int64_t t, int64_t r, int64_t) {
    thread_local AlignedBuffer<float> scratch[kInputs];
    float* full[kInputs];
    for (size_t i = 0; i < kInputs; ++i) {
      full[i] = scratch[i].Grow(values_[inputs[i]].columns);
      Full(inputs[i], t, r, full[i]);
    }
    fn(full);
    SubRow(full[0], tape_.data(y) + t * n, n, out + r * n);
  });
  return y;
}

}  // namespace optiq

#endif  // OPTIQ_QUANT_DELTA_FLOW_H_
