#include "model/per_layer_inputs.h"

#include <cmath>
#include <numbers>

#include "base/aligned.h"
#include "kernels/vector.h"
#include "ops/linear.h"

namespace optiq {

void PerLayerInputs(const DecoderSpec& spec, const PerLayerWeights& w, std::span<const int32_t> ids, const float* h, int first,
                    int last, float* out, ThreadPool* pool, Products products) {
  const int64_t p = spec.per_layer_input_size, d = spec.hidden_size, width = (last - first) * p;
  const int64_t n = static_cast<int64_t>(ids.size());
  Linear(h, n, d, RowSlice(w.projection.matrix, first * p, last * p), nullptr, out, width, pool, products);
  const float from_hidden = 1.0f / std::sqrt(static_cast<float>(d)), from_table = std::sqrt(static_cast<float>(p));
  const float half = 1.0f / std::numbers::sqrt2_v<float>;
  pool->ParallelFor(n, [&](int64_t i, int) {
    thread_local AlignedBuffer<float> row_buffer;
    float* row = row_buffer.Grow(spec.per_layer_width());
    DecodeRows(w.embedding, ids[i], ids[i] + 1, row);
    for (int layer = first; layer < last; ++layer) {
      float* to = out + i * width + (layer - first) * p;
      ScaleRow(to, from_hidden, p, to);
      RmsNormRow(to, w.norm.data(), p, spec.rms_norm_eps, to);
      AxpyRow(from_table, row + layer * p, p, to);
      ScaleRow(to, half, p, to);
    }
  });
}

}  // namespace optiq
