#include "model/lora_adapter.h"

#include <cmath>
#include <filesystem>
#include <map>
#include <optional>
#include <utility>

#include "base/aligned.h"
#include "base/json.h"
#include "io/mapped_file.h"
#include "io/safetensors.h"
#include "kernels/vector.h"
#include "ops/linear.h"

namespace optiq {
namespace {

constexpr int64_t kMostRank = 4096;

// How one of the two formats names and lays out its tensors.
struct Format {
  bool peft = false;
  std::string a_suffix, b_suffix;
  double scale = 1;       // mlx-lm: of all modules
  double alpha = 0;       // PEFT: alpha / rank, or alpha / sqrt(rank)
  bool by_root = false;
  std::optional<int64_t> rank;  // of all modules, where the file says so

  double ScaleFor(int64_t r) const {
    if (!peft) return scale;
    return alpha / (by_root ? std::sqrt(static_cast<double>(r)) : static_cast<double>(r));
  }
};

Status Unsupported(const std::string& what, const char* field, const std::string& value) {
  return Unimplemented("{}: {} is {}; only plain LoRA adapters can be mounted", what, field, value);
}

// True for a field that is there and neither null, false, empty nor "none".
bool IsSet(const Json& config, const char* field) {
  const auto it = config.find(field);
  if (it == config.end() || it->is_null()) return false;
  if (it->is_boolean()) return it->get<bool>();
  if (it->is_string()) return *it != "none" && !it->get_ref<const std::string&>().empty();
  return !it->empty();
}

std::string Shown(const Json& value) { return PrintableName(value.dump(-1, ' ', true, Json::error_handler_t::replace)); }

StatusOr<Format> PeftFormat(const Json& config, const std::string& what) {
  Format f{.peft = true, .a_suffix = ".lora_A.weight", .b_suffix = ".lora_B.weight"};
  if (config["peft_type"] != "LORA") return Unsupported(what, "peft_type", Shown(config["peft_type"]));
  for (const char* field : {"use_dora", "lora_bias", "fan_in_fan_out", "modules_to_save", "bias", "alpha_pattern", "trainable_token_indices"}) {
    if (IsSet(config, field)) return Unsupported(what, field, Shown(config[field]));
  }
  ASSIGN_OR_RETURN(const int64_t r, RequireInt(config, "r", 1, kMostRank, what));
  ASSIGN_OR_RETURN(const auto alpha, GetDouble(config, "lora_alpha", what));
  if (!alpha) return DataLoss("{}: 'lora_alpha' is missing", what);
  ASSIGN_OR_RETURN(const auto by_root, GetBool(config, "use_rslora", what));
  f.alpha = *alpha;
  f.by_root = by_root.value_or(false);
  if (!IsSet(config, "rank_pattern")) f.rank = r;
  return f;
}

StatusOr<Format> MlxFormat(const Json& config, const std::string& what) {
  Format f{.a_suffix = ".lora_a", .b_suffix = ".lora_b"};
  ASSIGN_OR_RETURN(const auto type, GetString(config, "fine_tune_type", what));
  if (type.value_or("lora") != "lora") return Unsupported(what, "fine_tune_type", PrintableName(*type));
  const auto it = config.find("lora_parameters");
  if (it == config.end() || !it->is_object()) return DataLoss("{}: 'lora_parameters' is missing", what);
  ASSIGN_OR_RETURN(const auto scale, GetDouble(*it, "scale", what + ": lora_parameters"));
  if (!scale) return DataLoss("{}: lora_parameters: 'scale' is missing", what);
  f.scale = *scale;
  ASSIGN_OR_RETURN(f.rank, GetInt(*it, "rank", what + ": lora_parameters"));
  return f;
}

// The path without what the formats put before a text model's layers: "layers.3.self_attn.q_proj". Other prefixes (an image tower's)
// stay and match nothing.
std::string_view LayerPath(std::string_view path) {
  for (bool more = true; more;) {
    more = false;
    for (const std::string_view prefix : {"base_model.", "model.", "language_model."}) {
      if (!path.starts_with(prefix)) continue;
      path.remove_prefix(prefix.size());
      more = true;
    }
  }
  return path;
}

std::map<std::string, const LinearWeights*, std::less<>> LinearLayers(const DecoderWeights& weights) {
  std::map<std::string, const LinearWeights*, std::less<>> out;
  for (const BlockWeights& b : weights.blocks) {
    for (const LinearWeights* w : {&b.q, &b.k, &b.v, &b.o, &b.gate, &b.up, &b.down, &b.router, &b.shared_gate, &b.shared_up,
                                   &b.shared_down, &b.shared_expert_gate, &b.per_layer_gate, &b.per_layer_projection, &b.conv_in,
                                   &b.conv_out}) {
      if (w->matrix.rows > 0) out[std::string(LayerPath(w->matrix.path))] = w;
    }
  }
  return out;
}

class Loader {
 public:
  Loader(const std::string& path, Format format, const DecoderWeights& weights)
      : path_(path), format_(std::move(format)), layers_(LinearLayers(weights)) {}

