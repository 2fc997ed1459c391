// What the calibration text says about the experts of a mixture, from a sensitivity table.
#ifndef OPTIQ_QUANT_EXPERT_STATS_H_
#define OPTIQ_QUANT_EXPERT_STATS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "quant/sensitivity_table.h"

namespace optiq {

// One stacked projection.
struct ExpertStats {
  std::string path;
  int64_t experts = 0;
  std::vector<int64_t> unreached;                 // experts that no token was routed to
  int64_t most_tokens = 0, least_tokens = 0;      // of the experts that were reached
  double largest_share = 0;                       // of the output error
  int64_t largest_share_expert = -1;
};

// One per stacked projection of the table, in its order.
std::vector<ExpertStats> ExpertStatsOf(const SensitivityTable& table);

// One line about unreached experts; empty when there are none.
std::string UnreachedExpertsWarning(const SensitivityTable& table);

// A section of the report; empty for models without experts.
std::string ExpertsHtml(const SensitivityTable& table);

}  // namespace optiq

#endif  // OPTIQ_QUANT_EXPERT_STATS_H_
