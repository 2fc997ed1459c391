#include "quant/encode_module.h"

#include <algorithm>
#include <map>

namespace optiq {

std::vector<AffineFormat> CandidatesFor(const DecoderSpec::Module& module,
                                        const std::vector<AffineFormat>& candidates) {
  std::vector<AffineFormat> out;
  if (module.kind == DecoderSpec::ModuleKind::kRouter) {
    for (int group : {64, 32}) {
      if (out.empty() && module.in % group == 0) out.push_back({8, group});
    }
    return out;
  }
  for (AffineFormat f : candidates) {
    if (module.in % f.group_size == 0) out.push_back(f);
  }
  return out;
}

std::vector<WeightMatrix> ViewsOf(const EncodedModule& encoded, const std::string& path) {
  std::vector<WeightMatrix> out;
  for (const AffineMatrix& m : encoded) out.push_back(ViewOf(m, path));
  return out;
}

StatusOr<EncodedModule> EncodeModule(std::span<const WeightMatrix> parts, AffineFormat format,
                                     const std::string& encoder, const InputMoments& moments, ThreadPool* pool) {
  EncodedModule out;
  for (size_t i = 0; i < parts.size(); ++i) {
    const int expert = parts.size() > 1 ? static_cast<int>(i) : -1;
    ASSIGN_OR_RETURN(AffineMatrix m, EncodeMatrix(parts[i], format, encoder,
                                                  moments.OfPart(parts[i].path, expert, parts[i].cols), pool));
    out.push_back(std::move(m));
  }
  return out;
}

ModuleError ErrorOfModule(std::span<const WeightMatrix> parts, const EncodedModule& encoded,
                          const InputMoments& moments, ThreadPool* pool) {
  ModuleError out;
  double error = 0, total = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    const int expert = parts.size() > 1 ? static_cast<int>(i) : -1;
    const OutputError e =
        OutputErrorOf(parts[i], encoded[i], moments.OfPart(parts[i].path, expert, parts[i].cols), pool);
    out.shares.push_back(e.error);
    error += e.error;
    total += e.total;
  }
  for (double& s : out.shares) s /= error;
  if (!(error > 0)) out.shares.clear();
  out.relative = total > 0 ? error / total : 0;
  return out;
}

Status ForEachSlice(std::span<const WeightMatrix> parts, bool stacked, int64_t max_weights,
                    const std::function<Status(const WeightMatrix& rows, int expert)>& fn) {
  for (size_t i = 0; i < parts.size(); ++i) {
    const WeightMatrix& w = parts[i];
    const int expert = stacked ? static_cast<int>(i) : -1;
    if (w.rows * w.cols <= max_weights || w.weight.rotary_heads != 0) {
      RETURN_IF_ERROR(fn(w, expert));
      continue;
    }
    const int64_t step = std::max<int64_t>(1, max_weights / w.cols);
    for (int64_t r = 0; r < w.rows; r += step) RETURN_IF_ERROR(fn(RowSlice(w, r, std::min(w.rows, r + step)), expert));
  }
  return OkStatus();
}

Status EncodeBlock(const Plan& plan, const InputMoments& moments, ThreadPool* pool, BlockWeights* weights,
                   std::deque<AffineMatrix>* owned) {
  for (const BlockWeights::Ref& ref : weights->refs()) {
    auto entry = plan.entries.find(ref.matrix->path);
    if (entry == plan.entries.end() || entry->second.dense) continue;
    ASSIGN_OR_RETURN(AffineMatrix encoded,
                     EncodeMatrix(*ref.matrix, entry->second.format, entry->second.encoder,
                                  moments.OfPart(ref.matrix->path, ref.expert, ref.matrix->cols), pool));
    owned->push_back(std::move(encoded));
    *ref.matrix = ViewOf(owned->back(), ref.matrix->path);
  }
  return OkStatus();
}

GatheredRows GatherRows(const WeightMatrix& table, std::span<const int32_t> ids) {
  GatheredRows out;
  std::map<int32_t, int32_t> row_of;
  std::vector<int32_t> sources;
  for (int32_t id : ids) {
    const auto [it, fresh] = row_of.emplace(id, static_cast<int32_t>(sources.size()));
    if (fresh) sources.push_back(id);
    out.rows.push_back(it->second);
  }
  out.matrix = table;
  out.matrix.rows = static_cast<int64_t>(sources.size());
  StoredTensor* tensors[] = {&out.matrix.weight, &out.matrix.scales, &out.matrix.biases};
  for (int i = 0; i < 3; ++i) {
    StoredTensor& t = *tensors[i];
    if (t.bytes.empty()) continue;
    OPTIQ_CHECK(t.rotary_heads == 0);
    const size_t row_bytes = t.bytes.size() / t.rows();
    for (int32_t source : sources) {
      const auto row = t.bytes.subspan(source * row_bytes, row_bytes);
      out.bytes[i].insert(out.bytes[i].end(), row.begin(), row.end());
    }
    t.shape = {out.matrix.rows, t.cols()};
    t.bytes = out.bytes[i];
  }
  return out;
}

}  // namespace optiq
