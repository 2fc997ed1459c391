// The fields about sampling that the protocols share.
#ifndef OPTIQ_SERVER_SAMPLING_FIELDS_H_
#define OPTIQ_SERVER_SAMPLING_FIELDS_H_

#include "server/app.h"
#include "server/fields.h"

namespace optiq {

inline constexpr int64_t kMaxChoices = 8;
inline constexpr size_t kMaxStops = 16, kMaxStopBytes = 256, kMaxBiases = 1024;

// temperature, top_p, top_k, min_p, seed, penalties, logit_bias, xtc: over the server's defaults. A seed is drawn when
// none is given.
SamplingParams ReadSampling(Fields* fields, const App& app);

// The length asked for under one of the names, or the server's default; at least `min`.
int64_t ReadMaxTokens(Fields* fields, const App& app, std::initializer_list<const char*> names, int64_t min = 1);

// Cuts max_tokens to what the context leaves; an error when the prompt alone fills it.
std::optional<ApiError> FitContext(const App& app, size_t prompt_tokens, const char* param, int64_t* max_tokens);

}  // namespace optiq

#endif  // OPTIQ_SERVER_SAMPLING_FIELDS_H_
