#include "cli/command.h"

namespace optiq {

std::span<const Command> Commands() {
  constexpr unsigned kTalk = kQuietFlag | kVerboseFlag | kProgressFlag;
  static constexpr Command kCommands[] = {
      {"convert", "Quantize a float model to a mixed-precision MLX model", RegisterConvert,
       kThreadsFlag | kJsonFlag | kTalk},
      {"sensitivity", "Measure how much each weight minds quantization", RegisterSensitivity,
       kThreadsFlag | kJsonFlag | kTalk},
      {"kv-cache", "Measure the KV cache per layer and recommend its bits", RegisterKvCache,
       kThreadsFlag | kJsonFlag | kTalk},
      {"generate", "Generate text after a prompt", RegisterGenerate, kThreadsFlag | kJsonFlag | kTalk},
      {"chat", "Talk with a model, line by line", RegisterChat, kThreadsFlag | kTalk},
      {"serve", "Serve a model over HTTP (OpenAI's and Anthropic's protocols)", RegisterServe, kThreadsFlag | kQuietFlag | kVerboseFlag},
      {"logits", "Write the logits of every position of a text to a file", RegisterLogits,
       kThreadsFlag | kJsonFlag | kTalk},
      {"eval", "Measure perplexity, and KL from a reference model", RegisterEval, kThreadsFlag | kJsonFlag | kTalk},
      {"bench", "Measure the speed of a model beside the limits of the machine", RegisterBench,
       kThreadsFlag | kJsonFlag | kTalk},
      {"inspect", "Show what is in a model: tensors, bits, bytes", RegisterInspect, kJsonFlag},
  };
  return kCommands;
}

}  // namespace optiq
