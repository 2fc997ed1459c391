#include "quant/report_html.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "quant/allocation.h"
#include "quant/escape.h"
#include "quant/expert_stats.h"
#include "quant/report_assets.h"
#include "quant/report_charts.h"

namespace optiq {
namespace {

constexpr int kCurvePoints = 40;
constexpr int64_t kCurveWork = 200'000;  // per point: the curve need not be proven optimal
constexpr size_t kMostSensitive = 20;

const EvalRow* Shipped(const ConvertSummary& s) {
  for (const EvalRow& r : s.evaluation) {
    if (r.shipped) return &r;
  }
  return nullptr;
}

std::string BitsChip(int bits) {
  return fmt::format("<span class=\"chip ib{}\">{}</span>", bits, bits == 16 ? "16" : std::to_string(bits));
}

std::string Tile(std::string_view label, std::string_view value, std::string_view unit, std::string_view note,
                 bool main = false) {
  return fmt::format("<div class=\"tile{}\"><span>{}</span><b>{}{}{}{}</b><span>{}</span></div>\n", main ? " main" : "",
                     label, value, unit.empty() ? "" : " <small>", unit, unit.empty() ? "" : "</small>", note);
}

std::string Header(const ConvertSummary& s) {
  std::string facts;
  auto add = [&](std::string_view text) {
    if (text.empty()) return;
    facts += facts.empty() ? "" : " · ";
    facts += EscapeHtml(text);
  };
  add(s.architecture);
  if (s.total_params > 0) add(Grouped(s.total_params) + " parameters");
  add(s.dtype);
  add(s.date);
  return fmt::format("<header><div class=\"over\">optiq.cpp {}</div><h1>{}</h1><div class=\"sub\">{}</div></header>\n",
                     EscapeHtml(s.optiq_version), EscapeHtml(DisplayName(s)), facts);
}

std::string Tiles(const ConvertSummary& s) {
  std::string out = "<div class=\"tiles\">\n";
  out += Tile("Bits per weight", fmt::format("{:.2f}", s.achieved_bpw), "",
              s.target_bpw > 0 ? fmt::format("asked for {:.2f}; scales and biases count", s.target_bpw)
                               : std::string("scales and biases count"),
              /*main=*/true);
  std::string of_source;
  if (s.source_bytes > 0 && s.file_bytes > 0) {
    of_source = fmt::format("{:.0f} % of the source's {}",
                            100.0 * static_cast<double>(s.file_bytes) / static_cast<double>(s.source_bytes),
                            HumanBytes(s.source_bytes));
  }
  out += Tile("On disk", HumanBytes(s.file_bytes), "", of_source);
  if (const EvalRow* r = Shipped(s)) {
    out += Tile("KL to the original", Short(r->kl_mean), "nats",
                fmt::format("per token, held-out text (± {})", Short(r->kl_stderr)));
    out += Tile(
        "Perplexity", fmt::format("{:.2f}", r->perplexity), "",
        s.reference_perplexity > 0 ? fmt::format("the original: {:.2f}", s.reference_perplexity) : "held-out text");
    out += Tile("Same top token", fmt::format("{:.1f}", 100 * r->top1_agreement), "%",
                "of positions agree with the original");
  } else if (s.predicted_kl > 0) {
    out += Tile("Predicted KL", Short(s.predicted_kl), "nats", "sum of single weights; not evaluated");
  }
  if (s.lp_bound > 0) {
    out += Tile("The plan", s.optimal ? "optimal" : fmt::format("≤ {:.2g}", 100 * (s.predicted_kl / s.lp_bound - 1)),
                s.optimal ? "" : "%",
                s.optimal ? "no plan of this size has a lower predicted KL" : "above the least possible predicted KL");
  }
  return out + "</div>\n";
}

std::string Warnings(const ConvertSummary& s) {
  if (s.warnings.empty()) return "";
  std::string out = "<div class=\"warn\" role=\"note\"><ul>\n";
  for (const std::string& w : s.warnings) out += fmt::format("<li>{}</li>\n", EscapeHtml(w));
  return out + "</ul></div>\n";
}

std::string Evaluation(const ConvertSummary& s) {
  if (s.evaluation.empty()) return "";
  std::string out = fmt::format(
      "<section><h2>Measured on held-out text</h2>\n<p class=\"note\">KL(float ‖ quantized) in nats per token over the "
      "full "
      "vocabulary, on {} tokens that were not used for calibration{}{}. ± is one standard error.</p>\n<div "
      "class=\"scroll\"><table>"
      "<thead><tr><th>Model</th><th class=\"n\">Bits per weight</th><th class=\"n\">Weights</th><th class=\"n\">KL "
      "mean</th>"
      "<th class=\"n\">median</th><th class=\"n\">p99</th><th class=\"n\">Perplexity</th><th class=\"n\">Same top "
      "token</th></tr>"
      "</thead><tbody>\n",
      Grouped(static_cast<uint64_t>(std::max<int64_t>(0, s.heldout_tokens))), s.heldout_text.empty() ? "" : ": ",
      EscapeHtml(s.heldout_text));
  if (s.reference_perplexity > 0) {
    out += fmt::format(
        "<tr><td>float original</td><td class=\"n\"></td><td class=\"n\"></td><td class=\"n\">0</td>"
        "<td class=\"n\">0</td><td class=\"n\">0</td><td class=\"n\">{:.3f}</td><td class=\"n\">100 %</td></tr>\n",
        s.reference_perplexity);
  }
  for (const EvalRow& r : s.evaluation) {
    out += fmt::format(
        "<tr{}><td>{}</td><td class=\"n\">{:.2f}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>"
        "<td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{:.3f}</td><td class=\"n\">{:.1f} %</td></tr>\n",
        r.shipped ? " class=\"us\"" : "", EscapeHtml(r.name), r.bpw, HumanBytes(r.bytes),
        WithError(r.kl_mean, r.kl_stderr), Short(r.kl_median), Short(r.kl_p99), r.perplexity, 100 * r.top1_agreement);
  }
  return out + "</tbody></table></div></section>\n";
}

// Weights without a layer (embedding, head) below a heat map.
std::string Outside(const std::vector<SummaryItem>& items, HeatMapKind what, const SensitivityScale& scale) {
  std::string out;
  for (const SummaryItem& item : items) {
    if (item.block >= 0) continue;
    int step = scale.Step(item.sensitivity);
    std::string colour = what == HeatMapKind::kBits ? fmt::format("ib{}", item.bits)
                         : step < 0                 ? "isnone"
                                                    : fmt::format("is{}", step);
    std::string value = what == HeatMapKind::kBits ? (item.bits == 16 ? "dense" : fmt::format("{} bits", item.bits))
                        : item.sensitivity >= 0    ? Short(item.sensitivity)
                                                   : "not measured";
    out += fmt::format("<li><i class=\"{}\"></i><span class=\"path\">{}</span> {}</li>\n", colour,
                       EscapeHtml(item.path), value);
  }
  return out.empty() ? "" : "<ul class=\"outside\">" + out + "</ul>\n";
}

std::string SensitivityMap(const std::vector<SummaryItem>& items, const SensitivityScale& scale) {
  if (scale.high <= 0) return "";
  std::string ramp;
  for (int i = 0; i < 10; ++i) ramp += fmt::format("<i class=\"is{}\"></i>", i);
  return fmt::format(
      "<section><h2>Where the model is sensitive</h2>\n<p class=\"note\">KL to the original when only this weight is "
      "stored at 4 "
      "bits: layers from left to right, kinds of weight from top to bottom. The colour is logarithmic.</p>\n{}{}<p "
      "class=\"legend\"><span>{}<span class=\"ramp\" aria-hidden=\"true\">{}</span>{} nats per "
      "token</span></p></section>\n",
      HeatMap(items, HeatMapKind::kSensitivity, scale), Outside(items, HeatMapKind::kSensitivity, scale),
      Short(scale.low), ramp, Short(scale.high));
}

std::string BitsMap(const std::vector<SummaryItem>& items, const SensitivityScale& scale) {
  std::map<int, uint64_t> weights_of_bits;
  uint64_t total = 0;
  for (const SummaryItem& item : items) {
    uint64_t n = item.item != nullptr ? item.item->params() : 1;
    weights_of_bits[item.bits] += n;
    total += n;
  }
  if (total == 0) return "";
  bool by_weight = items.front().item != nullptr;
  std::string share, text;
  for (auto [bits, n] : weights_of_bits) {
    double percent = 100.0 * static_cast<double>(n) / static_cast<double>(total);
    share +=
        fmt::format("<div class=\"ib{0}\" style=\"flex:{1:.3f} 0 0\" data-tip=\"{2}: {1:.1f} % of the {3}\">{4}</div>",
                    bits, percent, bits == 16 ? "dense" : fmt::format("{} bits", bits),
                    by_weight ? "weights" : "matrices", percent >= 3 ? std::to_string(bits) : "");
    text += fmt::format("<span class=\"key\">{} {:.1f} %</span>", BitsChip(bits), percent);
  }
  return fmt::format(
      "<section><h2>Bits chosen</h2>\n<p class=\"note\">The width of every weight{}, and below the share of all {} at "
      "each "
      "width.</p>\n{}{}<div class=\"share\" aria-hidden=\"true\">{}</div><p class=\"legend\">{}</p></section>\n",
      weights_of_bits.contains(16) ? " (16: left as it was)" : "", by_weight ? "weights" : "matrices",
      HeatMap(items, HeatMapKind::kBits, scale), Outside(items, HeatMapKind::kBits, scale), share, text);
}

std::string MostSensitive(const std::vector<SummaryItem>& items, const SensitivityScale& scale) {
  std::vector<const SummaryItem*> order;
  double sum = 0, shown = 0;
  for (const SummaryItem& item : items) {
    if (!(item.sensitivity > 0)) continue;
    order.push_back(&item);
    sum += item.sensitivity;
  }
  if (order.empty()) return "";
  std::stable_sort(order.begin(), order.end(),
                   [](const SummaryItem* a, const SummaryItem* b) { return a->sensitivity > b->sensitivity; });
  if (order.size() > kMostSensitive) order.resize(kMostSensitive);
  std::string rows;
  for (const SummaryItem* item : order) {
    shown += item->sensitivity;
    std::string name = item->block >= 0 ? fmt::format("layer {} {}", item->block, item->kind) : item->kind;
    rows += fmt::format(
        "<li><span class=\"path\" title=\"{}\">{}</span><span class=\"track\"><span class=\"bar is{}\" "
        "style=\"display:block;width:{:.2f}%\"></span></span><span class=\"val\">{}</span>{}</li>\n",
        EscapeHtml(item->path), EscapeHtml(name), std::max(4, scale.Step(item->sensitivity)),
        100 * item->sensitivity / order.front()->sensitivity, Short(item->sensitivity), BitsChip(item->bits));
  }
  return fmt::format(
      "<section><h2>The most sensitive weights</h2>\n<p class=\"note\">KL when only this weight is at 4 bits, and the "
      "bits it got. "
      "These {} of {} make up {:.0f} % of the sum.</p>\n<ol class=\"bars\">{}</ol></section>\n",
      order.size(), items.size(), 100 * shown / sum, rows);
}

// One format for every weight, by the same additive model as the curve; a weight whose rows do not divide into the
// group keeps the nearest group it has.
std::optional<CurveMark> UniformMark(const SensitivityTable& table, int bits, int group) {
  CurveMark mark{CurveMark::Kind::kUniform, fmt::format("{}-bit", bits), 0, 0};
  uint64_t bytes = 0;
  for (const SensitivityItem& item : table.items) {
    const SensitivityOption* best = nullptr;
    for (const SensitivityOption& o : item.options) {
      if (o.format.bits != bits) continue;
      if (best == nullptr || std::abs(o.format.group_size - group) < std::abs(best->format.group_size - group))
        best = &o;
    }
    if (best == nullptr) return std::nullopt;
    bytes += best->bytes;
    mark.kl += best->kl;
  }
  mark.bpw = 8.0 * static_cast<double>(bytes) / static_cast<double>(std::max<uint64_t>(1, TotalParams(table)));
  return mark;
}

std::string Curve(const ConvertSummary& s) {
  if (s.table.items.empty()) return "";
  AllocationRequest request;
  request.max_work = kCurveWork;
  StatusOr<std::vector<ParetoPoint>> curve = ParetoCurve(s.table, kCurvePoints, request);
  if (!curve.ok()) return "";
  std::vector<CurveMark> marks;
  for (int bits : {2, 3, 4, 5, 6, 8}) {
    if (std::optional<CurveMark> m = UniformMark(s.table, bits, 64)) marks.push_back(*m);
  }
  for (const EvalRow& r : s.evaluation) {
    marks.push_back({CurveMark::Kind::kMeasured, "measured: " + r.name, r.bpw, r.kl_mean});
  }
  if (s.predicted_kl > 0) {
    marks.push_back({CurveMark::Kind::kShipped, "this model", s.achieved_bpw, s.predicted_kl});
  }
  std::string chart = ParetoChart(*curve, marks);
  if (chart.empty()) return "";
  std::string rows;
  for (const ParetoPoint& p : *curve) {
    rows += fmt::format("<tr><td class=\"n\">{:.3f}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>\n", p.bpw,
                        Grouped(p.bytes), Short(p.predicted_kl));
  }
  std::string legend =
      "<span class=\"key\"><svg viewBox=\"0 0 18 18\" aria-hidden=\"true\"><path class=\"line\" d=\"M1 "
      "9H17\"/></svg>best plan at each "
      "size</span><span class=\"key\"><svg viewBox=\"0 0 18 18\" aria-hidden=\"true\"><g class=\"uniform\"><rect "
      "x=\"4.5\" y=\"4.5\" "
      "width=\"9\" height=\"9\" rx=\"1.5\"/></g></svg>same bits for all weights</span>";
  if (!s.evaluation.empty()) {
    legend +=
        "<span class=\"key\"><svg viewBox=\"0 0 18 18\" aria-hidden=\"true\"><path class=\"measured\" d=\"M9 3l6 6l-6 "
        "6l-6 "
        "-6z\"/></svg>measured on held-out text</span>";
  }
  return fmt::format(
      "<section><h2>Size against quality</h2>\n<p class=\"note\">The predicted KL (sum over single weights) of the "
      "best plan at each "
      "size, from the same measurements. Errors of many weights interact, so measured values differ from the "
      "prediction most "
      "at few bits.</p>\n{}<p class=\"legend\">{}</p><details><summary>The points of the curve as a "
      "table</summary><div "
      "class=\"scroll\"><table><thead><tr><th class=\"n\">Bits per weight</th><th class=\"n\">Bytes</th><th "
      "class=\"n\">Predicted "
      "KL</th></tr></thead><tbody>\n{}</tbody></table></div></details></section>\n",
      chart, legend, rows);
}

std::string HowMade(const ConvertSummary& s) {
  std::string facts;
  auto add = [&](std::string_view name, const std::string& value) {
    if (!value.empty()) facts += fmt::format("<dt>{}</dt><dd>{}</dd>\n", name, EscapeHtml(value));
  };
  add("Base model", s.base_model);
  add("Licence of the base model", s.licence);
  add("Plan", s.plan.origin);
  if (!s.table.items.empty()) {
    add("Calibration",
        fmt::format("{} sequences of {} tokens", s.table.calibration_sequences, s.table.calibration_length));
    std::string domains;
    for (const auto& [name, tokens] : s.calibration_domains) {
      domains += fmt::format("{}{} ({} tokens)", domains.empty() ? "" : ", ", name, tokens);
    }
    add("Domains", domains);
    add("Calibration sha256", s.table.calibration_sha256);
    add("Model fingerprint", s.table.fingerprint);
  }
  if (s.quantized_params > 0) {
    add("Quantized weights", fmt::format("{} of {} parameters, {}", Grouped(s.quantized_params),
                                         Grouped(s.total_params), HumanBytes(s.quantized_bytes)));
  }
  std::string stages;
  for (const StageTime& t : s.stages) {
    stages += fmt::format("{}{} {}", stages.empty() ? "" : ", ", t.name, HumanSeconds(t.seconds));
  }
  add("Time", stages);
  std::string command =
      s.command_line.empty() ? "" : fmt::format("<pre><code>{}</code></pre>", EscapeHtml(s.command_line));
  return fmt::format("<section><h2>How it was made</h2>\n{}<dl>{}</dl></section>\n", command, facts);
}

std::string AllWeights(const std::vector<SummaryItem>& items) {
  std::string rows;
  for (const SummaryItem& item : items) {
    std::string shape;
    if (item.item != nullptr) {
      for (int64_t d : item.item->shape) shape += fmt::format("{}{}", shape.empty() ? "" : " × ", d);
    }
    rows += fmt::format(
        "<tr><td class=\"path\">{}</td><td class=\"n\" data-v=\"{}\">{}</td><td class=\"n\" data-v=\"{}\">{}</td><td "
        "class=\"n\" "
        "data-v=\"{}\">{}</td><td>{}</td><td class=\"n\" data-v=\"{}\">{}</td><td class=\"n\" "
        "data-v=\"{:.9g}\">{}</td><td "
        "class=\"n\" data-v=\"{:.9g}\">{}</td></tr>\n",
        EscapeHtml(item.path), item.item != nullptr ? item.item->params() : 0, shape, item.bits, BitsChip(item.bits),
        item.group_size, item.group_size > 0 ? std::to_string(item.group_size) : "", EscapeHtml(item.encoder),
        item.bytes, item.bytes > 0 ? Grouped(item.bytes) : "", item.sensitivity,
        item.sensitivity >= 0 ? Short(item.sensitivity) : "", item.measured ? item.kl : -1.0,
        item.measured ? Short(item.kl) : "");
  }
  return fmt::format(
      "<section><h2>All {} weights</h2>\n<input id=\"filter\" type=\"search\" placeholder=\"Filter by name\" "
      "aria-label=\"Filter "
      "by name\" hidden><div class=\"tall\" tabindex=\"0\"><table id=\"weights\"><thead><tr><th>Weight</th><th "
      "class=\"n\">Shape</th><th "
      "class=\"n\">Bits</th><th class=\"n\">Group</th><th>Encoder</th><th class=\"n\">Bytes</th><th class=\"n\">KL at "
      "4 bits</th><th "
      "class=\"n\">KL as chosen</th></tr></thead><tbody>\n{}</tbody></table></div></section>\n",
      items.size(), rows);
}

}  // namespace

std::string ReportHtml(const ConvertSummary& summary) {
  const std::vector<SummaryItem> items = SummaryItems(summary);
  const SensitivityScale scale = MakeSensitivityScale(items);
  std::string out = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
      "script-src "
      "'unsafe-inline'\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{}: {:.2f} "
      "bits per "
      "weight</title>\n<style>{}</style>\n</head>\n<body>\n<main>\n",
      EscapeHtml(DisplayName(summary)), summary.achieved_bpw, kReportCss);
  out += Header(summary) + Tiles(summary) + Warnings(summary) + Evaluation(summary) + SensitivityMap(items, scale) +
         BitsMap(items, scale) + MostSensitive(items, scale) + ExpertsHtml(summary.table) + Curve(summary) + HowMade(summary) + AllWeights(items);
  out += fmt::format(
      "<footer>Written by optiq.cpp {}. This page asks nothing of any server.</footer>\n</main>\n<script>{}</script>\n"
      "</body>\n</html>\n",
      EscapeHtml(summary.optiq_version), kReportScript);
  return out;
}

}  // namespace optiq
