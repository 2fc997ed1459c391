// A model as the commands use it.
#ifndef OPTIQ_CLI_MODEL_LOADER_H_
#define OPTIQ_CLI_MODEL_LOADER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/thread_pool.h"
#include "cli/command.h"
#include "engine/generation_config.h"
#include "io/checkpoint.h"
#include "model/decoder.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace optiq {

struct LoadedModel {
  std::unique_ptr<ThreadPool> pool;
  std::unique_ptr<Checkpoint> checkpoint;
  std::unique_ptr<Decoder> decoder;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::optional<ChatTemplate> chat_template;
  GenerationConfig generation;
  std::vector<int32_t> end_ids;
};

// Opens the model directory or GGUF file at `path`.
StatusOr<LoadedModel> LoadModel(const std::string& path, const CommandContext& context);
// Without tokenizer, template and generation_config.json.
StatusOr<LoadedModel> LoadWeightsOnly(const std::string& path, const CommandContext& context);

}  // namespace optiq

#endif  // OPTIQ_CLI_MODEL_LOADER_H_
