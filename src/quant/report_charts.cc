#include "quant/report_charts.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "quant/escape.h"

namespace optiq {
namespace {

constexpr int kSteps = 10;

std::string ItemTip(const SummaryItem& item) {
  std::string tip = item.path;
  tip += item.bits == 16 ? "\ndense" : fmt::format("\n{} bits, group {}, {}", item.bits, item.group_size, item.encoder);
  if (item.sensitivity >= 0) tip += fmt::format("\nKL at 4 bits: {}", Short(item.sensitivity));
  if (item.measured) tip += fmt::format("\nKL as chosen: {}", Short(item.kl));
  return EscapeHtml(tip);
}

// A linear scale from data to pixels.
struct Axis {
  double low, high, from, to;
  double operator()(double v) const { return from + (v - low) / (high - low) * (to - from); }
};

}  // namespace

int SensitivityScale::Step(double kl) const {
  if (!(kl > 0) || !(low > 0)) return -1;
  if (!(high > low)) return kSteps / 2;
  double share = std::log(kl / low) / std::log(high / low);
  return std::clamp(static_cast<int>(share * kSteps), 0, kSteps - 1);
}

SensitivityScale MakeSensitivityScale(const std::vector<SummaryItem>& items) {
  SensitivityScale scale;
  for (const SummaryItem& item : items) {
    if (!(item.sensitivity > 0)) continue;
    scale.low = scale.low == 0 ? item.sensitivity : std::min(scale.low, item.sensitivity);
    scale.high = std::max(scale.high, item.sensitivity);
  }
  return scale;
}

std::string HeatMap(const std::vector<SummaryItem>& items, HeatMapKind what, const SensitivityScale& scale) {
  std::vector<std::string> kinds;  // in order of first appearance
  std::map<std::string, int> row_of;
  std::set<int> layers;
  for (const SummaryItem& item : items) {
    if (item.block < 0) continue;
    layers.insert(item.block);
    if (row_of.emplace(item.kind, static_cast<int>(kinds.size())).second) kinds.push_back(item.kind);
  }
  if (layers.empty()) return "";
  std::map<int, int> column_of;
  for (int layer : layers) column_of.emplace(layer, static_cast<int>(column_of.size()));

  const int columns = static_cast<int>(layers.size()), rows = static_cast<int>(kinds.size());
  size_t longest = 0;
  for (const std::string& k : kinds) longest = std::max(longest, k.size());
  const double left = std::min(150.0, 14 + 7.2 * static_cast<double>(longest)), top = 4;
  const double cell = std::clamp((1000 - left) / columns, 13.0, 34.0), height = 25, gap = 2;
  const double width = left + columns * cell, bottom = top + rows * height;

  const bool bits = what == HeatMapKind::kBits;
  const char* id = bits ? "map-bits" : "map-kl";
  std::string out = fmt::format(
      "<div class=\"scroll\"><svg class=\"map\" viewBox=\"0 0 {:.0f} {:.0f}\" "
      "style=\"min-width:{:.0f}px;max-width:{:.0f}px\" "
      "role=\"img\" aria-labelledby=\"{}-t {}-d\"><title id=\"{}-t\">{}</title><desc id=\"{}-d\">{} layers by {} kinds "
      "of weight; "
      "the numbers are in the table of all weights.</desc>\n",
      width, bottom + 22, width * 0.82, width * 1.25, id, id, id,
      bits ? "Bits chosen for each weight" : "Sensitivity of each weight", id, columns, rows);
  for (int r = 0; r < rows; ++r) {
    out += fmt::format("<text class=\"lab\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>\n", left - 8,
                       top + r * height + height / 2 + 3, EscapeHtml(kinds[r].substr(0, 20)));
  }
  const int every = columns > 60 ? 10 : columns > 16 ? 5 : 1;
  for (auto [layer, column] : column_of) {
    bool last = column == columns - 1 && 2 * (layer % every) > every;  // unless it would touch the one before
    if (layer % every != 0 && !last) continue;
    out += fmt::format("<text class=\"tick\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>\n",
                       left + column * cell + (cell - gap) / 2, bottom + 14, layer);
  }
  for (const SummaryItem& item : items) {
    if (item.block < 0) continue;
    double x = left + column_of[item.block] * cell, y = top + row_of[item.kind] * height;
    int step = scale.Step(item.sensitivity);
    std::string style = bits ? fmt::format("b{}", item.bits) : step < 0 ? "none" : fmt::format("s{}", step);
    out += fmt::format(
        "<g class=\"{}\" data-tip=\"{}\"><rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" rx=\"3\"/>",
        style, ItemTip(item), x, y, cell - gap, height - gap);
    if (bits) {
      out += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>", x + (cell - gap) / 2,
                         y + height / 2 + 3, item.bits);
    }
    out += "</g>\n";
  }
  return out + "</svg></div>\n";
}

