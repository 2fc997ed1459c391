#include "quant/allocation.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "base/checked.h"
#include "quant/mckp.h"
#include "quant/path_pattern.h"

namespace optiq {
namespace {

constexpr int kDense = -1;  // Allocation::choice of an item left dense

// The options an item may take, and what they are called in the table.
struct Candidates {
  MckpClass options;
  std::vector<int> index;  // into SensitivityItem::options, or kDense
};

std::string BitsName(int bits) { return bits == 0 ? "dense" : fmt::format("{}-bit", bits); }

Candidates CandidatesOf(const SensitivityItem& item, std::optional<int> only_bits, bool allow_dense) {
  Candidates c;
  for (int i = 0; i < static_cast<int>(item.options.size()); ++i) {
    const SensitivityOption& o = item.options[i];
    if (only_bits && o.format.bits != *only_bits) continue;
    c.options.push_back({o.bytes, std::max(0.0, o.kl)});
    c.index.push_back(i);
  }
  bool dense = only_bits ? *only_bits == 0 : (allow_dense || item.options.empty());
  if (dense && item.dense_bytes > 0) {
    c.options.push_back({item.dense_bytes, 0.0});
    c.index.push_back(kDense);
  }
  return c;
}

// For each item the bits an override holds it to, if any.
StatusOr<std::vector<std::optional<int>>> ResolveOverrides(const SensitivityTable& table,
                                                           const AllocationRequest& request) {
  std::vector<std::optional<int>> bits(table.items.size());
  for (const auto& [text, want] : request.overrides) {
    ASSIGN_OR_RETURN(PathPattern pattern, PathPattern::Compile(text));
    bool any = false;
    for (size_t i = 0; i < table.items.size(); ++i) {
      ASSIGN_OR_RETURN(bool match, pattern.Matches(table.items[i].path));
      if (!match) continue;
      any = true;
      bits[i] = want;
    }
    if (!any) return InvalidArgument("override '{}': matches none of the {} weights", text, table.items.size());
  }
  return bits;
}

Status CheckItem(const SensitivityItem& item) {
  for (const SensitivityOption& o : item.options) {
    if (!std::isfinite(o.kl)) {
      return InvalidArgument("sensitivity of '{}': the KL of {}-bit, group {} is {}; measure it again", item.path,
                             o.format.bits, o.format.group_size, o.kl);
    }
  }
  return OkStatus();
}

StatusOr<std::vector<Candidates>> AllCandidates(const SensitivityTable& table, const AllocationRequest& request) {
  ASSIGN_OR_RETURN(std::vector<std::optional<int>> only, ResolveOverrides(table, request));
  std::vector<Candidates> all;
  uint64_t heaviest_sum = 0;
  for (size_t i = 0; i < table.items.size(); ++i) {
    const SensitivityItem& item = table.items[i];
    RETURN_IF_ERROR(CheckItem(item));
    all.push_back(CandidatesOf(item, only[i], request.allow_dense));
    if (all.back().options.empty()) {
      if (only[i]) {
        return InvalidArgument("override: '{}' has no {} option in the sensitivity table", item.path,
                               BitsName(*only[i]));
      }
      return InvalidArgument("sensitivity of '{}': there is no option to choose", item.path);
    }
    uint64_t heaviest = 0;
    for (const MckpOption& o : all.back().options) heaviest = std::max(heaviest, o.weight);
    std::optional<uint64_t> sum = CheckedAdd(heaviest_sum, heaviest);
    if (!sum || *sum >= (uint64_t{1} << 62)) return InvalidArgument("sensitivity table: the sizes do not fit 62 bits");
    heaviest_sum = *sum;
  }
  return all;
}

double Bpw(uint64_t bytes, uint64_t params) {
  return params == 0 ? 0 : 8.0 * static_cast<double>(bytes) / static_cast<double>(params);
}

Status TooSmall(const SensitivityTable& table, const AllocationRequest& request, uint64_t smallest) {
  uint64_t params = TotalParams(table);
  // Rounded up, so that the number shown is itself enough.
  double least = std::ceil(Bpw(smallest, params) * 1000) / 1000;
  return InvalidArgument(
      "budget: {} bytes ({:.3f} bits per weight) is too small: the smallest options{} take {} bytes; ask for at least "
      "{:.3f} "
      "bits per weight",
      request.budget_bytes, Bpw(request.budget_bytes, params),
      request.overrides.empty() ? "" : " that the overrides leave", smallest, least);
}

StatusOr<Allocation> Solve(const std::vector<Candidates>& candidates, const std::vector<MckpClass>& classes,
                           const SensitivityTable& table, const AllocationRequest& request) {
  std::optional<MckpSolution> solution = SolveMckp(classes, request.budget_bytes, request.max_work);
  if (!solution) return TooSmall(table, request, MckpMinWeight(classes));
  Allocation out;
  for (size_t i = 0; i < candidates.size(); ++i) out.choice.push_back(candidates[i].index[solution->choice[i]]);
  out.bytes = solution->weight;
  out.predicted_kl = solution->cost;
  out.lp_bound = solution->lower_bound;
  out.optimal = solution->optimal;
  return out;
}

std::vector<MckpClass> Classes(const std::vector<Candidates>& candidates) {
  std::vector<MckpClass> out;
  for (const Candidates& c : candidates) out.push_back(c.options);
  return out;
}

}  // namespace

StatusOr<Allocation> Allocate(const SensitivityTable& table, const AllocationRequest& request) {
  ASSIGN_OR_RETURN(std::vector<Candidates> candidates, AllCandidates(table, request));
  return Solve(candidates, Classes(candidates), table, request);
}

Plan PlanFromAllocation(const SensitivityTable& table, const Allocation& allocation) {
  OPTIQ_CHECK(allocation.choice.size() == table.items.size());
  Plan plan;
  plan.base_model = table.base_model;
  plan.origin = "allocation";
  std::map<std::pair<int, int>, uint64_t> weights_of_format;
  for (size_t i = 0; i < table.items.size(); ++i) {
    const SensitivityItem& item = table.items[i];
    PlanEntry& entry = plan.entries[item.path];
    if (allocation.choice[i] == kDense) {
      entry.dense = true;
      continue;
    }
    const SensitivityOption& option = item.options[allocation.choice[i]];
    entry.format = option.format;
    entry.encoder = option.encoder;
    weights_of_format[{option.format.bits, option.format.group_size}] += item.params();
  }
  uint64_t most = 0;
  for (const auto& [format, weights] : weights_of_format) {
    if (weights > most) {
      most = weights;
      plan.default_format = {format.first, format.second};
    }
  }
  return plan;
}

uint64_t TotalParams(const SensitivityTable& table) {
  uint64_t sum = 0;
  for (const SensitivityItem& item : table.items) sum += item.params();
  return sum;
}

uint64_t BudgetForBpw(const SensitivityTable& table, double target_bpw) {
  if (!(target_bpw > 0)) return 0;
  double bytes = std::floor(target_bpw * static_cast<double>(TotalParams(table)) / 8);
  return bytes >= 0x1p62 ? uint64_t{1} << 62 : static_cast<uint64_t>(bytes);
}

StatusOr<std::vector<ParetoPoint>> ParetoCurve(const SensitivityTable& table, int points,
                                               const AllocationRequest& request) {
  ASSIGN_OR_RETURN(std::vector<Candidates> candidates, AllCandidates(table, request));
  std::vector<MckpClass> classes = Classes(candidates);
  const uint64_t smallest = MckpMinWeight(classes);
  uint64_t largest = 0;
  for (const Candidates& c : candidates) {
    uint64_t w = 0;
    for (size_t k = 0; k < c.options.size(); ++k) {
      if (c.index[k] != kDense || c.options.size() == 1) w = std::max(w, c.options[k].weight);
    }
    largest += w;
  }
  std::vector<ParetoPoint> curve;
  const uint64_t params = TotalParams(table);
  for (int i = 0; i < points; ++i) {
    AllocationRequest at = request;
    double share = points == 1 ? 1.0 : static_cast<double>(i) / (points - 1);
    at.budget_bytes = smallest + static_cast<uint64_t>(share * static_cast<double>(largest - smallest));
    ASSIGN_OR_RETURN(Allocation a, Solve(candidates, classes, table, at));
    if (!curve.empty() && a.predicted_kl >= curve.back().predicted_kl) continue;
    curve.push_back({a.bytes, Bpw(a.bytes, params), a.predicted_kl});
  }
  return curve;
}

}  // namespace optiq
