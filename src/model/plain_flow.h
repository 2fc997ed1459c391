// The flow of ordinary activations, for one or more sequences side by side.
#ifndef OPTIQ_MODEL_PLAIN_FLOW_H_
#define OPTIQ_MODEL_PLAIN_FLOW_H_

#include <memory>
#include <span>
#include <vector>

#include "base/aligned.h"
#include "base/op_profile.h"
#include "base/thread_pool.h"
#include "kv/kv_cache.h"
#include "model/block.h"
#include "model/rope.h"
#include "ops/attention.h"
#include "ops/linear.h"

namespace optiq {

// Consecutive rows that are one sequence: positions start, start+1, ... With a cache, keys and values are appended to it and
// attention reads it; without, start is 0 and attention stays among the rows.
struct Segment {
  int64_t rows = 0;
  int64_t start = 0;
  KvCache* cache = nullptr;
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
  int num_values() const { return static_cast<int>(values_.size()); }
  // Forgets all values.
  void Reset();

  ValueId Linear(ValueId x, const LinearWeights& w) override;
  ValueId Linears(ValueId x, std::initializer_list<const LinearWeights*> all) override;
  ValueId Norm(ValueId x, const std::vector<float>& weight) override;
  ValueId HeadNorm(ValueId x, int64_t heads, const std::vector<float>& weight) override;
  ValueId Rope(ValueId x, int64_t heads, int rope) override;
  ValueId Attend(ValueId q, ValueId k, ValueId v, const AttentionSpec& spec, int layer) override;
  ValueId Gate(ValueId gate, ValueId up, Activation activation) override;
  ValueId Add(ValueId a, ValueId b) override;
  void Drop(ValueId x) override;

 private:
  struct Slot {
    AlignedBuffer<float> buffer;
    int64_t columns = 0;
  };
  // Calls fn(row, position) for every row, in parallel chunks.
  template <typename Fn>
  void ForRows(Fn fn);

  const DecoderSpec& spec_;
  const RopeTables& ropes_;
  std::vector<Segment> segments_;
  std::vector<int64_t> positions_;
  ThreadPool* pool_;
  bool keep_all_;
  Products products_;
  OpProfile* profile_ = nullptr;
  int64_t rows_ = 0;
  std::vector<Slot> values_;
  BufferPool<float> own_buffers_;
  BufferPool<float>* buffers_;
};

// act(gate) * up for one row.
void GateRow(Activation activation, const float* gate, const float* up, int64_t n, float* out);
AttentionShape ShapeOf(const AttentionSpec& spec);

}  // namespace optiq

#endif  // OPTIQ_MODEL_PLAIN_FLOW_H_
