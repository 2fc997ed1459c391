#include "cli/quant_options.h"

#include <algorithm>
#include <charconv>
#include <map>

#include "cli/table.h"
#include "quant/summary.h"
#include "tensor/affine.h"

namespace optiq {

StatusOr<std::vector<int>> ParseInts(const std::string& text, const std::string& flag) {
  std::vector<int> out;
  size_t at = 0;
  while (at <= text.size()) {
    const size_t comma = std::min(text.find(',', at), text.size());
    int value = 0;
    const char* end = text.data() + comma;
    auto [stop, error] = std::from_chars(text.data() + at, end, value);
    if (error != std::errc() || stop != end) return InvalidArgument("{} '{}': must be numbers like 4,8", flag, text);
    if (std::find(out.begin(), out.end(), value) == out.end()) out.push_back(value);
    at = comma + 1;
  }
  return out;
}

StatusOr<uint64_t> ParseBytes(const std::string& text, const std::string& flag) {
  double value = 0;
  auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const std::string unit(stop, text.data() + text.size());
  static const std::map<std::string, double> kUnits = {{"", 1},    {"B", 1},    {"KB", 1e3},
                                                       {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}};
  auto it = kUnits.find(unit);
  if (error != std::errc() || it == kUnits.end() || !(value > 0) || value * it->second >= 1e18) {
    return InvalidArgument("{} '{}': must be a size like 4.0GB, 76.3MB or a number of bytes", flag, text);
  }
  return static_cast<uint64_t>(value * it->second);
}

void AddQuantOptions(CLI::App* sub, ConvertOptions* o, QuantFlags* f) {
  sub->add_option("MODEL", o->model, "A float model: a directory (Hugging Face or MLX) or a .gguf file")->required();
  sub->add_option("--candidate-bits", f->candidate_bits, "Bit widths to choose from: any of 2,3,4,5,6,8")
      ->type_name("LIST")
      ->capture_default_str();
  sub->add_option("--group-size", f->group_size, "Group sizes to choose from: any of 32,64,128; the first is the default format's")
      ->type_name("LIST")
      ->capture_default_str();
  sub->add_option("--calibration", o->calibration.file, "Text or JSONL of {text} or {messages} to calibrate on, not our own")
      ->type_name("FILE");
  sub->add_option("--calibration-sequences", o->calibration.sequences, "Sequences to calibrate on")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  sub->add_option("--calibration-length", o->calibration.length, "Tokens of each sequence")
      ->check(CLI::Range(8, 1 << 20))
      ->capture_default_str();
  sub->add_option("--calibration-seed", o->calibration.seed, "Which sequences are drawn")->capture_default_str();
  sub->add_option("--encoder", o->encoder,
                  "search: ranges weighted by each layer's inputs; rtn: mx.quantize's own rounding, bit by bit")
      ->check(CLI::IsMember({"search", "rtn"}))
      ->capture_default_str();
  sub->add_flag("--probe-all", o->probe_all, "Measure every width of every weight; else widths above 4 are scaled from 4 bits");
  sub->add_option("--products", f->products, "Arithmetic of the probes' differences: bf16, or f32 (exact, half as fast)")
      ->check(CLI::IsMember({"bf16", "f32"}))
      ->capture_default_str();
  sub->add_option("--memory", f->memory, "Bound on the sweep's buffers; more passes over the model below what it needs")
      ->type_name("SIZE")
      ->capture_default_str();
}

Status ApplyQuantFlags(const QuantFlags& f, ConvertOptions* o) {
  ASSIGN_OR_RETURN(o->candidate_bits, ParseInts(f.candidate_bits, "--candidate-bits"));
  ASSIGN_OR_RETURN(o->group_sizes, ParseInts(f.group_size, "--group-size"));
  for (int bits : o->candidate_bits) {
    if (!IsValidAffineFormat({bits, 64})) return InvalidArgument("--candidate-bits: {} is not one of 2,3,4,5,6,8", bits);
  }
  for (int group : o->group_sizes) {
    if (!IsValidAffineFormat({4, group})) return InvalidArgument("--group-size: {} is not one of 32,64,128", group);
  }
  std::sort(o->candidate_bits.begin(), o->candidate_bits.end());
  for (const std::string& text : f.overrides) {
    const size_t equals = text.rfind('=');
    int bits = 0;
    if (equals != std::string::npos) {
      const std::string value = text.substr(equals + 1);
      auto [stop, error] = std::from_chars(value.data(), value.data() + value.size(), bits);
      if (error == std::errc() && stop == value.data() + value.size() && equals > 0) {
        o->overrides.emplace_back(text.substr(0, equals), bits == 16 ? 0 : bits);
        continue;
      }
    }
    return InvalidArgument("--override '{}': must be REGEX=BITS, like 'v_proj=8' (16: not quantized)", text);
  }
  o->products = f.products == "f32" ? Products::kF32 : Products::kBF16;
  ASSIGN_OR_RETURN(o->memory_bytes, ParseBytes(f.memory, "--memory"));
  return OkStatus();
}

std::string SensitivityText(const ConvertSummary& summary, int rows) {
  std::vector<SummaryItem> items = SummaryItems(summary);
  double total = 0;
  for (const SummaryItem& i : items) total += std::max(0.0, i.sensitivity);
  std::stable_sort(items.begin(), items.end(), [](const auto& a, const auto& b) { return a.sensitivity > b.sensitivity; });
  Table table({{"weight"}, {"KL at 4 bits", Align::kRight}, {"share", Align::kRight}, {"parameters", Align::kRight}});
  for (int i = 0; i < std::min<int>(rows, static_cast<int>(items.size())); ++i) {
    const SummaryItem& item = items[i];
    table.AddRow({item.path, fmt::format("{:.2e}", item.sensitivity),
                  fmt::format("{:.1f} %", total > 0 ? 100 * item.sensitivity / total : 0),
                  item.item != nullptr ? Grouped(item.item->params()) : ""});
  }
  return table.Render();
}

std::string AllocationText(const ConvertSummary& summary) {
  // Weights and bytes by kind and bits.
  struct Cell {
    int weights = 0;
    uint64_t bytes = 0;
  };
  std::map<std::string, std::map<int, Cell>> kinds;
  std::map<int, bool> bits;
  std::vector<std::string> order;
  for (const SummaryItem& i : SummaryItems(summary)) {
    if (!kinds.contains(i.kind)) order.push_back(i.kind);
    Cell& cell = kinds[i.kind][i.bits];
    ++cell.weights;
    cell.bytes += i.bytes;
    bits[i.bits] = true;
  }
  std::vector<Table::Column> columns = {{"kind"}};
  for (const auto& [b, used] : bits) columns.push_back({b == 16 ? "dense" : fmt::format("{}-bit", b), Align::kRight});
  columns.push_back({"bytes", Align::kRight});
  Table table(columns);
  for (const std::string& kind : order) {
    std::vector<std::string> row = {kind};
    uint64_t bytes = 0;
    for (const auto& [b, used] : bits) {
      auto it = kinds[kind].find(b);
      row.push_back(it == kinds[kind].end() ? "" : std::to_string(it->second.weights));
      if (it != kinds[kind].end()) bytes += it->second.bytes;
    }
    row.push_back(HumanBytes(bytes));
    table.AddRow(row);
  }
  return table.Render();
}

}  // namespace optiq
