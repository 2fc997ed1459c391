// Rotary embedding settings of config.json, old spelling (rope_theta, rope_scaling) and new (rope_parameters).
#ifndef OPTIQ_MODEL_ROPE_CONFIG_H_
#define OPTIQ_MODEL_ROPE_CONFIG_H_

#include "base/json.h"
#include "base/status.h"
#include "model/config_fields.h"
#include "model/decoder_spec.h"

namespace optiq {

// Frequencies theta^(-2i/head_dim) scaled as `scaling` says: rope_type (or type) default, linear (factor), llama3 (factor,
// low_freq_factor, high_freq_factor, original_max_position_embeddings; Llama 3.1), proportional (partial_rotary_factor, factor;
// Gemma 4: the first pairs turn at the frequencies of the whole head, the others not at all). Others: kUnimplemented that names the
// type.
StatusOr<RopeSpec> MakeRope(int64_t head_dim, double theta, const Json* scaling, const std::string& what);

// The usual single rope of a model: theta from rope_parameters.rope_theta, else rope_theta, else `default_theta`; scaling from
// rope_parameters, else rope_scaling.
StatusOr<RopeSpec> RopeFromConfig(ConfigFields* config, int64_t head_dim, double default_theta);

}  // namespace optiq

#endif  // OPTIQ_MODEL_ROPE_CONFIG_H_
