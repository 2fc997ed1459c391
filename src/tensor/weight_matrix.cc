#include "tensor/weight_matrix.h"

namespace optiq {

namespace {

// Tensors of shape [lead.., cols].
StatusOr<WeightMatrix> Load(const Checkpoint& checkpoint, const std::string& path, const std::vector<int64_t>& lead,
                            int64_t cols) {
  const auto with = [&](int64_t last) {
    std::vector<int64_t> shape = lead;
    shape.push_back(last);
    return shape;
  };
  WeightMatrix m;
  m.path = path;
  m.rows = 1;
  for (int64_t n : lead) m.rows *= n;
  m.cols = cols;
  ASSIGN_OR_RETURN(const StoredTensor* weight, checkpoint.Require(path + ".weight"));
  ASSIGN_OR_RETURN(m.affine, checkpoint.QuantizationOf(path, cols));
  m.weight = *weight;
  if (!m.affine) {
    if (weight->shape != with(cols)) {
      return DataLoss("{}: tensor '{}' has shape {}, but config.json asks for [{}]", checkpoint.path(), weight->name,
                      weight->ShapeString(), fmt::join(with(cols), ", "));
    }
    if (!CanReadRows(weight->dtype)) {
      return Unimplemented("{}: tensor '{}' has dtype {}; weights must be F32, F16 or BF16", checkpoint.path(),
                           weight->name, DTypeName(weight->dtype));
    }
    return m;
  }
  const AffineFormat f = *m.affine;
  if (cols % f.group_size != 0 || weight->shape != with(cols * f.bits / 32)) {
    return DataLoss("{}: tensor '{}' has shape {}, but config.json asks for [{}] at {} bits, group {}",
                    checkpoint.path(), weight->name, weight->ShapeString(), fmt::join(with(cols), ", "), f.bits,
                    f.group_size);
  }
  ASSIGN_OR_RETURN(const StoredTensor* scales, checkpoint.Require(path + ".scales"));
  ASSIGN_OR_RETURN(const StoredTensor* biases, checkpoint.Require(path + ".biases"));
  m.scales = *scales;
  m.biases = *biases;
  for (const StoredTensor* t : {scales, biases}) {
    if (t->shape != with(cols / f.group_size) || !IsFloat(t->dtype) || t->dtype != scales->dtype) {
      return DataLoss("{}: tensor '{}' is {} {}; expected float [{}]", checkpoint.path(), t->name, DTypeName(t->dtype),
                      t->ShapeString(), fmt::join(with(cols / f.group_size), ", "));
    }
  }
  return m;
}

StoredTensor SliceOf(const StoredTensor& t, int64_t begin, int64_t end) {
  if (t.bytes.empty()) return t;
  OPTIQ_CHECK(t.rotary_heads == 0);
  StoredTensor out = t;
  const size_t row_bytes = t.bytes.size() / t.rows();
  out.shape = {end - begin, t.cols()};
  out.bytes = t.bytes.subspan(begin * row_bytes, (end - begin) * row_bytes);
  return out;
}

}  // namespace

StatusOr<WeightMatrix> LoadWeightMatrix(const Checkpoint& checkpoint, const std::string& path, int64_t rows,
                                        int64_t cols) {
  return Load(checkpoint, path, {rows}, cols);
}

StatusOr<WeightMatrix> LoadStackedWeight(const Checkpoint& checkpoint, const std::string& path, int64_t experts,
                                         int64_t out, int64_t in) {
  return Load(checkpoint, path, {experts, out}, in);
}

WeightMatrix RowSlice(const WeightMatrix& w, int64_t begin, int64_t end) {
  if (begin == 0 && end == w.rows && w.weight.rank() == 2) return w;
  WeightMatrix out = w;
  out.rows = end - begin;
  out.strips = nullptr;
  out.weight = SliceOf(w.weight, begin, end);
  out.scales = SliceOf(w.scales, begin, end);
  out.biases = SliceOf(w.biases, begin, end);
  return out;
}

WeightMatrix ViewOf(const AffineMatrix& a, std::string path) {
  WeightMatrix m;
  m.path = std::move(path);
  m.rows = a.rows;
  m.cols = a.cols;
  m.affine = a.format;
  m.weight.dtype = DType::kU32;
  m.weight.shape = {a.rows, a.words_per_row()};
  m.weight.bytes = std::as_bytes(std::span(a.packed));
  m.scales.dtype = m.biases.dtype = a.scale_dtype;
  m.scales.shape = m.biases.shape = {a.rows, a.groups_per_row()};
  m.scales.bytes = a.scales;
  m.biases.bytes = a.biases;
  return m;
}

WeightMatrix ViewOf(const float* values, int64_t rows, int64_t cols, std::string path) {
  WeightMatrix m;
  m.path = std::move(path);
  m.rows = rows;
  m.cols = cols;
  m.weight.dtype = DType::kF32;
  m.weight.shape = {rows, cols};
  m.weight.bytes = std::as_bytes(std::span(values, static_cast<size_t>(rows * cols)));
  return m;
}

}  // namespace optiq
