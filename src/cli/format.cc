#include "cli/format.h"

#include <fmt/format.h>

#include <cmath>

namespace optiq {
namespace {

// Three significant digits: 1.23, 12.3, 123. Fewer when the rest are zeros ("135", not "135.00").
std::string ThreeDigits(double v) {
  std::string s = fmt::format("{:.{}f}", v, v < 9.995 ? 2 : v < 99.95 ? 1 : 0);
  if (s.find('.') != std::string::npos) {
    s.erase(s.find_last_not_of('0') + 1);
    if (s.back() == '.') s.pop_back();
  }
  return s;
}

std::string Scaled(double v, const char* const* units, int num_units) {
  int unit = 0;
  while (v >= 999.5 && unit + 1 < num_units) {
    v /= 1000;
    ++unit;
  }
  return (unit == 0 ? fmt::format("{:.0f}", v) : ThreeDigits(v)) + units[unit];
}

}  // namespace

std::string FormatBytes(double bytes) {
  static constexpr const char* kUnits[] = {" B", " KB", " MB", " GB", " TB", " PB"};
  return Scaled(bytes, kUnits, 6);
}

std::string FormatCount(double count) {
  static constexpr const char* kUnits[] = {"", "K", "M", "B", "T"};
  return Scaled(count, kUnits, 5);
}

std::string FormatInteger(int64_t value) {
  const std::string digits = fmt::format("{}", value);
  std::string out;
  for (size_t i = 0; i < digits.size(); ++i) {
    out += digits[i];
    const size_t after = digits.size() - 1 - i;
    if (after > 0 && after % 3 == 0 && digits[i] != '-') out += ',';
  }
  return out;
}

std::string FormatDuration(double seconds) {
  if (!(seconds >= 0) || seconds > 1e9) return "?";
  if (seconds < 9.95) return fmt::format("{:.1f} s", seconds);
  const int64_t s = std::llround(seconds);
  if (s < 60) return fmt::format("{} s", s);
  if (s < 3600) return fmt::format("{}:{:02}", s / 60, s % 60);
  return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
}

}  // namespace optiq
