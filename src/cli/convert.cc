// optiq convert: a float checkpoint to a mixed-precision MLX model.
#include <ctime>
#include <memory>
#include <string>

#include "base/thread_pool.h"
#include "cli/command.h"
#include "cli/quant_options.h"
#include "cli/table.h"
#include "quant/convert.h"
#include "quant/metadata.h"

namespace optiq {
namespace {

struct ConvertFlags {
  ConvertOptions options;
  QuantFlags quant;
  std::string target_size;
  std::vector<std::string> compare;
  bool no_eval = false, no_resume = false, no_kv_config = false;
  bool has_target_bpw = false;
};

std::string Today() {
  const std::time_t now = std::time(nullptr);
  std::tm tm{};
  gmtime_r(&now, &tm);
  return fmt::format("{:04}-{:02}-{:02}", tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday);
}

// "8g64"
StatusOr<AffineFormat> ParseFormat(const std::string& text) {
  AffineFormat f{0, 0};
  char rest = 0;
  if (text.size() > 8 || std::sscanf(text.c_str(), "%dg%d%c", &f.bits, &f.group_size, &rest) != 2 || f.bits < 2 ||
      f.bits > 8 || f.bits == 7 || (f.group_size != 32 && f.group_size != 64 && f.group_size != 128)) {
    return InvalidArgument("--compare '{}': must be BITSgGROUP, like 8g64", text);
  }
  return f;
}

std::string EvaluationText(const ConvertSummary& s) {
  Table table({{"model"}, {"bits/weight", Align::kRight}, {"bytes", Align::kRight}, {"KL mean", Align::kRight},
               {"KL p99", Align::kRight}, {"perplexity", Align::kRight}, {"same top-1", Align::kRight}});
  table.AddRow({"float reference", "", "", "0", "0", fmt::format("{:.3f}", s.reference_perplexity), "100.0 %"});
  for (const EvalRow& r : s.evaluation) {
    table.AddRow({r.name + (r.shipped ? " *" : ""), fmt::format("{:.3f}", r.bpw), HumanBytes(r.bytes),
                  WithError(r.kl_mean, r.kl_stderr), fmt::format("{:.3f}", r.kl_p99), fmt::format("{:.3f}", r.perplexity),
                  fmt::format("{:.1f} %", 100 * r.top1_agreement)});
  }
  return table.Render();
}

void PrintText(const ConvertOptions& o, const ConvertResult& result, std::string* out) {
  const ConvertSummary& s = result.summary;
  if (!s.table.items.empty()) {
    *out += fmt::format("Sensitivity: KL(float || float with one weight at 4 bits), {} tokens; the 15 largest of {}\n\n{}\n",
                        s.table.calibration_sequences * s.table.calibration_length, s.table.items.size(),
                        SensitivityText(s, 15));
  }
  *out += fmt::format("Allocation ({})\n\n{}\n", s.plan.origin, AllocationText(s));
  *out += fmt::format("{:.4f} bits per weight (all bytes of codes, scales and biases)", s.achieved_bpw);
  if (s.target_bpw > 0) *out += fmt::format(", target {:.4f}", s.target_bpw);
  if (s.lp_bound > 0) {
    *out += fmt::format("; predicted KL {:.4g}, {:.3f} % above the LP bound", s.predicted_kl,
                        100 * (s.predicted_kl / s.lp_bound - 1));
  }
  *out += "\n";
  if (!s.evaluation.empty()) {
    *out += fmt::format("\nHeld-out text, {} tokens; * is what was written\n\n{}", s.heldout_tokens, EvaluationText(s));
  }
  *out += "\n";
  for (const StageTime& t : s.stages) *out += fmt::format("{}: {}\n", t.name, HumanSeconds(t.seconds));
  if (result.sweep.gemm_flops > 0) {
    *out += fmt::format("sweep: {} probes, {} pass{} over the model, {:.0f} GFLOP/s in matrix products\n", result.sweep.probes,
                        result.sweep.waves, result.sweep.waves == 1 ? "" : "es",
                        result.sweep.gemm_flops / result.sweep.seconds / 1e9);
  }
  for (const std::string& w : s.warnings) *out += fmt::format("warning: {}\n", w);
  if (!o.dry_run) *out += fmt::format("\n{}: {} in safetensors files\n", o.output, HumanBytes(s.file_bytes));
}

Status RunConvert(ConvertFlags flags, const CommandContext& context) {
  ConvertOptions& o = flags.options;
  RETURN_IF_ERROR(ApplyQuantFlags(flags.quant, &o));
  if (!flags.target_size.empty()) {
    ASSIGN_OR_RETURN(o.target_bytes, ParseBytes(flags.target_size, "--target-size"));
  }
  const int budgets = flags.has_target_bpw + !flags.target_size.empty() + !o.match_bytes.empty();
  if (budgets > 1) return InvalidArgument("--target-bpw, --target-size and --match-bytes exclude each other");
  if (!o.plan_file.empty() && (budgets > 0 || !o.overrides.empty() || !o.sensitivity_file.empty())) {
    return InvalidArgument("--plan decides everything; leave out targets, --override and --sensitivity");
  }
  if (budgets == 0 && o.plan_file.empty()) o.target_bpw = 5.0;
  if (o.output.empty() && !o.dry_run) return InvalidArgument("-o DIR is missing: where to write the model");
  for (const std::string& text : flags.compare) {
    ASSIGN_OR_RETURN(AffineFormat f, ParseFormat(text));
    o.compare.push_back(f);
  }
  o.evaluate = !flags.no_eval;
  o.kv_config = !flags.no_kv_config;
  o.resume = !flags.no_resume;
  o.date = Today();
  o.version = OPTIQ_VERSION;
  ThreadPool pool(context.threads);
  const auto progress = context.MakeProgress();
  ASSIGN_OR_RETURN(const ConvertResult result, Convert(o, &pool, progress.get()));
  for (const std::string& w : result.summary.warnings) context.Note("warning: {}", w);
  if (context.json) {
    Json json = OptiqMetadata(result.summary);
    json["output"] = o.dry_run ? Json(nullptr) : Json(o.output);
    json["sweep"] = {{"seconds", result.sweep.seconds}, {"gemm_flops", result.sweep.gemm_flops},
                     {"probes", result.sweep.probes}, {"waves", result.sweep.waves}, {"resumed", result.sweep.resumed}};
    return WriteJson(json);
  }
  std::string text;
  PrintText(o, result, &text);
  return WriteStdout(text);
}

}  // namespace

void RegisterConvert(CLI::App& app, CommandContext* context) {
  CLI::App* sub = AddCommand(
      app, "convert",
      "Measures how sensitive every weight is (KL divergence), spends a byte budget where it counts, writes an MLX model\n"
      "that stock mlx-lm loads, and compares it with the float model and with uniform formats on held-out text.",
      "optiq convert MODEL -o OUT                            5.0 bits per weight from 4 and 8\n"
      "optiq convert MODEL -o OUT --target-size 4.0GB --candidate-bits 3,4,5,6,8 --group-size 64,32\n"
      "optiq convert MODEL --dry-run --override 'v_proj=8' --save-plan plan.json");
  auto f = std::make_shared<ConvertFlags>();
  ConvertOptions* o = &f->options;
  AddQuantOptions(sub, o, &f->quant);
  sub->add_option("-o,--output", o->output, "The directory to make")->type_name("DIR");
  CLI::Option* bpw = sub->add_option("--target-bpw", o->target_bpw, "Bits per weight, scales and biases included (default 5.0)")
                         ->check(CLI::Range(0.1, 64.0));
  sub->add_option("--target-size", f->target_size, "Bytes of all safetensors files, like 4.0GB")->type_name("SIZE");
  sub->add_option("--match-bytes", o->match_bytes, "As many bytes as the safetensors files of this model")->type_name("DIR");
  sub->add_option("--override", f->quant.overrides, "REGEX=BITS for the paths it matches (16: not quantized); repeatable")
      ->type_name("RULE")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  sub->add_option("--plan", o->plan_file, "Write this plan: nothing is measured")->type_name("FILE");
  sub->add_option("--sensitivity", o->sensitivity_file, "Use these measurements (optiq sensitivity)")->type_name("FILE");
  sub->add_option("--save-plan", o->save_plan, "Write the plan here too")->type_name("FILE");
  sub->add_option("--heldout", o->heldout.file, "Text to compare on, not our own")->type_name("FILE")->each([o](const std::string&) {
    o->heldout.heldout = false;
  });
  sub->add_option("--heldout-sequences", o->heldout.sequences, "Sequences to compare on")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  sub->add_option("--heldout-length", o->heldout.length, "Tokens of each")->check(CLI::Range(8, 1 << 20))->capture_default_str();
  sub->add_option("--compare", f->compare, "Further uniform formats to show, like 8g64; repeatable")
      ->type_name("FORMAT")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  sub->add_flag("--no-eval", f->no_eval, "No comparison on held-out text");
  sub->add_flag("--no-kv-config", f->no_kv_config, "Do not measure the cache and write kv_config.json");
  sub->add_flag("--force-plan", o->force_plan, "Write the plan even when a uniform format is better at its bytes");
  sub->add_flag("--keep-towers", o->keep_towers,
                "Keep a multimodal model's image and sound towers, in bf16, in optiq_towers.safetensors beside the text model");
  sub->add_flag("--dry-run", o->dry_run, "Measure and decide, write no model");
  sub->add_flag("--overwrite", o->overwrite, "Replace the output directory when it holds a model");
  sub->add_flag("--no-resume", f->no_resume, "Start again where a killed run left DIR.partial");
  sub->callback([=] {
    f->has_target_bpw = bpw->count() > 0;
    context->run = [=] { return RunConvert(*f, *context); };
  });
}

}  // namespace optiq
