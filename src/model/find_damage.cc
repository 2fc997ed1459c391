#include "model/find_damage.h"

#include <fmt/format.h>

#include <cmath>

#include "ops/linear.h"

namespace optiq {
namespace {

bool Finite(const float* x, size_t n) {
  for (size_t i = 0; i < n; ++i) {
    if (!std::isfinite(x[i])) return false;
  }
  return true;
}

std::string InMatrix(const WeightMatrix& w) {
  std::vector<float> row(w.cols);
  for (int64_t r = 0; r < w.rows; ++r) {
    DecodeRows(w, r, r + 1, row.data());
    if (!Finite(row.data(), row.size())) {
      return fmt::format("'{}' has NaN or infinity in row {}{}", w.path, r, w.affine ? " (scales or biases)" : "");
    }
  }
  return "";
}

std::string InVector(const std::vector<float>& v, const std::string& name) {
  return Finite(v.data(), v.size()) ? "" : fmt::format("'{}' has NaN or infinity", name);
}

}  // namespace

std::string DescribeDamage(const DecoderWeights& weights) {
  if (std::string s = InMatrix(weights.embedding); !s.empty()) return s;
  for (size_t i = 0; i < weights.blocks.size(); ++i) {
    const BlockWeights& b = weights.blocks[i];
    for (const std::vector<float>* norm : {&b.input_norm, &b.post_attention_norm, &b.pre_feedforward_norm,
                                           &b.post_feedforward_norm, &b.q_norm, &b.k_norm}) {
      if (std::string s = InVector(*norm, fmt::format("a norm of layer {}", i)); !s.empty()) return s;
    }
    for (const WeightMatrix* w : b.matrices()) {
      if (std::string s = InMatrix(*w); !s.empty()) return s;
    }
    for (const LinearWeights* w : {&b.q, &b.k, &b.v, &b.o, &b.gate, &b.up, &b.down}) {
      if (std::string s = InVector(w->bias, w->matrix.path + ".bias"); !s.empty()) return s;
    }
  }
  if (std::string s = InVector(weights.final_norm, "the final norm"); !s.empty()) return s;
  if (std::string s = InMatrix(weights.head); !s.empty()) return s;
  return "all weights are finite: the activations overflow";
}

}  // namespace optiq
