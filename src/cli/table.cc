#include "cli/table.h"

#include <algorithm>
#include <cstdint>

namespace optiq {
namespace {

struct Range {
  uint32_t first, last;
};
// The blocks that matter for names and labels, after Unicode's East Asian Width and general category Mn.
constexpr Range kZero[] = {{0x0300, 0x036F}, {0x200B, 0x200F}, {0x20D0, 0x20FF}, {0xFE00, 0xFE0F}};
constexpr Range kWide[] = {{0x1100, 0x115F},   {0x2E80, 0x303E},   {0x3041, 0xA4CF},  {0xAC00, 0xD7A3},
                           {0xF900, 0xFAFF},   {0xFE30, 0xFE6F},   {0xFF00, 0xFF60},  {0xFFE0, 0xFFE6},
                           {0x1F300, 0x1F64F}, {0x1F900, 0x1F9FF}, {0x20000, 0x3FFFD}};

template <size_t N>
bool In(const Range (&ranges)[N], uint32_t c) {
  return std::any_of(std::begin(ranges), std::end(ranges), [&](Range r) { return c >= r.first && c <= r.last; });
}

}  // namespace

int DisplayWidth(std::string_view utf8) {
  int width = 0;
  for (size_t i = 0; i < utf8.size();) {
    const unsigned char first = utf8[i];
    const int length = first < 0x80 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
    uint32_t c = length == 1 ? first : first & (0x7Fu >> length);
    for (int k = 1; k < length && i + k < utf8.size(); ++k)
      c = c << 6 | (static_cast<unsigned char>(utf8[i + k]) & 0x3Fu);
    width += In(kZero, c) ? 0 : In(kWide, c) ? 2 : 1;
    i += length;
  }
  return width;
}

void Table::AddRow(std::vector<std::string> cells) {
  cells.resize(columns_.size());
  rows_.push_back(std::move(cells));
}

std::string Table::Render() const {
  std::vector<int> widths;
  for (size_t c = 0; c < columns_.size(); ++c) {
    int width = DisplayWidth(columns_[c].header);
    for (const auto& row : rows_) {
      if (!row.empty()) width = std::max(width, DisplayWidth(row[c]));
    }
    widths.push_back(width);
  }
  std::string out;
  const auto end_line = [&] {
    out.erase(out.find_last_not_of(' ') + 1);
    out += '\n';
  };
  const auto line = [&](auto&& cell_of) {
    for (size_t c = 0; c < columns_.size(); ++c) {
      const std::string& cell = cell_of(c);
      const std::string padding(widths[c] - DisplayWidth(cell), ' ');
      if (c > 0) out += "  ";
      out += columns_[c].align == Align::kRight ? padding + cell : cell + padding;
    }
    end_line();
  };
  const auto rule = [&] {
    for (size_t c = 0; c < columns_.size(); ++c) out += (c > 0 ? "  " : "") + std::string(widths[c], '-');
    end_line();
  };
  line([&](size_t c) -> const std::string& { return columns_[c].header; });
  rule();
  for (const auto& row : rows_) {
    if (row.empty()) {
      rule();
    } else {
      line([&](size_t c) -> const std::string& { return row[c]; });
    }
  }
  return out;
}

}  // namespace optiq
