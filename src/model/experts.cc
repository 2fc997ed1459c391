#include "model/experts.h"

namespace optiq {
namespace {

std::string OneName(const LayerSpec& l, int64_t expert, const std::string& projection) {
  return fmt::format("{}{}.{}.{}", l.prefix, l.names.hf_experts, expert, projection);
}

StatusOr<ExpertWeights> LoadStacked(const Checkpoint& checkpoint, const LayerSpec& l, ExpertWeights out) {
  const int64_t experts = l.moe.num_experts;
  ASSIGN_OR_RETURN(WeightMatrix all, LoadStackedWeight(checkpoint, out.path, experts, out.out, out.in));
  for (int64_t e = 0; e < experts; ++e) out.experts.push_back(RowSlice(all, e * out.out, (e + 1) * out.out));
  return out;
}

StatusOr<ExpertWeights> LoadFused(const Checkpoint& checkpoint, const LayerSpec& l, const std::string& projection,
                                  ExpertWeights out) {
  const int64_t experts = l.moe.num_experts;
  const bool down = projection == "down_proj";
  const std::string name = l.prefix + l.names.hf_experts + (down ? ".down_proj" : ".gate_up_proj");
  ASSIGN_OR_RETURN(const StoredTensor* t, checkpoint.Require(name));
  const int64_t rows = down ? out.out : 2 * out.out, first = projection == "up_proj" ? out.out : 0;
  if (t->shape != std::vector<int64_t>{experts, rows, out.in} || !IsFloat(t->dtype)) {
    return DataLoss("{}: tensor '{}' is {} {}, but config.json asks for float [{}, {}, {}]", checkpoint.path(), name,
                    DTypeName(t->dtype), t->ShapeString(), experts, rows, out.in);
  }
  WeightMatrix all;
  all.path = out.path;
  all.rows = experts * rows;
  all.cols = out.in;
  all.weight = *t;
  for (int64_t e = 0; e < experts; ++e) {
    out.experts.push_back(RowSlice(all, e * rows + first, e * rows + first + out.out));
  }
  return out;
}

StatusOr<ExpertWeights> LoadOneByOne(const Checkpoint& checkpoint, const LayerSpec& l, const std::string& projection,
                                     ExpertWeights out) {
  for (int64_t e = 0; e < l.moe.num_experts; ++e) {
    const std::string path = OneName(l, e, projection);
    if (checkpoint.Find(path + ".weight") == nullptr) {
      return DataLoss("{}: tensor '{}.weight' is missing; config.json asks for {} experts", checkpoint.path(), path,
                      l.moe.num_experts);
    }
    ASSIGN_OR_RETURN(WeightMatrix w, LoadWeightMatrix(checkpoint, path, out.out, out.in));
    if (e > 0 && w.affine != out.experts[0].affine) {
      return DataLoss("{}: '{}' is quantized otherwise than expert 0; one format per projection is supported",
                      checkpoint.path(), path);
    }
    w.path = out.path;
    out.experts.push_back(std::move(w));
  }
  if (checkpoint.Find(OneName(l, l.moe.num_experts, projection) + ".weight") != nullptr) {
    return DataLoss("{}: tensor '{}.weight' is there, but config.json has {} experts", checkpoint.path(),
                    OneName(l, l.moe.num_experts, projection), l.moe.num_experts);
  }
  return out;
}

}  // namespace

const char* ExpertLayoutName(ExpertLayout layout) {
  switch (layout) {
    case ExpertLayout::kStacked:
      return "stacked [experts, out, in]";
    case ExpertLayout::kFusedGateUp:
      return "fused gate_up_proj";
    case ExpertLayout::kOneByOne:
      return "one tensor per expert";
  }
  return "unknown";
}

StatusOr<ExpertLayout> FindExpertLayout(const Checkpoint& checkpoint, const LayerSpec& l) {
  // Any projection tells: a file with a tensor missing is then reported by that tensor's name.
  bool stacked = false, one = false;
  for (const char* p : {"gate_proj", "up_proj", "down_proj"}) {
    stacked |= checkpoint.Find(fmt::format("{}{}.{}.weight", l.prefix, l.names.experts, p)) != nullptr;
    one |= checkpoint.Find(OneName(l, 0, p) + ".weight") != nullptr ||
           checkpoint.Find(OneName(l, 1, p) + ".weight") != nullptr;
  }
  const bool fused = checkpoint.Find(l.prefix + l.names.hf_experts + ".gate_up_proj") != nullptr ||
                     checkpoint.Find(l.prefix + l.names.hf_experts + ".down_proj") != nullptr;
  if (stacked + fused + one > 1) {
    return DataLoss("{}: {}{} are stored in two layouts at once ({}{}{}); remove one", checkpoint.path(), l.prefix,
                    l.names.hf_experts, stacked ? "stacked, " : "", fused ? "fused gate_up_proj, " : "",
                    one ? "one by one" : "");
  }
  if (stacked) return ExpertLayout::kStacked;
  if (fused) return ExpertLayout::kFusedGateUp;
  if (one) return ExpertLayout::kOneByOne;
  return NotFound("{}: no experts: neither '{}{}.gate_proj.weight' nor '{}{}.gate_up_proj' nor '{}.weight' is there",
                  checkpoint.path(), l.prefix, l.names.experts, l.prefix, l.names.hf_experts,
                  OneName(l, 0, "gate_proj"));
}

StatusOr<ExpertWeights> LoadExperts(const Checkpoint& checkpoint, const LayerSpec& layer, const ExpertsEntry& entry) {
  ASSIGN_OR_RETURN(const ExpertLayout layout, FindExpertLayout(checkpoint, layer));
  ExpertWeights out;
  out.path = entry.path;
  out.out = entry.out;
  out.in = entry.in;
  switch (layout) {
    case ExpertLayout::kStacked:
      return LoadStacked(checkpoint, layer, std::move(out));
    case ExpertLayout::kFusedGateUp:
      return LoadFused(checkpoint, layer, entry.projection, std::move(out));
    case ExpertLayout::kOneByOne:
      return LoadOneByOne(checkpoint, layer, entry.projection, std::move(out));
  }
  return Internal("no such layout");
}

}  // namespace optiq
