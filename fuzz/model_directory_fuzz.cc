// The untrusted text of a model directory: the shard index and config.json's quantization section. The first byte picks
// the parser and, for the section, shapes to hold against it.
#include <cstdint>
#include <string_view>

#include "io/quantization_config.h"
#include "io/shard_index.h"

namespace {

void FuzzIndex(std::string_view text) {
  auto index = optiq::ParseShardIndex(text, "index");
  if (!index.ok()) return;
  OPTIQ_CHECK(!index->shards.empty());
  for (const std::string& name : index->shards) {
    OPTIQ_CHECK(name.find('/') == std::string::npos && name != ".." && name.ends_with(".safetensors"));
  }
}

void FuzzQuantization(uint8_t choice, std::string_view text) {
  auto config = optiq::ParseJson(text, "config.json");
  if (!config.ok()) return;
  const optiq::Status status = optiq::CheckQuantizationSection(*config, "config.json");
  if (!status.ok() || !optiq::HasQuantization(*config)) return;
  constexpr int64_t kWide[] = {0, 1, 8, 12, 32, INT64_MAX / 16, INT64_MAX};
  optiq::StoredTensor weight, scales, biases;
  weight.dtype = optiq::DType::kU32;
  scales.dtype = biases.dtype = choice & 64 ? optiq::DType::kBF16 : optiq::DType::kF32;
  weight.shape = {4, kWide[choice / 2 % 7]};
  scales.shape = biases.shape = {4, kWide[(choice / 8) % 7]};
  const optiq::ModuleTensors tensors{&weight, &scales, choice & 32 ? &biases : nullptr};
  for (const auto& [path, entry] : (*config)["quantization"].items()) {
    for (int64_t in_dim : {int64_t{0}, int64_t{64}, INT64_MAX}) {
      auto format = optiq::ResolveQuantization(*config, path, tensors, in_dim);
      if (format.ok() && format->has_value()) {
        OPTIQ_CHECK(weight.cols() * 32 == scales.cols() * (*format)->group_size * (*format)->bits);
      }
    }
    (void)optiq::ResolveQuantization(*config, path, {&weight, nullptr, nullptr}, 0);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] % 2 == 0) {
    FuzzIndex(text);
  } else {
    FuzzQuantization(data[0], text);
  }
  return 0;
}
