#include "quant/towers.h"

#include <algorithm>
#include <vector>

#include "io/safetensors_writer.h"
#include "tensor/affine.h"

namespace optiq {
namespace {

// Values converted at a time.
constexpr int64_t kSliceValues = 16 << 20;

std::string SidecarName(const std::string& name) { return name.starts_with("model.") ? name.substr(6) : name; }

Status AppendBf16(const StoredTensor& t, const std::string& name, SafetensorsWriter* writer) {
  if (t.dtype == DType::kBF16 || !IsFloat(t.dtype)) return writer->Append(name, t.bytes);
  const int64_t step = std::max<int64_t>(1, kSliceValues / std::max<int64_t>(1, t.cols()));
  std::vector<float> values;
  std::vector<std::byte> bytes;
  for (int64_t r = 0; r < t.rows(); r += step) {
    const int64_t end = std::min(t.rows(), r + step);
    values.resize((end - r) * t.cols());
    ReadRows(t, r, end, values.data());
    bytes.resize(values.size() * 2);
    for (size_t i = 0; i < values.size(); ++i)
      StoreFloat(DType::kBF16, bytes.data(), static_cast<int64_t>(i), values[i]);
    RETURN_IF_ERROR(writer->Append(name, bytes));
  }
  return OkStatus();
}

}  // namespace

bool IsTowerTensor(const DecoderSpec& spec, const std::string& name) {
  return std::any_of(spec.tower_prefixes.begin(), spec.tower_prefixes.end(),
                     [&](const std::string& prefix) { return name.starts_with(prefix); });
}

bool HasTowers(const Checkpoint& checkpoint, const DecoderSpec& spec) {
  return std::any_of(checkpoint.tensors().begin(), checkpoint.tensors().end(),
                     [&](const StoredTensor& t) { return IsTowerTensor(spec, t.name); });
}

bool IsSharedKvTensor(const DecoderSpec& spec, const std::string& name) {
  for (const LayerSpec& l : spec.layers) {
    if (!l.has_attention() || l.attention.has_own_kv() || !name.starts_with(l.prefix)) continue;
    for (const std::string* module : {&l.names.k, &l.names.v, &l.names.k_norm}) {
      if (name.starts_with(l.prefix + *module + ".")) return true;
    }
  }
  return false;
}

Status WriteTowers(const Checkpoint& checkpoint, const DecoderSpec& spec, const std::string& dir) {
  std::vector<const StoredTensor*> tensors;
  std::vector<TensorSpec> specs;
  for (const StoredTensor& t : checkpoint.tensors()) {
    if (!IsTowerTensor(spec, t.name)) continue;
    tensors.push_back(&t);
    specs.push_back({SidecarName(t.name), IsFloat(t.dtype) ? DType::kBF16 : t.dtype, t.shape});
  }
  SafetensorsMetadata metadata = {{"format", "mlx"}};
  for (const char* key : {"vision_config", "audio_config"}) {
    auto it = checkpoint.config().find(key);
    if (it != checkpoint.config().end() && it->is_object()) {
      metadata[key] = it->dump(-1, ' ', false, Json::error_handler_t::replace);
    }
  }
  ASSIGN_OR_RETURN(auto writer, SafetensorsWriter::Create(dir + "/" + kTowersFile, specs, metadata));
  for (const StoredTensor* t : tensors) {
    RETURN_IF_ERROR(AppendBf16(*t, SidecarName(t->name), writer.get()));
    checkpoint.Release(*t);
  }
  return writer->Finish();
}

}  // namespace optiq
