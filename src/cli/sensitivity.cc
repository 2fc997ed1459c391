// optiq sensitivity: only the measurement, to a file that convert can use many times.
#include <sys/stat.h>

#include <memory>
#include <string>

#include "base/thread_pool.h"
#include "cli/command.h"
#include "cli/quant_options.h"
#include "io/atomic_file.h"
#include "quant/measure.h"

namespace optiq {
namespace {

struct SensitivityFlags {
  ConvertOptions options;
  QuantFlags quant;
  std::string work_dir;
  int rows = 20;
};

Status RunSensitivity(SensitivityFlags flags, const CommandContext& context) {
  ConvertOptions& o = flags.options;
  RETURN_IF_ERROR(ApplyQuantFlags(flags.quant, &o));
  if (!flags.work_dir.empty() && ::mkdir(flags.work_dir.c_str(), 0777) != 0 && errno != EEXIST) {
    return InvalidArgument("--work-dir {}: cannot make the directory", flags.work_dir);
  }
  ThreadPool pool(context.threads);
  const auto progress = context.MakeProgress();
  ASSIGN_OR_RETURN(const FloatModel model, OpenFloatModel(o.model));
  ASSIGN_OR_RETURN(Measurement m, MeasureModel(model, o, flags.work_dir, &pool, progress.get()));
  const SweepStats& stats = m.stats;
  ConvertSummary summary;
  summary.table = std::move(m.table);
  const Json json = summary.table.ToJson();
  if (!o.output.empty()) RETURN_IF_ERROR(AtomicWriteFile(o.output, json.dump(1) + "\n"));
  if (context.json) return WriteJson(json);
  std::string text = fmt::format("KL(float || float with one weight at 4 bits), {} tokens; the {} largest of {} weights\n\n{}",
                                 m.tokens.sequences * m.tokens.length, std::min<size_t>(flags.rows, summary.table.items.size()),
                                 summary.table.items.size(), SensitivityText(summary, flags.rows));
  if (stats.gemm_flops > 0) {
    text += fmt::format("\n{} probes, {} pass{} over the model, {}, {:.0f} GFLOP/s in matrix products\n", stats.probes,
                        stats.waves, stats.waves == 1 ? "" : "es", HumanSeconds(stats.seconds),
                        stats.gemm_flops / stats.seconds / 1e9);
  }
  return WriteStdout(text);
}

}  // namespace

void RegisterSensitivity(CLI::App& app, CommandContext* context) {
  CLI::App* sub = AddCommand(app, "sensitivity",
                             "Measures every weight of a float model: the KL divergence that encoding it alone causes.",
                             "optiq sensitivity MODEL -o sensitivity.json\n"
                             "optiq sensitivity MODEL --candidate-bits 3,4,6,8 --probe-all -o all.json --work-dir state");
  auto f = std::make_shared<SensitivityFlags>();
  AddQuantOptions(sub, &f->options, &f->quant);
  sub->add_option("-o,--output", f->options.output, "Where to write the table (mlx-optiq's sensitivity.json and more)")
      ->type_name("FILE");
  sub->add_option("--work-dir", f->work_dir, "Keep state here, so that a killed run goes on")->type_name("DIR");
  sub->add_option("--rows", f->rows, "Rows to show")->check(CLI::Range(1, 100000))->capture_default_str();
  sub->callback([=] { context->run = [=] { return RunSensitivity(*f, *context); }; });
}

}  // namespace optiq
