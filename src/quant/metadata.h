// optiq_metadata.json: how a converted directory was made.
#ifndef OPTIQ_QUANT_METADATA_H_
#define OPTIQ_QUANT_METADATA_H_

#include "base/json.h"
#include "quant/summary.h"

namespace optiq {

// mlx-optiq's schema at the top: method, base_model, reference, target_bpw, achieved_bpw, n_high_bits, n_low_bits,
// threshold, per_layer {path: {bits, group_size}} with 16 bits for a dense weight. Ours under "optiq_cpp": versions,
// command, bytes, the optimum's gap, calibration, held-out evaluation, and per layer encoder, bytes and predicted KL.
// Low bits are the smallest width in the plan; high bits are all others. All strings are valid UTF-8 and all numbers
// finite, so dump() does not throw.
Json OptiqMetadata(const ConvertSummary& summary);

}  // namespace optiq

#endif  // OPTIQ_QUANT_METADATA_H_
