// What a multimodal checkpoint holds besides its text decoder.
#ifndef OPTIQ_QUANT_TOWERS_H_
#define OPTIQ_QUANT_TOWERS_H_

#include <string>

#include "base/status.h"
#include "io/checkpoint.h"
#include "model/decoder_spec.h"

namespace optiq {

// Not model*.safetensors: stock mlx-lm loads all of those.
inline constexpr const char* kTowersFile = "optiq_towers.safetensors";

bool IsTowerTensor(const DecoderSpec& spec, const std::string& name);
bool HasTowers(const Checkpoint& checkpoint, const DecoderSpec& spec);
// Keys and values of layers that read another layer's: checkpoints carry them, no implementation uses them.
bool IsSharedKvTensor(const DecoderSpec& spec, const std::string& name);

// Writes all tower tensors to <dir>/optiq_towers.safetensors: floats as bf16, without the leading "model.", and the
// configs of the towers to the metadata ("vision_config", "audio_config").
Status WriteTowers(const Checkpoint& checkpoint, const DecoderSpec& spec, const std::string& dir);

}  // namespace optiq

#endif  // OPTIQ_QUANT_TOWERS_H_
