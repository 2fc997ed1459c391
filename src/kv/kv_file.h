// Saved caches: the keys and values of a prompt, with its tokens, in one safetensors file, so that the prompt need not be read again.
//
// Every layer with keys of its own has layers.N.keys and layers.N.values, rows in the order of positions: bf16 or f32 [rows, heads,
// head_dim], or u32 [rows, heads, head_dim * bits / 32] in MLX's packing beside .scales and .biases [rows, heads, groups]. Rows that a
// quantized layer keeps in bf16 are in layers.N.first.* and layers.N.recent.*; a state is layers.N.state. The metadata hold format,
// version, the model's identity, the plan, the rings' places, and a sha256 over all data.
#ifndef OPTIQ_KV_KV_FILE_H_
#define OPTIQ_KV_KV_FILE_H_

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "io/checkpoint.h"
#include "kv/kv_cache.h"

namespace optiq {

// Names the weights that a cache belongs to: the checkpoint's fingerprint and samples of every tensor's bytes.
StatusOr<std::string> ModelIdentity(const Checkpoint& checkpoint);

// ids: the tokens of positions 0..cache.length()-1.
Status SaveKvCache(const std::string& path, const KvCache& cache, std::span<const int32_t> ids, const std::string& identity);

struct SavedKvCache {
  std::unique_ptr<KvCache> cache;
  std::vector<int32_t> ids;
};
// kInvalidArgument when the file belongs to another model, kDataLoss when it is damaged, altered, or not such a file; the message
// names the file and the tensor or field.
StatusOr<SavedKvCache> LoadKvCache(const std::string& path, const KvGeometry& geometry, int64_t vocab_size,
                                   const std::string& identity);

}  // namespace optiq

#endif  // OPTIQ_KV_KV_FILE_H_
