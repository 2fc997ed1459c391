// The flow of ordinary activations, for one or more sequences side by side.
#ifndef OPTIQ_MODEL_PLAIN_FLOW_H_
#define OPTIQ_MODEL_PLAIN_FLOW_H_

#include <map>
#include <memory>
#include <span>
#include <vector>

#include "base/aligned.h"
#include "base/op_profile.h"
#include "base/thread_pool.h"
#include "kv/kv_cache.h"
#include "model/block.h"
#include "model/lora_adapter.h"
#include "model/rope.h"
#include "ops/attention.h"
#include "ops/kv_attention.h"
#include "ops/linear.h"

namespace optiq {

// How attention computes a sequence's rows. Rows of a prompt are computed in one way however the prompt is cut into passes, and rows of
// an answer in one way however many are checked at once; the two ways differ in the order of additions.
enum class RowKind {
  kAny,  // by the number of rows
  kPrompt,
  kAnswer,
};

// Consecutive rows that are one sequence: positions start, start+1, ... With a cache, keys and values are appended to it and
// attention reads it; without, start is 0 and attention stays among the rows.
struct Segment {
  int64_t rows = 0;
  int64_t start = 0;
  KvCache* cache = nullptr;
  RowKind kind = RowKind::kAny;
  const LoraAdapter* adapter = nullptr;
};

class PlainFlow : public Flow {
 public:
  // keep_all: Drop keeps values readable (the sweep's reference tape). buffers: shared storage for values, or nullptr.
  PlainFlow(const DecoderSpec& spec, const RopeTables& ropes, std::vector<Segment> segments, ThreadPool* pool,
            bool keep_all = false, BufferPool<float>* buffers = nullptr, Products products = Products::kF32);
  ~PlainFlow() override { Reset(); }

  // Times every operation from here on; nullptr stops.
  void set_profile(OpProfile* profile) { profile_ = profile; }

  int64_t rows() const { return rows_; }
  // A new value of `columns` columns, contents undefined. Throws std::bad_alloc.
  ValueId NewValue(int64_t columns);
  float* data(ValueId id) { return values_[id].buffer.data(); }
  const float* data(ValueId id) const { return values_[id].buffer.data(); }
  int64_t columns(ValueId id) const { return values_[id].columns; }
  // The experts of a routing value, [rows, experts_per_token].
  const std::vector<int32_t>& experts(ValueId id) const { return values_[id].experts; }
  int num_values() const { return static_cast<int>(values_.size()); }
  // Forgets all values.
  void Reset();

  // What the next block's PerLayerInput returns a copy of: row r is at rows + r * stride. Not owned.
  void SetPerLayerInput(const float* rows, int64_t stride) {
    per_layer_ = rows;
    per_layer_stride_ = stride;
  }
  // KV sharing without a cache. After a block whose keys and values are read later: its two values, which Drop leaves alone.
  struct KeysValues {
    ValueId k = -1, v = -1;
  };
  KeysValues SharedKv(int layer) const {
    auto it = shared_.find(layer);
    return it == shared_.end() ? KeysValues() : it->second;
  }
  // Before a block that reads the keys and values of `layer`, when they are not of this flow.
  void ProvideKv(int layer, KeysValues kv) { shared_[layer] = kv; }
  // With fixed_order, an expert's product with a row does not depend on the other rows that chose it.
  void set_fixed_order(bool fixed) { fixed_order_ = fixed; }

  ValueId Linear(ValueId x, const LinearWeights& w) override;
  ValueId Linears(ValueId x, std::initializer_list<const LinearWeights*> all) override;
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
  // What the segments' adapters add to y = W x.
  void AddAdapters(ValueId x, const LinearWeights& w, ValueId y);
  ValueId AttendTo(ValueId q, KeysValues kv, const AttentionSpec& spec, int layer);
  struct Slot {
    AlignedBuffer<float> buffer;
    int64_t columns = 0;
    std::vector<int32_t> experts;
  };
  // Calls fn(row, position) for every row, in parallel chunks.
  template <typename Fn>
  void ForRows(Fn fn);

  const DecoderSpec& spec_;
  const RopeTables& ropes_;
  std::vector<Segment> segments_;
  std::vector<int64_t> positions_;
  struct AdapterRows {
    const LoraAdapter* adapter;
    std::vector<int64_t> rows;
  };
  std::vector<AdapterRows> adapters_;
  ThreadPool* pool_;
  bool keep_all_;
  bool fixed_order_ = false;
  const float* per_layer_ = nullptr;
  int64_t per_layer_stride_ = 0;
  std::map<int, KeysValues> shared_;
  Products products_;
  OpProfile* profile_ = nullptr;
  int64_t rows_ = 0;
  std::vector<Slot> values_;
  BufferPool<float> own_buffers_;
  BufferPool<float>* buffers_;
};

// One sequence of a gated short convolution: bcx [rows, 3 d], history [kernel - 1, d] = B * x of the positions before (nullptr:
// zeros), out [rows, d]. conv: [d, kernel], bias: [d] or empty. new_history may be nullptr.
void ShortConvRows(const float* bcx, int64_t rows, int64_t d, const std::vector<float>& conv, const std::vector<float>& bias,
                   int64_t kernel, const float* history, float* out, float* new_history);

// act(gate) * up for one row.
void GateRow(Activation activation, const float* gate, const float* up, int64_t n, float* out);
AttentionShape ShapeOf(const AttentionSpec& spec);

}  // namespace optiq

#endif  // OPTIQ_MODEL_PLAIN_FLOW_H_
