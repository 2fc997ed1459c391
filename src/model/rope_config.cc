#include "model/rope_config.h"

#include <cmath>
#include <numbers>

namespace optiq {
namespace {

// Llama 3.1: long wavelengths are divided by factor, short ones kept, those between interpolated (transformers'
// _compute_llama3_parameters).
void ScaleLlama3(ConfigFields* s, std::vector<double>* freq) {
  const double factor = s->Number("factor", 1e-3, 1e6, 8);
  const double low = s->Number("low_freq_factor", 1e-3, 1e6, 1);
  const double high = s->Number("high_freq_factor", 1e-3, 1e6, 4);
  const double original = static_cast<double>(s->Int("original_max_position_embeddings", 1, limits::kContext, 8192));
  if (high <= low) s->Fail("high_freq_factor", "must be greater than low_freq_factor");
  for (double& f : *freq) {
    const double wavelength = 2 * std::numbers::pi / f;
    if (wavelength > original / low) {
      f /= factor;
    } else if (wavelength >= original / high) {
      const double smooth = (original / wavelength - low) / (high - low);
      f = (1 - smooth) * f / factor + smooth * f;
    }
  }
}

}  // namespace

StatusOr<RopeSpec> MakeRope(int64_t head_dim, double theta, const Json* scaling, const std::string& what) {
  if (head_dim % 2 != 0) return InvalidArgument("{}: head_dim {} is odd; RoPE needs pairs", what, head_dim);
  std::vector<double> freq(head_dim / 2);
  for (size_t i = 0; i < freq.size(); ++i) freq[i] = std::pow(theta, -2.0 * i / head_dim);
  if (scaling != nullptr) {
    ConfigFields s(*scaling, what + ": rope scaling");
    const std::string type = s.String("rope_type", s.String("type", "default"));
    const double partial = s.Number("partial_rotary_factor", 0, 1, 1);
    if (partial != 1 && type != "proportional") {
      return Unimplemented("{}: partial_rotary_factor other than 1 is not supported for this model_type", what);
    }
    if (type == "proportional") {
      const double factor = s.Number("factor", 1e-3, 1e6, 1);
      const size_t turned = static_cast<size_t>(partial * static_cast<double>(head_dim) / 2);
      for (size_t i = 0; i < freq.size(); ++i) freq[i] = i < turned ? freq[i] / factor : 0;
    } else if (type == "linear") {
      const double factor = s.Number("factor", 1e-3, 1e6, 1);
      for (double& f : freq) f /= factor;
    } else if (type == "llama3") {
      ScaleLlama3(&s, &freq);
    } else if (type != "default") {
      return Unimplemented("{}: rope_type '{}' is not supported; known: default, linear, llama3, proportional", what, type);
    }
    RETURN_IF_ERROR(s.status());
  }
  RopeSpec spec;
  spec.inv_freq.assign(freq.begin(), freq.end());
  return spec;
}

StatusOr<RopeSpec> RopeFromConfig(ConfigFields* config, int64_t head_dim, double default_theta) {
  double theta = config->Number("rope_theta", 1e-3, 1e12, default_theta);
  const Json* scaling = config->Object("rope_parameters");
  if (scaling != nullptr) {
    ConfigFields parameters(*scaling, config->what() + ": rope_parameters");
    theta = parameters.Number("rope_theta", 1e-3, 1e12, theta);
    RETURN_IF_ERROR(parameters.status());
  } else {
    scaling = config->Object("rope_scaling");
  }
  RETURN_IF_ERROR(config->status());
  return MakeRope(head_dim, theta, scaling, config->what());
}

}  // namespace optiq
