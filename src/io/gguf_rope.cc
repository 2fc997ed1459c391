#include "io/gguf_rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/limits.h"

namespace optiq {
namespace {

constexpr double kLowFreqFactor = 1.0, kHighFreqFactor = 4.0;  // of every published Llama 3 model

// transformers, modeling_rope_utils.py, _compute_llama3_parameters: the divisor of one frequency.
double Llama3Factor(double frequency, double factor, double original_context) {
  const double wavelength = 2 * std::numbers::pi / frequency;
  if (wavelength < original_context / kHighFreqFactor) return 1;
  if (wavelength > original_context / kLowFreqFactor) return factor;
  const double smooth = (original_context / wavelength - kLowFreqFactor) / (kHighFreqFactor - kLowFreqFactor);
  return 1 / ((1 - smooth) / factor + smooth);
}

bool Explains(std::span<const float> factors, double theta, double factor, double original_context) {
  for (size_t i = 0; i < factors.size(); ++i) {
    const double frequency = std::pow(theta, -static_cast<double>(i) / static_cast<double>(factors.size()));
    const double expected = Llama3Factor(frequency, factor, original_context);
    if (!(std::abs(factors[i] - expected) <= 1e-4 * expected)) return false;
  }
  return true;
}

StatusOr<Json> Llama3Scaling(const GgufFile& file, double theta, int64_t head_dim, std::span<const float> factors) {
  if (factors.size() * 2 != static_cast<size_t>(head_dim)) {
    return DataLoss("{}: rope_freqs.weight has {} factors, half of the head dimension {} is expected", file.name(),
                    factors.size(), head_dim);
  }
  if (std::all_of(factors.begin(), factors.end(), [](float f) { return f == 1.0f; })) return Json(nullptr);
  const double factor = *std::max_element(factors.begin(), factors.end());
  for (int64_t context = 32; context <= limits::kContext; context *= 2) {
    if (!Explains(factors, theta, factor, static_cast<double>(context))) continue;
    return Json{{"rope_type", "llama3"},
                {"factor", factor},
                {"low_freq_factor", kLowFreqFactor},
                {"high_freq_factor", kHighFreqFactor},
                {"original_max_position_embeddings", context}};
  }
  return Unimplemented(
      "{}: the factors of rope_freqs.weight are not those of Llama 3's rotary scaling; use the original "
      "checkpoint",
      file.name());
}

}  // namespace

StatusOr<Json> GgufRopeScaling(const GgufFile& file, std::string_view arch, double rope_theta, int64_t head_dim,
                               std::span<const float> rope_factors) {
  const std::string prefix = fmt::format("{}.rope.scaling.", arch);
  std::string type = "none";
  if (file.HasPrefix(prefix)) {
    ASSIGN_OR_RETURN(const std::string_view named, file.RequireString(prefix + "type"));
    type = std::string(named);
  }
  if (type == "none") {
    if (rope_factors.empty()) return Json(nullptr);
    return Llama3Scaling(file, rope_theta, head_dim, rope_factors);
  }
  if (!rope_factors.empty()) {
    return Unimplemented("{}: rope_freqs.weight together with {}type {} is not supported; use the original checkpoint",
                         file.name(), prefix, QuoteForError(type));
  }
  if (type != "linear" && type != "yarn") {
    return Unimplemented("{}: {}type {} is not supported, only none, linear and yarn; use the original checkpoint",
                         file.name(), prefix, QuoteForError(type));
  }
  for (const char* key : {"alpha", "attn_factor", "yarn_log_multiplier", "yarn_ext_factor", "yarn_attn_factor",
                          "yarn_beta_fast", "yarn_beta_slow"}) {
    if (file.Has(prefix + key)) {
      return Unimplemented("{}: {}{} is not supported; use the original checkpoint", file.name(), prefix, key);
    }
  }
  ASSIGN_OR_RETURN(const std::optional<double> factor, file.GetDouble(prefix + "factor"));
  if (!factor || *factor < 1 || *factor > 1e6) {
    return DataLoss("{}: {}factor is missing or not between 1 and 1e6", file.name(), prefix);
  }
  Json scaling{{"rope_type", type}, {"factor", *factor}};
  if (type == "yarn") {
    ASSIGN_OR_RETURN(const int64_t context, file.RequireInt(prefix + "original_context_length", 1, limits::kContext));
    scaling["original_max_position_embeddings"] = context;
  }
  return scaling;
}

}  // namespace optiq
