// A plan says how every quantizable weight is written. Measuring (SensitivityTable), deciding (allocation) and writing
// (convert) are three steps with a file between them; a plan may be edited by hand.
#ifndef OPTIQ_QUANT_PLAN_H_
#define OPTIQ_QUANT_PLAN_H_

#include <map>
#include <optional>
#include <string>

#include "base/json.h"
#include "base/status.h"
#include "io/checkpoint.h"

namespace optiq {

struct PlanEntry {
  AffineFormat format;
  std::string encoder = "rtn";  // "rtn": bit-identical to mx.quantize
  bool dense = false;           // left in the checkpoint's dtype
  bool operator==(const PlanEntry&) const = default;
};

struct Plan {
  std::string base_model;
  AffineFormat default_format;               // config.json's top-level bits and group_size
  std::map<std::string, PlanEntry> entries;  // MLX module path -> how
  std::string origin;                        // "allocation", "uniform 4-bit g64", "file plan.json"

  // {"version": 1, "base_model", "default": {"bits", "group_size"}, "layers": {"path": {"bits", "group_size",
  // "encoder"} | false}}
  // Bytes of strings that are not UTF-8 become U+FFFD, so that dump() does not throw.
  Json ToJson() const;
  static StatusOr<Plan> FromJson(const Json& json, std::string_view what);
};

}  // namespace optiq

#endif  // OPTIQ_QUANT_PLAN_H_
