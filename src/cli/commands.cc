#include "cli/command.h"

namespace optiq {

std::span<const Command> Commands() {
  constexpr unsigned kTalk = kQuietFlag | kVerboseFlag | kProgressFlag;
  static constexpr Command kCommands[] = {
      {"convert", RegisterConvert, kThreadsFlag | kJsonFlag | kTalk},
      {"sensitivity", RegisterSensitivity, kThreadsFlag | kJsonFlag | kTalk},
      {"generate", RegisterGenerate, kThreadsFlag | kJsonFlag | kTalk},
      {"chat", RegisterChat, kThreadsFlag | kTalk},
      {"logits", RegisterLogits, kThreadsFlag | kJsonFlag | kTalk},
      {"inspect", RegisterInspect, kJsonFlag},
  };
  return kCommands;
}

}  // namespace optiq
