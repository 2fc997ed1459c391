// The "quantization" section of config.json, as mlx-lm writes and reads it, against the shapes of a module's tensors.
#ifndef OPTIQ_IO_QUANTIZATION_CONFIG_H_
#define OPTIQ_IO_QUANTIZATION_CONFIG_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/json.h"
#include "base/status.h"
#include "io/checkpoint.h"
#include "io/stored_tensor.h"

namespace optiq {

// Checks config["quantization"] with all its per-path entries (bits, group size, mode), or, when there is none, that no
// legacy quantization_config (GPTQ, AWQ, FP8, ...) asks for a format we do not read. `what` names the file in errors.
// kInvalidArgument for a wrong field, kUnimplemented for a format that is not affine.
Status CheckQuantizationSection(const Json& config, std::string_view what);

// True when config.json has a "quantization" section, the mark of an MLX-layout quantized model.
bool HasQuantization(const Json& config);

// The tensors of one module; null where the file has none.
struct ModuleTensors {
  const StoredTensor* weight = nullptr;
  const StoredTensor* scales = nullptr;
  const StoredTensor* biases = nullptr;
};

// mlx-lm's rule (0.32, utils.load_model): the per-path entry if there is one; else float if there are no scales; else
// what the shapes say. `in_dim` > 0 makes the shapes decide alone, as in mlx-lm; with 0 the shapes only give bits *
// group_size, and the section's own bits and group_size, then the only fitting pair, decide. The shapes and dtypes of
// the tensors are checked.
StatusOr<std::optional<AffineFormat>> ResolveQuantization(const Json& config, std::string_view module_path,
                                                          const ModuleTensors& tensors, int64_t in_dim);

}  // namespace optiq

#endif  // OPTIQ_IO_QUANTIZATION_CONFIG_H_
