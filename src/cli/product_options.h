// --exact and --no-repack: how a command multiplies.
#ifndef OPTIQ_CLI_PRODUCT_OPTIONS_H_
#define OPTIQ_CLI_PRODUCT_OPTIONS_H_

#include <CLI/CLI.hpp>

#include "cli/command.h"
#include "cli/model_loader.h"

namespace optiq {

struct ProductOptions {
  bool exact = false, no_repack = false;

  void AddTo(CLI::App* sub);
  // Sets the decoder's products and lays its weights out for them.
  void Apply(const LoadedModel& model, const CommandContext& context) const;
};

}  // namespace optiq

#endif  // OPTIQ_CLI_PRODUCT_OPTIONS_H_
