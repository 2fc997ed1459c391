// Rotary scaling of a GGUF file as the rope_scaling object of config.json.
#ifndef OPTIQ_IO_GGUF_ROPE_H_
#define OPTIQ_IO_GGUF_ROPE_H_

#include <cstdint>
#include <span>
#include <string_view>

#include "base/json.h"
#include "base/status.h"
#include "io/gguf.h"

namespace optiq {

// From the keys `<arch>.rope.scaling.*` and the factors of rope_freqs.weight (empty when absent); null when neither
// scales.
//
// linear and yarn are named in the metadata. Llama 3's scaling is stored as one factor per frequency only; its
// parameters are found again by trying factor = the largest, low and high frequency factors 1 and 4 and every power of
// two as the original context, and are taken only if they give all factors back to 1e-4. kUnimplemented for anything
// else.
StatusOr<Json> GgufRopeScaling(const GgufFile& file, std::string_view arch, double rope_theta, int64_t head_dim,
                               std::span<const float> rope_factors);

}  // namespace optiq

#endif  // OPTIQ_IO_GGUF_ROPE_H_
