#include "model/weights.h"

#include <algorithm>
#include <set>

#include "model/block_layout.h"
#include "model/experts.h"

namespace optiq {
namespace {

// Dimensions of size 1 may stand elsewhere: mlx-lm turns a convolution's [channels, 1, kernel] into [channels, kernel, 1].
std::vector<int64_t> WithoutOnes(const std::vector<int64_t>& shape) {
  std::vector<int64_t> out;
  for (int64_t n : shape) {
    if (n != 1) out.push_back(n);
  }
  return out;
}

StatusOr<std::vector<float>> LoadVector(const Checkpoint& checkpoint, const std::string& name,
                                        const std::vector<int64_t>& shape) {
  ASSIGN_OR_RETURN(const StoredTensor* tensor, checkpoint.Require(name));
  if (WithoutOnes(tensor->shape) != WithoutOnes(shape)) {
    return DataLoss("{}: tensor '{}' has shape {}, but config.json asks for [{}]", checkpoint.path(), name,
                    tensor->ShapeString(), fmt::join(shape, ", "));
  }
  return ReadVector(*tensor);
}

StatusOr<LinearWeights> LoadLinear(const Checkpoint& checkpoint, const std::string& path, int64_t out, int64_t in,
                                   bool bias) {
  LinearWeights w;
  ASSIGN_OR_RETURN(w.matrix, LoadWeightMatrix(checkpoint, path, out, in));
  if (bias) {
    ASSIGN_OR_RETURN(w.bias, LoadVector(checkpoint, path + ".bias", {out}));
  }
  return w;
}

}  // namespace

StatusOr<std::vector<float>> LoadNorm(const Checkpoint& checkpoint, const DecoderSpec& spec, const std::string& path,
                                      int64_t size) {
  ASSIGN_OR_RETURN(std::vector<float> w, LoadVector(checkpoint, path + ".weight", {size}));
  for (float& v : w) v += spec.norm_weight_offset;
  return w;
}

StatusOr<BlockWeights> LoadBlockWeights(const Checkpoint& checkpoint, const DecoderSpec& spec, int layer) {
  const BlockLayout layout = LayoutOf(spec, layer);
  BlockWeights w;
  for (const VectorEntry& e : layout.vectors) {
    std::vector<float>& values = w.*e.member;
    ASSIGN_OR_RETURN(values, LoadVector(checkpoint, e.name, e.shape));
    for (float& v : values) v = e.is_norm ? v + spec.norm_weight_offset : v * e.scale;
  }
  for (const LinearEntry& e : layout.linears) {
    ASSIGN_OR_RETURN(w.*e.member, LoadLinear(checkpoint, e.path, e.out, e.in, e.bias));
  }
  for (const ExpertsEntry& e : layout.experts) {
    ASSIGN_OR_RETURN(w.*e.member, LoadExperts(checkpoint, spec.layers[layer], e));
  }
  return w;
}

std::vector<BlockWeights::Ref> BlockWeights::refs() {
  std::vector<Ref> out;
  for (LinearWeights* l : {&q, &k, &v, &o, &conv_in, &conv_out, &gate, &up, &down, &router, &shared_gate, &shared_up, &shared_down,
                           &shared_expert_gate, &per_layer_gate, &per_layer_projection}) {
    if (l->matrix.rows > 0) out.push_back({&l->matrix, -1});
  }
  for (ExpertWeights* x : {&expert_gate, &expert_up, &expert_down}) {
    for (size_t e = 0; e < x->experts.size(); ++e) out.push_back({&x->experts[e], static_cast<int>(e)});
  }
  return out;
}

std::vector<const WeightMatrix*> BlockWeights::matrices() const {
  std::vector<const WeightMatrix*> out;
  for (const Ref& r : const_cast<BlockWeights*>(this)->refs()) out.push_back(r.matrix);
  return out;
}

std::vector<WeightMatrix> BlockWeights::Find(const std::string& path) const {
  std::vector<WeightMatrix> out;
  for (const WeightMatrix* m : matrices()) {
    if (m->path == path) out.push_back(*m);
  }
  return out;
}

StatusOr<WeightMatrix> LoadEmbedding(const Checkpoint& checkpoint, const DecoderSpec& spec) {
  return LoadWeightMatrix(checkpoint, spec.embed_path, spec.vocab_size, spec.hidden_size);
}

StatusOr<WeightMatrix> LoadHead(const Checkpoint& checkpoint, const DecoderSpec& spec) {
  if (spec.tie_word_embeddings) return LoadEmbedding(checkpoint, spec);
  return LoadWeightMatrix(checkpoint, spec.head_path, spec.vocab_size, spec.hidden_size);
}

StatusOr<PerLayerWeights> LoadPerLayerWeights(const Checkpoint& checkpoint, const DecoderSpec& spec) {
  PerLayerWeights w;
  if (spec.per_layer_input_size == 0) return w;
  ASSIGN_OR_RETURN(w.embedding, LoadWeightMatrix(checkpoint, spec.per_layer_embed_path, spec.vocab_size_per_layer_input,
                                                 spec.per_layer_width()));
  ASSIGN_OR_RETURN(w.projection, LoadLinear(checkpoint, spec.per_layer_projection_path, spec.per_layer_width(),
                                            spec.hidden_size, false));
  ASSIGN_OR_RETURN(w.norm, LoadNorm(checkpoint, spec, spec.per_layer_norm_path, spec.per_layer_input_size));
  return w;
}

StatusOr<DecoderWeights> LoadDecoderWeights(const Checkpoint& checkpoint, const DecoderSpec& spec) {
  RETURN_IF_ERROR(CheckQuantizationPaths(checkpoint, spec));
  DecoderWeights w;
  ASSIGN_OR_RETURN(w.embedding, LoadEmbedding(checkpoint, spec));
  ASSIGN_OR_RETURN(w.per_layer, LoadPerLayerWeights(checkpoint, spec));
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    ASSIGN_OR_RETURN(BlockWeights block, LoadBlockWeights(checkpoint, spec, static_cast<int>(i)));
    w.blocks.push_back(std::move(block));
  }
  ASSIGN_OR_RETURN(w.final_norm, LoadNorm(checkpoint, spec, spec.norm_path, spec.hidden_size));
  ASSIGN_OR_RETURN(w.head, LoadHead(checkpoint, spec));
  return w;
}

