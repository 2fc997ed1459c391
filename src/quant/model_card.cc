#include "quant/model_card.h"

#include <algorithm>
#include <cctype>
#include <map>

#include "quant/escape.h"

namespace optiq {
namespace {

// "owner/name" as hubs spell it; a local path is no base model that others could follow.
bool IsHubId(std::string_view s) {
  if (s.empty() || s.size() > 192 || std::count(s.begin(), s.end(), '/') != 1) return false;
  if (!std::isalnum(static_cast<unsigned char>(s.front())) || s.back() == '/') return false;
  return std::all_of(s.begin(), s.end(), [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '/' || c == '-' || c == '_' || c == '.';
  });
}

bool IsLicenceId(std::string_view s) {
  return !s.empty() && s.size() <= 64 && std::all_of(s.begin(), s.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.';
  });
}

std::string FrontMatter(const ConvertSummary& s) {
  std::string out = "---\n";
  std::string licence = s.licence;
  for (char& c : licence) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  out += fmt::format("license: {}\n", IsLicenceId(licence) ? YamlString(licence) : "other");
  if (!s.licence.empty() && !IsLicenceId(licence)) out += fmt::format("license_name: {}\n", YamlString(s.licence));
  if (!IsLocal(s) && IsHubId(s.base_model)) {
    out += fmt::format("base_model: {}\nbase_model_relation: quantized\n", YamlString(s.base_model));
  }
  out += "library_name: mlx\npipeline_tag: text-generation\n";
  out += "tags:\n- mlx\n- optiq\n- quantized\n- mixed-precision\n---\n\n";
  return out;
}

std::string Summary(const ConvertSummary& s) {
  std::string out = fmt::format(
      "# {} ({:.2f} bits per weight)\n\n"
      "{} in MLX format, quantized to mixed precision by optiq.cpp {}: {:.2f} bits per weight over the "
      "quantized weights (scales and biases included), {} on disk",
      EscapeMarkdown(DisplayName(s)), s.achieved_bpw, EscapeMarkdown(DisplayName(s)), EscapeMarkdown(s.optiq_version),
      s.achieved_bpw, HumanBytes(s.file_bytes));
  if (s.source_bytes > 0 && s.file_bytes > 0) {
    out += fmt::format(" ({:.0f} % of the source's {})",
                       100.0 * static_cast<double>(s.file_bytes) / static_cast<double>(s.source_bytes),
                       HumanBytes(s.source_bytes));
  }
  out += ".\n\n";
  for (const std::string& w : s.warnings) out += fmt::format("> **Note.** {}\n\n", EscapeMarkdown(w));
  return out;
}

std::string Measured(const ConvertSummary& s) {
  std::string out = "## Measured\n\n";
  if (s.evaluation.empty()) return out + "No evaluation on held-out text was made for this model.\n\n";
  out += fmt::format(
      "KL(float || quantized) in nats per token over the full vocabulary, perplexity and agreement of the most likely "
      "token, on "
      "{} tokens of text that was not used for calibration{}{}.\n\n",
      Grouped(static_cast<uint64_t>(std::max<int64_t>(0, s.heldout_tokens))), s.heldout_text.empty() ? "" : ": ",
      EscapeMarkdown(s.heldout_text));
  out += "| model | bits per weight | weights | KL mean | KL median | KL p99 | perplexity | same top token |\n";
  out += "|---|---:|---:|---:|---:|---:|---:|---:|\n";
  if (s.reference_perplexity > 0) {
    out += fmt::format("| float reference | | | 0 | 0 | 0 | {:.3f} | 100 % |\n", s.reference_perplexity);
  }
  for (const EvalRow& r : s.evaluation) {
    const char* bold = r.shipped ? "**" : "";
    out += fmt::format("| {}{}{} | {:.2f} | {} | {} | {} | {} | {:.3f} | {:.1f} % |\n", bold, EscapeMarkdown(r.name),
                       bold, r.bpw, HumanBytes(r.bytes), WithError(r.kl_mean, r.kl_stderr), Short(r.kl_median),
                       Short(r.kl_p99), r.perplexity, 100 * r.top1_agreement);
  }
  return out + "\nThe row in bold is the model in this directory; ± is one standard error.\n\n";
}

std::string Usage(const ConvertSummary& s) {
  std::string out = "## Use\n\nWith stock mlx-lm on a Mac (DIR is this directory, or its id on a hub):\n\n";
  out += MarkdownCodeBlock("pip install mlx-lm\nmlx_lm.generate --model DIR --prompt \"Hello\"", "sh");
  out += "\n";
  out += MarkdownCodeBlock(
      "from mlx_lm import generate, load\n\nmodel, tokenizer = load(\"DIR\")\n"
      "print(generate(model, tokenizer, prompt=\"Hello\", max_tokens=100))",
      "python");
  out += "\nWith optiq.cpp on an x86-64 or ARM CPU:\n\n";
  out += MarkdownCodeBlock("optiq generate DIR --prompt \"Hello\"\noptiq serve --model DIR", "sh");
  out += "\n";
  if (!s.kv_advice.empty()) out += EscapeMarkdown(s.kv_advice) + "\n\n";
  return out;
}

// Bits by kind of weight: which widths were chosen how often, and their mean.
std::string BitsByKind(const ConvertSummary& s) {
  struct Row {
    std::map<int, int> count;
    int n = 0;
    double kl = 0;
  };
  std::vector<std::string> order;
  std::map<std::string, Row> rows;
  bool have_kl = false;
  for (const SummaryItem& item : SummaryItems(s)) {
    if (!rows.contains(item.kind)) order.push_back(item.kind);
    Row& row = rows[item.kind];
    ++row.count[item.bits];
    ++row.n;
    row.kl += item.kl;
    have_kl = have_kl || item.measured;
  }
  std::string out = "## Bits\n\n| weight | number | bits (how many) |";
  out += have_kl ? " predicted KL |\n|---|---:|---|---:|\n" : "\n|---|---:|---|\n";
  for (const std::string& kind : order) {
    const Row& row = rows[kind];
    std::vector<std::string> parts;
    for (auto [bits, n] : row.count) {
      std::string name = bits == 16 ? "dense" : std::to_string(bits);
      parts.push_back(row.count.size() == 1 ? name : fmt::format("{} ({})", name, n));
    }
    out += fmt::format("| {} | {} | {} |", MarkdownCode(kind), row.n, fmt::join(parts, ", "));
    out += have_kl ? fmt::format(" {} |\n", Short(row.kl)) : "\n";
  }
  return out + "\nEvery weight with its format is in `config.json`; what was measured for it is in `report.html`.\n\n";
}

std::string HowMade(const ConvertSummary& s) {
  std::string out = "## How it was made\n\n";
  if (!s.command_line.empty()) out += MarkdownCodeBlock(s.command_line, "sh") + "\n";
  if (!s.table.items.empty()) {
    out += fmt::format(
        "The sensitivity of each of the {} weights was measured as KL(float || float with only this weight quantized) "
        "on {} "
        "calibration sequences of {} tokens",
        s.table.items.size(), s.table.calibration_sequences, s.table.calibration_length);
    if (!s.calibration_domains.empty()) {
      std::vector<std::string> names;
      for (const auto& [name, tokens] : s.calibration_domains) names.push_back(EscapeMarkdown(name));
      out += fmt::format(" ({})", fmt::join(names, ", "));
    }
    out += ". ";
  }
  if (s.lp_bound > 0) {
    out += fmt::format(
        "The bits were then chosen by a knapsack over these figures within the byte budget: predicted KL {}, {}. ",
        Short(s.predicted_kl),
        s.optimal ? std::string("proven the least possible at this size")
                  : fmt::format("at most {:.3f} % above the least possible", 100 * (s.predicted_kl / s.lp_bound - 1)));
  } else {
    out += fmt::format("The plan: {}. ", EscapeMarkdown(s.plan.origin));
  }
  if (!s.date.empty()) out += fmt::format("Made on {}", EscapeMarkdown(s.date));
  double total = 0;
  for (const StageTime& t : s.stages) total += t.seconds;
  if (!s.date.empty()) out += total > 0 ? fmt::format(" in {}.", HumanSeconds(total)) : ".";
  return out + "\n\n";
}

std::string Notes(const ConvertSummary& s) {
  std::string out = "## Notes\n\n";
  out +=
      "- KL and perplexity say how far this model is from its float original on general text; they are no measure of "
      "how good "
      "the original is, and small differences in KL between two good quants need not show in task scores.\n";
  if (!s.table.items.empty()) {
    out +=
        "- The plan adds up the KLs of single weights. Errors of many weights together interact, so the predicted sum "
        "and the "
        "measured KL of the whole model differ; compare models by the measured one.\n";
  }
  out +=
      "- Bits per weight count codes, scales and biases of the quantized weights; norms and other small tensors stay "
      "in ";
  out += s.dtype.empty() ? std::string("the original's dtype") : EscapeMarkdown(s.dtype);
  out += ".\n";
  if (s.licence.empty()) {
    out +=
        "- The licence of the base model was not found in its files. It applies to this model too: look it up before "
        "you pass "
        "the model on.\n";
  } else {
    out += fmt::format("- The licence of the base model ({}) applies to this model too.\n", EscapeMarkdown(s.licence));
  }
  return out;
}

}  // namespace

std::string ModelCard(const ConvertSummary& summary) {
  return FrontMatter(summary) + Summary(summary) + Measured(summary) + Usage(summary) + BitsByKind(summary) +
         HowMade(summary) + Notes(summary);
}

}  // namespace optiq
