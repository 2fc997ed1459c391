#include "quant/expert_stats.h"

#include <algorithm>

#include "quant/escape.h"

namespace optiq {

std::vector<ExpertStats> ExpertStatsOf(const SensitivityTable& table) {
  std::vector<ExpertStats> out;
  for (const SensitivityItem& item : table.items) {
    if (item.expert_tokens.empty()) continue;
    ExpertStats s;
    s.path = item.path;
    s.experts = static_cast<int64_t>(item.expert_tokens.size());
    for (int64_t e = 0; e < s.experts; ++e) {
      const int64_t tokens = item.expert_tokens[e];
      if (tokens == 0) {
        s.unreached.push_back(e);
        continue;
      }
      s.most_tokens = std::max(s.most_tokens, tokens);
      s.least_tokens = s.least_tokens == 0 ? tokens : std::min(s.least_tokens, tokens);
    }
    for (size_t e = 0; e < item.expert_error_shares.size(); ++e) {
      if (item.expert_error_shares[e] <= s.largest_share) continue;
      s.largest_share = item.expert_error_shares[e];
      s.largest_share_expert = static_cast<int64_t>(e);
    }
    out.push_back(std::move(s));
  }
  return out;
}

std::string UnreachedExpertsWarning(const SensitivityTable& table) {
  // The projections of a layer are routed alike: one of them stands for its layer.
  int64_t unreached = 0, all = 0, layers = 0;
  std::string first;
  int last_block = -2;
  for (const SensitivityItem& item : table.items) {
    if (item.expert_tokens.empty() || item.block == last_block) continue;
    last_block = item.block;
    all += static_cast<int64_t>(item.expert_tokens.size());
    std::vector<int64_t> here;
    for (size_t e = 0; e < item.expert_tokens.size(); ++e) {
      if (item.expert_tokens[e] == 0) here.push_back(static_cast<int64_t>(e));
    }
    if (here.empty()) continue;
    unreached += static_cast<int64_t>(here.size());
    ++layers;
    if (first.empty()) {
      const bool more = here.size() > 8;
      if (more) here.resize(8);
      first = fmt::format("layer {}: {}{}", item.block, fmt::join(here, ", "), more ? ", ..." : "");
    }
  }
  if (unreached == 0) return "";
  return fmt::format(
      "the calibration text reached no token at {} of {} experts, in {} layers ({}); their errors count as the average of the "
      "reached ones, and their KL was not measured: more --calibration-sequences reach more",
      unreached, all, layers, first);
}

std::string ExpertsHtml(const SensitivityTable& table) {
  const std::vector<ExpertStats> all = ExpertStatsOf(table);
  if (all.empty()) return "";
  std::string rows;
  for (const ExpertStats& s : all) {
    rows += fmt::format("<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}–{}</td>", EscapeHtml(s.path),
                        s.experts, s.unreached.size(), s.least_tokens, s.most_tokens);
    rows += s.largest_share_expert < 0 ? "<td class=\"n\">–</td></tr>\n"
                                       : fmt::format("<td class=\"n\">{:.1f} % (expert {})</td></tr>\n", 100 * s.largest_share,
                                                     s.largest_share_expert);
  }
  return fmt::format(
      "<section><h2>Experts</h2>\n<p class=\"note\">Every stacked projection has one width for all its experts. Tokens of the "
      "calibration text that the reached experts got, and the expert with the largest share of the projection's error. An expert "
      "that no token reached was not measured; it counts as the average of the others.</p>\n<div class=\"scroll\"><table><thead><tr>"
      "<th>Projection</th><th class=\"n\">Experts</th><th class=\"n\">Not reached</th><th class=\"n\">Tokens per expert</th>"
      "<th class=\"n\">Largest share of the error</th></tr></thead><tbody>\n{}</tbody></table></div></section>\n",
      rows);
}

}  // namespace optiq