uint64_t DecoderWeights::BytesPerToken(const DecoderSpec& spec) const {
  uint64_t bytes = head.bytes();
  if (!spec.tie_word_embeddings) bytes += embedding.bytes() / spec.vocab_size;
  if (spec.per_layer_input_size > 0) {
    bytes += per_layer.embedding.bytes() / spec.vocab_size_per_layer_input + per_layer.projection.matrix.bytes();
  }
  for (size_t i = 0; i < blocks.size(); ++i) {
    const MoeSpec& moe = spec.layers[i].moe;
    for (const WeightMatrix* m : blocks[i].matrices()) bytes += m->bytes();
    for (const ExpertWeights* x : {&blocks[i].expert_gate, &blocks[i].expert_up, &blocks[i].expert_down}) {
      for (const WeightMatrix& m : x->experts) bytes -= m.bytes();
      if (!x->experts.empty()) bytes += x->experts[0].bytes() * moe.experts_per_token;
    }
  }
  return bytes;
}

StatusOr<std::vector<WeightMatrix>> LoadModule(const Checkpoint& checkpoint, const DecoderSpec& spec,
                                               const DecoderSpec::Module& module) {
  if (module.experts == 0) {
    ASSIGN_OR_RETURN(WeightMatrix m, LoadWeightMatrix(checkpoint, module.path, module.out, module.in));
    return std::vector<WeightMatrix>{std::move(m)};
  }
  const BlockLayout layout = LayoutOf(spec, module.block);
  for (const ExpertsEntry& e : layout.experts) {
    if (e.path != module.path) continue;
    ASSIGN_OR_RETURN(ExpertWeights w, LoadExperts(checkpoint, spec.layers[module.block], e));
    return std::move(w.experts);
  }
  return Internal("'{}' is not a module of its block", module.path);
}

Status CheckQuantizationPaths(const Checkpoint& checkpoint, const DecoderSpec& spec) {
  const Json& config = checkpoint.config();
  auto section = config.find("quantization");
  if (section == config.end() || !section->is_object()) return OkStatus();
  std::set<std::string> known;
  for (const DecoderSpec::Module& m : spec.QuantizableModules()) known.insert(m.path);
  for (const auto& [path, value] : section->items()) {
    if (!value.is_object() || known.contains(path) || checkpoint.Find(path + ".weight") != nullptr) continue;
    return InvalidArgument("{}/config.json: quantization['{}']: there is no such module; remove the entry",
                           checkpoint.path(), path.substr(0, 200));
  }
  return OkStatus();
}

}  // namespace optiq
