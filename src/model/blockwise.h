// Running a model block by block over a batch of sequences, without a cache: what one block leaves for later ones.
#ifndef OPTIQ_MODEL_BLOCKWISE_H_
#define OPTIQ_MODEL_BLOCKWISE_H_

#include <map>
#include <span>
#include <vector>

#include "base/aligned.h"
#include "base/thread_pool.h"
#include "model/decoder_spec.h"
#include "model/per_layer_inputs.h"
#include "model/plain_flow.h"

namespace optiq {

struct SharedKvRows {
  AlignedBuffer<float> k, v;  // [tokens, kv_width]
};

// Activations, or differences of them, for all tokens of a batch.
struct Activations {
  AlignedBuffer<float> hidden;     // [tokens, hidden_size]
  std::map<int, SharedKvRows> kv;  // of layers that later ones read (KV sharing); for differences: absent means zeros

  // A deep copy.
  void CopyFrom(const Activations& other, const DecoderSpec& spec, int64_t tokens);
};

// What the per-layer inputs of a batch are made from; empty for architectures without them.
struct PerLayerSource {
  PerLayerWeights weights;
  std::vector<int32_t> rows;      // of weights.embedding, one per token
  AlignedBuffer<float> embedded;  // scaled embeddings [tokens, hidden_size]

  // Inputs of one layer for tokens [row0, row0 + n): out [n, per_layer_input_size].
  void Inputs(const DecoderSpec& spec, int layer, int64_t row0, int64_t n, float* out, ThreadPool* pool) const;
};

// The source for the float model, or for whatever weights are given: rows are the ids, `hidden` the scaled embeddings.
PerLayerSource MakePerLayerSource(const DecoderSpec& spec, PerLayerWeights weights, std::span<const int32_t> ids,
                                  const float* hidden);

// Gives `flow` the values a block starts from, tokens [row0, row0 + flow->rows()): the input's id is returned; keys and
// values that the block reads come next; the per-layer input is computed into *scratch, which must outlive the block.
ValueId EnterBlock(const DecoderSpec& spec, int layer, const Activations& state, const PerLayerSource& per_layer,
                   int64_t row0, PlainFlow* flow, AlignedBuffer<float>* scratch, ThreadPool* pool);
// Takes the block's output y, and keys and values that are read later, into `state` of `tokens` tokens.
void LeaveBlock(const DecoderSpec& spec, int layer, const PlainFlow& flow, ValueId y, int64_t row0, int64_t tokens,
                Activations* state);

}  // namespace optiq

#endif  // OPTIQ_MODEL_BLOCKWISE_H_
