// Causal grouped-query attention over f32 keys and values, with a sliding window.
#ifndef OPTIQ_OPS_ATTENTION_H_
#define OPTIQ_OPS_ATTENTION_H_

#include <cstdint>
#include <span>

#include "base/thread_pool.h"

namespace optiq {

struct AttentionShape {
  int64_t num_heads = 0, num_kv_heads = 0, head_dim = 0;
  int64_t window = 0;  // keys visible from a position, itself included; 0: all before it
  float scale = 1;
  float softcap = 0;             // scores become softcap * tanh(score / softcap) (Gemma 2); 0: none. Over cache pages only.
  const float* sinks = nullptr;  // [num_heads] one more score per head without a value (gpt-oss); nullptr: none. Likewise.
};

// One sequence: `rows` queries at positions start..start+rows-1 over keys of positions 0..start+rows-1.
// q, out: [rows, num_heads * head_dim]; k, v: [start + rows, num_kv_heads * head_dim]. Query head h reads
// key-value head h / (num_heads / num_kv_heads).
struct AttentionCall {
  const float* q = nullptr;
  const float* k = nullptr;
  const float* v = nullptr;
  float* out = nullptr;
  int64_t rows = 0, start = 0;
};

// Softmax in f32 over the visible keys; tasks are (call, key-value head).
void Attention(std::span<const AttentionCall> calls, const AttentionShape& shape, ThreadPool* pool);

}  // namespace optiq

#endif  // OPTIQ_OPS_ATTENTION_H_