  Status Read(std::unordered_map<const LinearWeights*, LoraAdapter::Delta>* deltas) {
    ASSIGN_OR_RETURN(const auto map, MappedFile::Open(path_));
    ASSIGN_OR_RETURN(const std::vector<StoredTensor> tensors, ParseSafetensors(map->bytes(), path_, nullptr));
    std::map<std::string, std::pair<const StoredTensor*, const StoredTensor*>> pairs;
    for (const StoredTensor& t : tensors) {
      if (t.name.ends_with(format_.a_suffix)) {
        pairs[t.name.substr(0, t.name.size() - format_.a_suffix.size())].first = &t;
      } else if (t.name.ends_with(format_.b_suffix)) {
        pairs[t.name.substr(0, t.name.size() - format_.b_suffix.size())].second = &t;
      } else {
        return Unimplemented("{}: tensor '{}' is neither an A nor a B of a LoRA adapter", path_, PrintableName(t.name));
      }
    }
    if (pairs.empty()) return DataLoss("{}: the file has no tensors", path_);
    for (const auto& [module, pair] : pairs) RETURN_IF_ERROR(Add(module, pair.first, pair.second, deltas));
    return OkStatus();
  }

 private:
  Status Add(const std::string& module, const StoredTensor* a, const StoredTensor* b,
             std::unordered_map<const LinearWeights*, LoraAdapter::Delta>* deltas) {
    if (a == nullptr || b == nullptr) {
      return DataLoss("{}: tensor '{}{}' is missing", path_, PrintableName(module), a == nullptr ? format_.a_suffix : format_.b_suffix);
    }
    const auto it = layers_.find(LayerPath(module));
    if (it == layers_.end()) {
      return InvalidArgument("{}: tensor '{}': the model has no linear layer of that name", path_, PrintableName(a->name));
    }
    const LinearWeights* w = it->second;
    if (deltas->contains(w)) return DataLoss("{}: tensor '{}' is there twice", path_, PrintableName(a->name));
    const int64_t in = w->matrix.cols, out = w->matrix.rows;
    // mlx-lm keeps both transposed.
    const int64_t rank = a->rank() == 2 ? a->shape[format_.peft ? 0 : 1] : 0;
    if (rank < 1 || rank > kMostRank || (format_.rank && rank != *format_.rank)) {
      return DataLoss("{}: tensor '{}' has shape {}, which is not of rank {}", path_, PrintableName(a->name), a->ShapeString(),
                      format_.rank.value_or(0));
    }
    LoraAdapter::Delta delta{.rank = rank, .a = {}, .b = {}, .a_view = {}, .b_view = {}};
    ASSIGN_OR_RETURN(delta.a, Matrix(*a, rank, in));
    ASSIGN_OR_RETURN(delta.b, Matrix(*b, out, rank));
    const float scale = static_cast<float>(format_.ScaleFor(rank));
    ScaleRow(delta.b.data(), scale, static_cast<int64_t>(delta.b.size()), delta.b.data());
    if (!IsFiniteRow(delta.b.data(), static_cast<int64_t>(delta.b.size()))) {
      return DataLoss("{}: tensor '{}' times the scale {} is not finite", path_, PrintableName(b->name), scale);
    }
    LoraAdapter::Delta& kept = (*deltas)[w];
    kept = std::move(delta);
    kept.a_view = ViewOf(kept.a.data(), rank, in, module + format_.a_suffix);
    kept.b_view = ViewOf(kept.b.data(), out, rank, module + format_.b_suffix);
    return OkStatus();
  }

