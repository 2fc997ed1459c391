// Runs a decoder: token ids in, logits out, block by block, with a KV cache.
#ifndef OPTIQ_MODEL_DECODER_H_
#define OPTIQ_MODEL_DECODER_H_

#include <memory>
#include <span>
#include <vector>

#include "base/aligned.h"
#include "base/op_profile.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "io/checkpoint.h"
#include "kv/kv_cache.h"
#include "model/decoder_spec.h"
#include "model/packed_weights.h"
#include "model/plain_flow.h"
#include "model/rope.h"
#include "model/weights.h"
#include "ops/linear.h"

namespace optiq {

class Decoder {
 public:
  // Maps all weights of `checkpoint` (which must outlive the decoder). Nothing is copied but norms and biases.
  static StatusOr<std::unique_ptr<Decoder>> Load(const Checkpoint& checkpoint, ThreadPool* pool);
  ~Decoder();

  const DecoderSpec& spec() const { return spec_; }

  // How matrix products are computed: exactly (the default), or fast.
  void set_products(Products products) { products_ = products; }
  Products products() const { return products_; }
  // For Products::kFast: copies the affine weights into memory as the products read them best, when that takes at most `most` bytes
  // (packed_weights.h). The same bits come out. Whether it was done.
  bool PackWeights(const Checkpoint& checkpoint, int64_t most) { return packed_.Pack(&weights_, checkpoint, most, pool_); }
  // Bytes of that copy; 0: weights are read where the file is mapped.
  uint64_t packed_bytes() const { return packed_.bytes(); }
  // Times every operation of the passes to come; nullptr stops.
  void set_profile(OpProfile* profile) { profile_ = profile; }
  const DecoderWeights& weights() const { return weights_; }
  ThreadPool* pool() const { return pool_; }

  // An empty cache for one sequence: f32 throughout, or by a plan (kInvalidArgument when it does not fit the model).
  std::unique_ptr<KvCache> MakeCache() const;
  StatusOr<std::unique_ptr<KvCache>> MakeCache(const KvPlan& plan) const;

  // Feeds `ids` (checked against vocab_size) at positions cache->length().. and appends their keys and values to the cache.
  // logits: f32 [ids.size(), vocab_size] when all_logits, else the last row only: [1, vocab_size].
  // kResourceExhausted when the cache cannot grow; kDataLoss when the logits are not finite.
  Status Forward(std::span<const int32_t> ids, KvCache* cache, bool all_logits, std::vector<float>* logits);

  // One sequence of a batch; its cache may appear once.
  struct Input {
    std::span<const int32_t> ids;
    KvCache* cache = nullptr;
    bool all_logits = false;
    bool no_logits = false;      // none of this sequence
    RowKind kind = RowKind::kAny;
    const LoraAdapter* adapter = nullptr;  // of this model
    float* hidden = nullptr;     // receives the states after the final norm: f32 [ids.size(), hidden_size]
  };
  // Forward for several sequences at once; logits holds their rows one after the other. With products of a fixed order
  // (WithFixedOrder) and a kind named, a sequence's bits do not depend on what else is in the batch.
  // finite: nullptr, or whether each row of logits is; then rows that are not fail no one.
  Status ForwardBatch(std::span<const Input> batch, std::vector<float>* logits, std::vector<bool>* finite = nullptr);
  // kDataLoss: what logits that are not finite come from. The first call reads all weights.
  Status NotFinite();
  // Logits of states that ForwardBatch gave: f32 [rows, vocab_size].
  Status Logits(const float* hidden, int64_t rows, std::vector<float>* logits);

 private:
  Decoder() = default;
  Status Project(const float* hidden, int64_t rows, std::vector<float>* logits);
  DecoderSpec spec_;
  DecoderWeights weights_;
  PackedWeights packed_;
  Status not_finite_;  // of NotFinite, once it was called
  RopeTables ropes_;
  BufferPool<float> buffers_;
  Products products_ = Products::kF32;
  OpProfile* profile_ = nullptr;
  ThreadPool* pool_ = nullptr;
};

// What the model's layers keep: heads, windows, shared layers.
KvGeometry KvGeometryOf(const DecoderSpec& spec);

// kInvalidArgument naming `what` and the id when one is outside the vocabulary.
Status CheckTokenIds(const DecoderSpec& spec, std::span<const int32_t> ids, std::string_view what);

// Rows of the embedding times embedding_scale: out f32 [ids.size(), hidden_size]. Ids must be in range.
void EmbedTokens(const DecoderSpec& spec, const WeightMatrix& embedding, std::span<const int32_t> ids, float* out,
                 ThreadPool* pool);

}  // namespace optiq

#endif  // OPTIQ_MODEL_DECODER_H_
