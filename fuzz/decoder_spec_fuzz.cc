// config.json as the decoder reads it: any JSON becomes a DecoderSpec or an error, and a spec's sizes are within limits.
#include <cstdint>
#include <string_view>

#include "base/limits.h"
#include "model/decoder_spec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto config = optiq::ParseJson(std::string_view(reinterpret_cast<const char*>(data), size), "config.json");
  if (!config.ok()) return 0;
  const auto spec = optiq::ParseDecoderSpec(*config, "config.json");
  if (!spec.ok()) {
    OPTIQ_CHECK(!spec.status().message().empty());
    return 0;
  }
  OPTIQ_CHECK(spec->hidden_size > 0 && spec->hidden_size <= optiq::limits::kWidth);
  OPTIQ_CHECK(spec->vocab_size > 0 && spec->vocab_size <= optiq::limits::kVocab);
  OPTIQ_CHECK(!spec->layers.empty() && static_cast<int64_t>(spec->layers.size()) <= optiq::limits::kLayers);
  for (const auto& module : spec->QuantizableModules()) OPTIQ_CHECK(module.out > 0 && module.in > 0 && !module.path.empty());
  return 0;
}
