#include "quant/summary.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

namespace optiq {
namespace {

std::vector<std::string_view> Segments(std::string_view path) {
  std::vector<std::string_view> out;
  while (true) {
    size_t dot = path.find('.');
    out.push_back(path.substr(0, dot));
    if (dot == std::string_view::npos) return out;
    path.remove_prefix(dot + 1);
  }
}

// The index in `segments` of the layer number, or -1.
int NumberSegment(const std::vector<std::string_view>& segments) {
  for (size_t i = 1; i < segments.size(); ++i) {
    std::string_view before = segments[i - 1], s = segments[i];
    if (before != "layers" && before != "h" && before != "blocks") continue;
    if (!s.empty() && s.size() <= 6 && std::all_of(s.begin(), s.end(), [](char c) { return c >= '0' && c <= '9'; })) {
      return static_cast<int>(i);
    }
  }
  return -1;
}

const SensitivityOption* FindOption(const SensitivityItem& item, const PlanEntry& entry) {
  for (const SensitivityOption& o : item.options) {
    if (o.format == entry.format && o.encoder == entry.encoder) return &o;
  }
  return nullptr;
}

double SensitivityAt4Bits(const SensitivityItem& item) {
  const SensitivityOption* best = nullptr;
  auto distance = [](const SensitivityOption& o) {
    return std::abs(o.format.bits - 4) * 1000 + std::abs(o.format.group_size - 64);
  };
  for (const SensitivityOption& o : item.options) {
    if (best == nullptr || distance(o) < distance(*best)) best = &o;
  }
  return best == nullptr ? -1 : std::max(0.0, best->kl) * std::pow(4.0, best->format.bits - 4);
}

SummaryItem MakeItem(std::string path, const PlanEntry& entry, const SensitivityItem* item) {
  SummaryItem out;
  out.block = BlockOf(path);
  out.kind = KindOf(path);
  out.path = std::move(path);
  out.item = item;
  out.bits = entry.dense ? 16 : entry.format.bits;
  if (!entry.dense) {
    out.group_size = entry.format.group_size;
    out.encoder = entry.encoder;
  }
  if (item == nullptr) return out;
  out.sensitivity = SensitivityAt4Bits(*item);
  if (entry.dense) {
    out.measured = true;
    out.bytes = item->dense_bytes;
  } else if (const SensitivityOption* chosen = FindOption(*item, entry)) {
    out.measured = true;
    out.kl = chosen->kl;
    out.bytes = chosen->bytes;
  } else {
    out.bytes = AffineBytes(item->shape, entry.format);
  }
  return out;
}

}  // namespace

int BlockOf(std::string_view path) {
  std::vector<std::string_view> segments = Segments(path);
  int at = NumberSegment(segments);
  return at < 0 ? -1 : std::atoi(std::string(segments[at]).c_str());
}

std::string KindOf(std::string_view path) {
  std::vector<std::string_view> segments = Segments(path);
  int at = NumberSegment(segments);
  std::string last(segments.back());
  if (at < 0) return last;
  std::string prefix;
  for (size_t i = at + 1; i + 1 < segments.size(); ++i) {
    std::string_view s = segments[i];
    if (s.find("switch") != std::string_view::npos || s == "experts") prefix = "experts ";
    if (s.find("shared") != std::string_view::npos) prefix = "shared ";
    if (s.find("router") != std::string_view::npos) return "router";
    if (s == "linear_attn" || s == "cross_attn" || s == "conv" || s == "mixer") prefix = std::string(s) + " ";
  }
  if (last == "gate" || last == "router") return "router";
  if (last.size() > 5 && last.ends_with("_proj")) last.resize(last.size() - 5);
  return prefix + last;
}

std::vector<SummaryItem> SummaryItems(const ConvertSummary& summary) {
  std::vector<SummaryItem> out;
  for (const SensitivityItem& item : summary.table.items) {
    auto entry = summary.plan.entries.find(item.path);
    PlanEntry by_default{.format = summary.plan.default_format};
    out.push_back(MakeItem(item.path, entry == summary.plan.entries.end() ? by_default : entry->second, &item));
  }
  if (!summary.table.items.empty()) return out;
  for (const auto& [path, entry] : summary.plan.entries) out.push_back(MakeItem(path, entry, nullptr));
  std::stable_sort(out.begin(), out.end(),
                   [](const SummaryItem& a, const SummaryItem& b) { return a.block < b.block; });
  return out;
}

bool IsLocal(const ConvertSummary& summary) {
  std::string_view name = summary.base_model;
  return summary.base_model_is_local || name.starts_with("/") || name.starts_with(".") || name.starts_with("~") ||
         name.ends_with("/") || name.ends_with(".gguf") || std::count(name.begin(), name.end(), '/') > 1;
}

std::string DisplayName(const ConvertSummary& summary) {
  std::string_view name = summary.base_model;
  const bool local = IsLocal(summary);
  while (!name.empty() && name.back() == '/') name.remove_suffix(1);
  if (local && name.find('/') != std::string_view::npos) name = name.substr(name.rfind('/') + 1);
  return name.empty() ? "model" : std::string(name);
}

std::string HumanBytes(uint64_t bytes) {
  if (bytes < 1000) return fmt::format("{} B", bytes);
  double v = static_cast<double>(bytes);
  const char* const units[] = {"kB", "MB", "GB", "TB", "PB", "EB"};
  int u = -1;
  do {
    v /= 1000;
    ++u;
  } while (v >= 999.5 && u < 5);
  return fmt::format("{:.{}f} {}", v, v < 9.995 ? 2 : v < 99.95 ? 1 : 0, units[u]);
}

std::string Short(double v) {
  if (!std::isfinite(v)) return "?";
  if (v == 0) return "0";
  double a = std::fabs(v);
  if (a < 1e-4 || a >= 1e6) return fmt::format("{:.2e}", v);
  int digits = std::clamp(2 - static_cast<int>(std::floor(std::log10(a))), 0, 6);
  return fmt::format("{:.{}f}", v, digits);
}

std::string WithError(double mean, double standard_error) {
  if (!std::isfinite(mean) || !(standard_error > 0) || !std::isfinite(standard_error)) return Short(mean);
  int decimals = 1 - static_cast<int>(std::floor(std::log10(standard_error)));
  if (decimals > 8) return fmt::format("{} ± {}", Short(mean), Short(standard_error));
  decimals = std::max(0, decimals);
  return fmt::format("{:.{}f} ± {:.{}f}", mean, decimals, standard_error, decimals);
}

std::string Grouped(uint64_t n) {
  std::string digits = std::to_string(n), out;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) out += ',';
    out += digits[i];
  }
  return out;
}

std::string HumanSeconds(double seconds) {
  if (!(seconds >= 0)) return "?";
  if (seconds < 99.95) return fmt::format("{:.1f} s", seconds);
  auto whole = static_cast<int64_t>(std::min(seconds + 0.5, 1e15));
  if (whole < 3600) return fmt::format("{} min {} s", whole / 60, whole % 60);
  return fmt::format("{} h {} min", whole / 3600, whole / 60 % 60);
}

}  // namespace optiq
