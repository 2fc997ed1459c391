#include "quant/metadata.h"

#include <algorithm>
#include <cctype>
#include <cmath>

#include "quant/escape.h"

namespace optiq {
namespace {

// JSON has no NaN: a number that could not be computed is null.
Json Number(double v) { return std::isfinite(v) ? Json(v) : Json(nullptr); }

Json EvalRowToJson(const EvalRow& row) {
  return {{"name", ValidUtf8(row.name)},
          {"bpw", Number(row.bpw)},
          {"bytes", row.bytes},
          {"kl_mean", Number(row.kl_mean)},
          {"kl_stderr", Number(row.kl_stderr)},
          {"kl_median", Number(row.kl_median)},
          {"kl_p99", Number(row.kl_p99)},
          {"perplexity", Number(row.perplexity)},
          {"top1_agreement", Number(row.top1_agreement)},
          {"shipped", row.shipped}};
}

// mlx-optiq names the reference by its dtype.
std::string Reference(const ConvertSummary& s) {
  if (s.table.reference != "float" || s.dtype.empty()) return ValidUtf8(s.table.reference);
  std::string out = ValidUtf8(s.dtype);
  for (char& c : out) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

Json OurFields(const ConvertSummary& s, const std::vector<SummaryItem>& items) {
  Json layers = Json::object();
  for (const SummaryItem& item : items) {
    Json layer = Json::object();
    if (!item.encoder.empty()) layer["encoder"] = item.encoder;
    if (item.bytes > 0) layer["bytes"] = item.bytes;
    if (item.measured) layer["kl"] = Number(item.kl);
    if (item.sensitivity >= 0) layer["kl_at_4_bits"] = Number(item.sensitivity);
    layers[ValidUtf8(item.path)] = std::move(layer);
  }
  Json domains = Json::object();
  for (const auto& [name, tokens] : s.calibration_domains) domains[ValidUtf8(name)] = tokens;
  Json evaluation = Json::array();
  for (const EvalRow& row : s.evaluation) evaluation.push_back(EvalRowToJson(row));
  Json stages = Json::array();
  for (const StageTime& t : s.stages) stages.push_back({{"name", ValidUtf8(t.name)}, {"seconds", Number(t.seconds)}});
  Json warnings = Json::array();
  for (const std::string& w : s.warnings) warnings.push_back(ValidUtf8(w));
  return {{"version", ValidUtf8(s.optiq_version)},
          {"date", ValidUtf8(s.date)},
          {"command", ValidUtf8(s.command_line)},
          {"architecture", ValidUtf8(s.architecture)},
          {"dtype", ValidUtf8(s.dtype)},
          {"base_model_licence", s.licence.empty() ? Json(nullptr) : Json(ValidUtf8(s.licence))},
          {"base_model_fingerprint", ValidUtf8(s.table.fingerprint)},
          {"plan",
           {{"origin", ValidUtf8(s.plan.origin)},
            {"default", {{"bits", s.plan.default_format.bits}, {"group_size", s.plan.default_format.group_size}}}}},
          {"predicted_kl", Number(s.predicted_kl)},
          {"predicted_kl_lower_bound", Number(s.lp_bound)},
          {"gap", s.lp_bound > 0 ? Number(s.predicted_kl / s.lp_bound - 1) : Json(nullptr)},
          {"optimal", s.optimal},
          {"params", {{"total", s.total_params}, {"quantized", s.quantized_params}}},
          {"bytes", {{"files", s.file_bytes}, {"quantized", s.quantized_bytes}, {"source", s.source_bytes}}},
          {"calibration",
           {{"sha256", ValidUtf8(s.table.calibration_sha256)},
            {"sequences", s.table.calibration_sequences},
            {"length", s.table.calibration_length},
            {"tokens", s.calibration_tokens},
            {"domains", std::move(domains)}}},
          {"heldout",
           {{"text", ValidUtf8(s.heldout_text)},
            {"tokens", s.heldout_tokens},
            {"reference_perplexity", s.reference_perplexity > 0 ? Number(s.reference_perplexity) : Json(nullptr)}}},
          {"evaluation", std::move(evaluation)},
          {"stages", std::move(stages)},
          {"warnings", std::move(warnings)},
          {"layers", std::move(layers)}};
}

}  // namespace

Json OptiqMetadata(const ConvertSummary& summary) {
  const std::vector<SummaryItem> items = SummaryItems(summary);
  int lowest = 16;
  for (const SummaryItem& item : items) lowest = std::min(lowest, item.bits);
  int64_t low = 0;
  Json per_layer = Json::object();
  for (const SummaryItem& item : items) {
    low += item.bits == lowest;
    int group = item.group_size > 0 ? item.group_size : summary.plan.default_format.group_size;
    per_layer[ValidUtf8(item.path)] = {{"bits", item.bits}, {"group_size", group}};
  }
  return {{"method", "optiq_mixed_precision"},
          {"base_model", ValidUtf8(summary.base_model)},
          {"reference", Reference(summary)},
          {"target_bpw", Number(summary.target_bpw)},
          {"achieved_bpw", Number(summary.achieved_bpw)},
          {"n_high_bits", static_cast<int64_t>(items.size()) - low},
          {"n_low_bits", low},
          {"threshold", 0.0},
          {"per_layer", std::move(per_layer)},
          {"optiq_cpp", OurFields(summary, items)}};
}

}  // namespace optiq