  // [rows, cols], from the file's order.
  StatusOr<std::vector<float>> Matrix(const StoredTensor& t, int64_t rows, int64_t cols) {
    const std::vector<int64_t> shape = format_.peft ? std::vector{rows, cols} : std::vector{cols, rows};
    if (t.shape != shape) {
      return DataLoss("{}: tensor '{}' has shape {}, but the model's layer asks for [{}]", path_, PrintableName(t.name), t.ShapeString(),
                      fmt::join(shape, ", "));
    }
    if (!CanReadRows(t.dtype) || IsBlock(t.dtype)) {
      return DataLoss("{}: tensor '{}' is of type {}; it must be F32, F16 or BF16", path_, PrintableName(t.name), DTypeName(t.dtype));
    }
    std::vector<float> values(rows * cols);
    ReadRows(t, 0, t.rows(), values.data());
    if (!IsFiniteRow(values.data(), rows * cols)) {
      return DataLoss("{}: tensor '{}' holds values that are not finite", path_, PrintableName(t.name));
    }
    if (format_.peft) return values;
    std::vector<float> turned(values.size());
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols; ++c) turned[r * cols + c] = values[c * rows + r];
    }
    return turned;
  }

  const std::string& path_;
  const Format format_;
  const std::map<std::string, const LinearWeights*, std::less<>> layers_;
};

}  // namespace

StatusOr<std::unique_ptr<LoraAdapter>> LoraAdapter::Load(const std::string& directory, const DecoderWeights& weights) {
  std::error_code error;
  if (!std::filesystem::is_directory(directory, error)) return NotFound("{}: there is no such directory", directory);
  const std::string what = directory + "/adapter_config.json";
  ASSIGN_OR_RETURN(Json config, ReadJsonFile(what));
  if (!config.is_object()) return DataLoss("{}: it must hold an object", what);
  const bool peft = config.contains("peft_type");
  ASSIGN_OR_RETURN(Format format, peft ? PeftFormat(config, what) : MlxFormat(config, what));
  auto adapter = std::unique_ptr<LoraAdapter>(new LoraAdapter());
  const std::string path = directory + (peft ? "/adapter_model.safetensors" : "/adapters.safetensors");
  try {
    RETURN_IF_ERROR(Loader(path, std::move(format), weights).Read(&adapter->deltas_));
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("{}: no memory for the adapter", path);
  }
  return adapter;
}

int64_t LoraAdapter::bytes() const {
  int64_t total = 0;
  for (const auto& [w, d] : deltas_) total += static_cast<int64_t>((d.a.size() + d.b.size()) * sizeof(float));
  return total;
}

void AddDelta(const LoraAdapter::Delta& delta, const float* x, int64_t m, int64_t ldx, float* y, int64_t ldy, ThreadPool* pool) {
  thread_local AlignedBuffer<float> inner, outer;  // of the calling thread
  const int64_t out = delta.b_view.rows;
  float* u = inner.Grow(m * delta.rank);
  float* sum = outer.Grow(m * out);
  Linear(x, m, ldx, delta.a_view, nullptr, u, delta.rank, pool, Products::kF32Fixed);
  Linear(u, m, delta.rank, delta.b_view, nullptr, sum, out, pool, Products::kF32Fixed);
  for (int64_t i = 0; i < m; ++i) AddRow(y + i * ldy, sum + i * out, out, y + i * ldy);
}

}  // namespace optiq
