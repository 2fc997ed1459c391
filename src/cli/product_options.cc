#include "cli/product_options.h"

#include "base/clock.h"
#include "base/memory.h"
#include "cli/format.h"

namespace optiq {

void ProductOptions::AddTo(CLI::App* sub) {
  CLI::Option* flag = sub->add_flag("--exact", exact, "f32 arithmetic on the dequantized weights; slow");
  sub->add_flag("--no-repack", no_repack, "Multiply with the weights where the file is mapped: no copy in memory, slower")
      ->excludes(flag);
}

void ProductOptions::Apply(const LoadedModel& model, const CommandContext& context) const {
  model.decoder->set_products(exact ? Products::kF32 : Products::kFast);
  if (exact || no_repack) return;
  // The rest is for the cache and for whoever else is on the machine.
  const int64_t most = AvailableMemory() / 4 * 3;
  const double start = SteadySeconds();
  if (model.decoder->PackWeights(*model.checkpoint, most)) {
    context.Detail("{} of weights laid out in memory in {:.2f} s", FormatBytes(static_cast<double>(model.decoder->packed_bytes())),
                   SteadySeconds() - start);
  }
}

}  // namespace optiq
