// The multiple-choice knapsack: pick one option of every class, minimize the sum of costs, keep the sum of weights
// within a budget.
//
// Method: options that another one beats in weight and cost go; the linear relaxation is solved on the lower convex
// hulls by slope (Sinha & Zoltners 1979), which gives a bound and a multiplier; then a dynamic program over the
// deviations from the relaxed solution, classes ordered by the price of a deviation and states pruned by dominance and
// bound (Pisinger 1995, "A minimal algorithm for the multiple-choice knapsack problem"). Exact unless the work limit is
// hit; same input, same answer.
#ifndef OPTIQ_QUANT_MCKP_H_
#define OPTIQ_QUANT_MCKP_H_

#include <cstdint>
#include <optional>
#include <vector>

namespace optiq {

struct MckpOption {
  uint64_t weight = 0;
  double cost = 0;  // finite, not negative
};
using MckpClass = std::vector<MckpOption>;  // at least one option

struct MckpSolution {
  std::vector<int> choice;  // per class, an index into its options
  uint64_t weight = 0;
  double cost = 0;
  double lower_bound = 0;  // no choice within the budget costs less
  bool optimal = false;    // proven (up to rounding in the sums); false when the work limit cut the search
};

// The weight of the lightest choice: the smallest budget that has a solution.
uint64_t MckpMinWeight(const std::vector<MckpClass>& classes);

// nullopt when the budget is below MckpMinWeight. `max_work` bounds the states generated (about 50 ns each).
// Precondition: the sum of every class's heaviest weight is below 2^62.
std::optional<MckpSolution> SolveMckp(const std::vector<MckpClass>& classes, uint64_t budget,
                                      int64_t max_work = 4'000'000);

}  // namespace optiq

#endif  // OPTIQ_QUANT_MCKP_H_
