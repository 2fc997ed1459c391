// {"bits", "group_size"} as they stand in plans, sensitivity tables and config.json: reading with range checks.
#ifndef OPTIQ_QUANT_AFFINE_JSON_H_
#define OPTIQ_QUANT_AFFINE_JSON_H_

#include <string>
#include <string_view>

#include "base/json.h"
#include "base/status.h"
#include "io/checkpoint.h"

namespace optiq {

// The bit widths and group sizes of MLX's affine mode.
bool IsAffineBits(int64_t bits);        // 2 3 4 5 6 8
bool IsAffineGroupSize(int64_t group);  // 32 64 128

// Reads the fields "bits" and "group_size" of an object; a missing one is taken from `defaults`, or an error without
// them.
StatusOr<AffineFormat> AffineFormatFromJson(const Json& object, std::string_view what,
                                            const AffineFormat* defaults = nullptr);

// Encoder names are short lower-case words ("rtn", "search", "gptq-diag"): they appear in files, tables and HTML.
Status CheckEncoderName(std::string_view name, std::string_view what);

// A string field that must be there.
StatusOr<std::string> RequireString(const Json& object, const char* key, std::string_view what,
                                    size_t max_bytes = 4096);

}  // namespace optiq

#endif  // OPTIQ_QUANT_AFFINE_JSON_H_
