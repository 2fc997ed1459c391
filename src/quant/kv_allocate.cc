// Bits for keys and values under a budget of bytes.
#include <algorithm>
#include <cmath>

#include "quant/kv_recommend.h"
#include "quant/mckp.h"

namespace optiq {
namespace {

// What one side of a layer may become, lightest first.
struct Choice {
  KvFormat format;
  int64_t bytes = 0;
  double kl = 0;
};

std::vector<Choice> ChoicesOf(const KvLayerGeometry& g, const std::map<int, double>& kl, const KvRecommendOptions& options,
                              int64_t context) {
  std::vector<Choice> out;
  const int group = KvGroupFor(g.head_dim, options.group_size);
  const int64_t kept = KvPositionsKept(g, context);
  for (int bits : options.candidate_bits) {
    if (bits == 16 || group == 0) continue;
    const KvFormat format{bits, group};
    auto it = kl.find(bits);
    if (it != kl.end()) out.push_back({format, kept * KvRowBytes(format, g.heads, g.head_dim), std::max(0.0, it->second)});
  }
  const bool dense = std::find(options.candidate_bits.begin(), options.candidate_bits.end(), 16) != options.candidate_bits.end();
  if (dense || out.empty()) out.push_back({KvFormat{}, kept * KvRowBytes(KvFormat{}, g.heads, g.head_dim), 0.0});
  return out;
}

}  // namespace

int64_t KvDenseBytes(const KvLayerGeometry& g, const KvRecommendOptions& options, int64_t context) {
  if (g.heads == 0 || KvGroupFor(g.head_dim, options.group_size) == 0) return 0;
  const KvLayerPlan all{.keys = {8, 32}, .values = {8, 32}, .dense_first = options.dense_first, .dense_recent = options.dense_recent};
  return KvLayerBytes(g, all, context) - KvPositionsKept(g, context) * KvBytesPerToken(g, all);
}

int64_t KvBudget(const KvGeometry& geometry, const KvRecommendOptions& options, int64_t context) {
  double bytes = 0;
  for (const KvLayerGeometry& g : geometry) {
    if (g.heads == 0) continue;
    const int group = KvGroupFor(g.head_dim, options.group_size);
    const double bits = group == 0 ? 16 : std::min(16.0, options.target_bits + 32.0 / group);
    bytes += 2.0 * KvPositionsKept(g, context) * g.heads * g.head_dim * bits / 8;
  }
  return std::llround(bytes);
}

StatusOr<KvPlan> AllocateKv(const KvGeometry& geometry, const KvSensitivity& sensitivity, const KvRecommendOptions& options,
                            int64_t context, bool alike, double* predicted_kl) {
  struct Side {
    size_t layer;
    bool keys;
    std::vector<Choice> choices;
  };
  std::vector<Side> sides;
  for (size_t i = 0; i < geometry.size(); ++i) {
    if (geometry[i].heads == 0) continue;
    sides.push_back({i, true, ChoicesOf(geometry[i], sensitivity.layers[i].keys, options, context)});
    sides.push_back({i, false, ChoicesOf(geometry[i], sensitivity.layers[i].values, options, context)});
  }
  std::vector<MckpClass> classes;
  const size_t step = alike ? 2 : 1;
  for (size_t s = 0; s < sides.size(); s += step) {
    MckpClass options_of;
    for (size_t c = 0; c < sides[s].choices.size(); ++c) {
      MckpOption option;
      for (size_t j = s; j < s + step; ++j) {
        option.weight += static_cast<uint64_t>(sides[j].choices[c].bytes);
        option.cost += sides[j].choices[c].kl;
      }
      options_of.push_back(option);
    }
    classes.push_back(std::move(options_of));
  }
  int64_t budget = KvBudget(geometry, options, context);
  if (!alike) {
    for (const KvLayerGeometry& g : geometry) budget -= KvDenseBytes(g, options, context);
  }
  const auto solution = budget > 0 ? SolveMckp(classes, static_cast<uint64_t>(budget)) : std::nullopt;
  if (!solution) {
    return InvalidArgument("--target-bits {}: the lowest candidate widths need {} bytes at {} tokens, the target allows {} beside the {} "
                           "tokens that stay bf16; use a larger target, a longer context or fewer bf16 tokens",
                           options.target_bits, MckpMinWeight(classes), context, std::max<int64_t>(0, budget),
                           alike ? 0 : options.dense_first + options.dense_recent);
  }
  KvPlan plan;
  plan.layers.resize(geometry.size());
  for (size_t s = 0; s < sides.size(); ++s) {
    const Choice& choice = sides[s].choices[solution->choice[s / step]];
    KvLayerPlan& layer = plan.layers[sides[s].layer];
    (sides[s].keys ? layer.keys : layer.values) = choice.format;
    if (!alike && choice.format.quantized()) {
      layer.dense_first = options.dense_first;
      layer.dense_recent = options.dense_recent;
    }
  }
  *predicted_kl = solution->cost;
  return plan;
}

}  // namespace optiq
