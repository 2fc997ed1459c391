// All tensors of a block, listed once. Loading, the list of quantizable modules and the tensors of a converted model
// follow it.
#ifndef OPTIQ_MODEL_BLOCK_LAYOUT_H_
#define OPTIQ_MODEL_BLOCK_LAYOUT_H_

#include <string>
#include <vector>

#include "model/decoder_spec.h"
#include "model/weights.h"

namespace optiq {

struct LinearEntry {
  LinearWeights BlockWeights::*member;
  std::string path;  // full module path
  int64_t out, in;
  bool bias = false;
  DecoderSpec::ModuleKind kind = DecoderSpec::ModuleKind::kLinear;
};

struct ExpertsEntry {
  ExpertWeights BlockWeights::*member;
  std::string path;        // of the stacked module
  std::string projection;  // gate_proj, up_proj, down_proj
  int64_t out, in;
};

struct VectorEntry {
  std::vector<float> BlockWeights::*member;
  std::string name;            // full tensor name
  std::vector<int64_t> shape;  // in the MLX layout
  bool is_norm = true;         // norm_weight_offset is added
  float scale = 1;             // multiplies the values on loading
};

struct BlockLayout {
  std::vector<LinearEntry> linears;
  std::vector<ExpertsEntry> experts;
  std::vector<VectorEntry> vectors;
};

BlockLayout LayoutOf(const DecoderSpec& spec, int layer);

// A tensor that is never quantized, with its shape in the MLX layout.
struct SmallTensor {
  std::string name;
  std::vector<int64_t> shape;
};
// Norms, biases, scalars: all that a model has besides its quantizable modules, in model order.
std::vector<SmallTensor> SmallTensors(const DecoderSpec& spec);

}  // namespace optiq

#endif  // OPTIQ_MODEL_BLOCK_LAYOUT_H_