std::string ParetoChart(const std::vector<ParetoPoint>& curve, const std::vector<CurveMark>& marks) {
  std::vector<ParetoPoint> points;
  for (const ParetoPoint& p : curve) {
    if (p.predicted_kl > 0 && std::isfinite(p.predicted_kl)) points.push_back(p);
  }
  if (points.size() < 2) return "";
  double x_low = points.front().bpw, x_high = points.back().bpw, y_low = points.back().predicted_kl,
         y_high = points.front().predicted_kl;
  auto drawable = [](const CurveMark& m) {
    return m.kl > 0 && std::isfinite(m.kl) && std::isfinite(m.bpw) && m.bpw > 0;
  };
  for (const CurveMark& m : marks) {
    if (!drawable(m)) continue;
    x_low = std::min(x_low, m.bpw), x_high = std::max(x_high, m.bpw);
    y_low = std::min(y_low, m.kl), y_high = std::max(y_high, m.kl);
  }
  const double width = 1000, height = 420;
  const Axis x{std::floor(x_low * 4) / 4, std::ceil(x_high * 4) / 4, 64, width - 24};
  const Axis y{std::log10(y_low) - 0.15, std::log10(y_high) + 0.15, height - 48, 14};
  std::string out = fmt::format(
      "<div class=\"scroll\"><svg class=\"curve\" viewBox=\"0 0 {:.0f} {:.0f}\" role=\"img\" aria-labelledby=\"curve-t "
      "curve-d\">"
      "<title id=\"curve-t\">Predicted KL over bits per weight</title><desc id=\"curve-d\">The best plan at {} sizes "
      "from {:.2f} to "
      "{:.2f} bits per weight: predicted KL falls from {} to {}. The table below the chart lists the points.</desc>\n",
      width, height, points.size(), points.front().bpw, points.back().bpw, Short(points.front().predicted_kl),
      Short(points.back().predicted_kl));
  // Log grid: a line at each power of ten, lighter ones at 2 and 5.
  for (int e = static_cast<int>(std::floor(y.low)); e <= static_cast<int>(std::ceil(y.high)); ++e) {
    for (int m : {1, 2, 5}) {
      double v = e + std::log10(m);
      if (v < y.low || v > y.high) continue;
      bool minor = m != 1 && y.high - y.low > 2.5;
      out += fmt::format("<line class=\"grid{}\" x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>\n",
                         minor ? " minor" : "", x.from, x.to, y(v), y(v));
      if (minor) continue;
      out += fmt::format(
          "<text class=\"tick\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>\n", x.from - 8, y(v) + 4,
          e < -4 ? fmt::format("{}e{}", m, e) : fmt::format("{:.{}f}", m * std::pow(10.0, e), std::max(0, -e)));
    }
  }
  const double step = x.high - x.low > 3 ? 1 : 0.5;
  for (double v = std::ceil(x.low / step) * step; v <= x.high + 1e-9; v += step) {
    out += fmt::format(
        "<line class=\"grid minor\" x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1:.1f}\" y2=\"{2:.1f}\"/>"
        "<text class=\"tick\" x=\"{0:.1f}\" y=\"{3:.1f}\" text-anchor=\"middle\">{4:g}</text>\n",
        x(v), y.from, y.to, y.from + 18, v);
  }
  out += fmt::format("<text class=\"lab\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"middle\">bits per weight</text>\n",
                     (x.from + x.to) / 2, height - 6);
  out += fmt::format(
      "<text class=\"lab\" x=\"14\" y=\"{0:.1f}\" text-anchor=\"middle\" transform=\"rotate(-90 14 {0:.1f})\">KL, nats "
      "per token</text>\n",
      (y.from + y.to) / 2);
  std::string line;
  for (const ParetoPoint& p : points) {
    line += fmt::format("{}{:.1f} {:.1f}", line.empty() ? "M" : "L", x(p.bpw), y(std::log10(p.predicted_kl)));
  }
  out += fmt::format("<path class=\"area\" d=\"{}L{:.1f} {:.1f}L{:.1f} {:.1f}Z\"/><path class=\"line\" d=\"{}\"/>\n",
                     line, x(points.back().bpw), y.from, x(points.front().bpw), y.from, line);
  for (const ParetoPoint& p : points) {
    out += fmt::format(
        "<circle class=\"dot\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"2.2\" data-tip=\"best plan at {:.2f} bits per weight\n"
        "{}\npredicted KL {}\"/>\n",
        x(p.bpw), y(std::log10(p.predicted_kl)), p.bpw, HumanBytes(p.bytes), Short(p.predicted_kl));
  }
  for (const CurveMark& m : marks) {
    if (!drawable(m)) continue;
    double px = x(m.bpw), py = y(std::log10(m.kl));
    bool at_right_edge = px > x.to - 50;
    std::string tip = EscapeHtml(fmt::format("{}\n{:.2f} bits per weight\nKL {}", m.label, m.bpw, Short(m.kl)));
    switch (m.kind) {
      case CurveMark::Kind::kShipped:
        // The curve falls to the right: below it there is room, unless the point is at the left edge.
        out += fmt::format(
            "<g class=\"shipped\" data-tip=\"{0}\"><circle class=\"halo\" cx=\"{1:.1f}\" cy=\"{2:.1f}\" r=\"11\"/>"
            "<circle cx=\"{1:.1f}\" cy=\"{2:.1f}\" r=\"6\"/><text x=\"{3:.1f}\" y=\"{4:.1f}\" text-anchor=\"end\">{5}"
            "</text></g>\n",
            tip, px, py, std::max(px - 13, x.from + 84), py + 20, EscapeHtml(m.label));
        break;
      case CurveMark::Kind::kUniform:
        out += fmt::format(
            "<g class=\"uniform\" data-tip=\"{0}\"><rect x=\"{1:.1f}\" y=\"{2:.1f}\" width=\"9\" height=\"9\" "
            "rx=\"1.5\"/>"
            "<text x=\"{3:.1f}\" y=\"{4:.1f}\" text-anchor=\"{6}\">{5}</text></g>\n",
            tip, px - 4.5, py - 4.5, at_right_edge ? px - 10 : px + 10, at_right_edge ? py + 14 : py - 4,
            EscapeHtml(m.label), at_right_edge ? "end" : "start");
        break;
      case CurveMark::Kind::kMeasured:
        out += fmt::format("<path class=\"measured\" data-tip=\"{0}\" d=\"M{1:.1f} {2:.1f}l6 6l-6 6l-6 -6z\"/>\n", tip,
                           px, py - 6);
        break;
    }
  }
  return out + "</svg></div>\n";
}

}  // namespace optiq
