// Spends a byte budget on the options of a SensitivityTable: a multiple-choice knapsack,
//   minimize sum_i kl_i(o_i)  subject to  sum_i bytes_i(o_i) <= budget.
// The linear relaxation (convex hull per item, segments by slope; Sinha & Zoltners 1979) gives a lower bound; the
// solution comes with its gap to that bound.
#ifndef OPTIQ_QUANT_ALLOCATION_H_
#define OPTIQ_QUANT_ALLOCATION_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "quant/plan.h"
#include "quant/sensitivity_table.h"

namespace optiq {

struct AllocationRequest {
  uint64_t budget_bytes = 0;  // all bytes on disk of the items' tensors: codes, scales, biases, and dense ones
  // (regex, bits): a path that matches anywhere takes only options with these bits (0: dense). Later ones win.
  std::vector<std::pair<std::string, int>> overrides;
  // Whether an item may stay dense (KL 0) without an override, where its dense_bytes is known.
  bool allow_dense = true;
  // States the exact search may generate (about 50 ns each); past that the best found is returned with its gap.
  int64_t max_work = 4'000'000;
};

struct Allocation {
  std::vector<int> choice;  // per item of the table: index into options, or -1 for dense
  uint64_t bytes = 0;
  double predicted_kl = 0;  // sum over items (additive model)
  double lp_bound = 0;      // no choice within the budget has a smaller predicted_kl
  bool optimal = false;     // proven that no choice within the budget does better
  double gap() const { return lp_bound > 0 ? predicted_kl / lp_bound - 1 : 0; }
};

// Measured KLs below zero (rounding) count as zero. kInvalidArgument when even the smallest options exceed the budget
// (names both sizes and the smallest possible bits per weight), an override matches nothing, has no such option or is
// not a valid regex, or a KL is not finite.
StatusOr<Allocation> Allocate(const SensitivityTable& table, const AllocationRequest& request);

Plan PlanFromAllocation(const SensitivityTable& table, const Allocation& allocation);

// Budget for a target of bits per weight over the table's items: floor(target_bpw * params / 8).
uint64_t BudgetForBpw(const SensitivityTable& table, double target_bpw);

// Weights of all items together.
uint64_t TotalParams(const SensitivityTable& table);

// One point of the trade of size for quality.
struct ParetoPoint {
  uint64_t bytes = 0;  // used, at most the budget
  double bpw = 0;      // 8 * bytes / params
  double predicted_kl = 0;
};

// The best allocations for `points` budgets spread evenly between the smallest options and the best quantized ones,
// smallest first, without repeats. One measurement serves all sizes.
StatusOr<std::vector<ParetoPoint>> ParetoCurve(const SensitivityTable& table, int points,
                                               const AllocationRequest& request = {});

}  // namespace optiq

#endif  // OPTIQ_QUANT_ALLOCATION_H_
