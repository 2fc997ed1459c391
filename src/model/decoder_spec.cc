#include "model/decoder_spec.h"

#include <algorithm>

#include "model/arch/families.h"

namespace optiq {

std::vector<std::string> KnownModelTypes() {
  std::vector<std::string> out;
  for (const Family& f : Families()) out.emplace_back(f.model_type);
  std::sort(out.begin(), out.end());
  return out;
}

StatusOr<DecoderSpec> ParseDecoderSpec(const Json& config, std::string_view what) {
  if (!config.is_object()) return InvalidArgument("{}: must be a JSON object", what);
  ConfigFields fields(config, std::string(what));
  const std::string model_type = fields.String("model_type", "");
  RETURN_IF_ERROR(fields.status());
  if (model_type.empty()) return InvalidArgument("{}: field 'model_type' is missing", what);
  for (const Family& f : Families()) {
    if (f.model_type != model_type) continue;
    ASSIGN_OR_RETURN(DecoderSpec spec, f.parse(&fields));
    RETURN_IF_ERROR(fields.status());
    spec.model_type = model_type;
    return spec;
  }
  return Unimplemented("{}: model_type '{}' is not supported; known: {}", what, model_type.substr(0, 64),
                       fmt::join(KnownModelTypes(), ", "));
}

}  // namespace optiq
