// optiq bench: how fast a model runs here, beside what the machine can do.
#include "engine/bench.h"

#include <sys/resource.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "cli/command.h"
#include "cli/format.h"
#include "cli/interrupt.h"
#include "cli/kv_options.h"
#include "cli/model_loader.h"
#include "cli/product_options.h"
#include "cli/table.h"
#include "kernels/isa.h"
#include "kernels/machine_limits.h"

namespace optiq {
namespace {

struct BenchFlags {
  std::string model;
  BenchOptions options;
  KvOptions kv;
  ProductOptions products;
  bool profile = false;
};

double PeakRss() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) * 1024;
}

const char* KindName(BenchCase::Kind kind) {
  switch (kind) {
    case BenchCase::kPrefill: return "prefill";
    case BenchCase::kDecode: return "decode";
    case BenchCase::kBatch: return "batch";
  }
  return "";
}

std::string CaseName(const BenchCase& c) {
  switch (c.kind) {
    case BenchCase::kPrefill: return fmt::format("prefill {}", c.size);
    case BenchCase::kDecode: return fmt::format("decode at depth {}", c.size);
    case BenchCase::kBatch: return fmt::format("decode, batch of {}", c.size);
  }
  return "";
}

// Of the measured read bandwidth and of the fastest multiplications.
double MemoryShare(const BenchCase& c, int64_t steps, const MachineLimits& limits) {
  return c.bytes > 0 ? c.bytes * static_cast<double>(steps) / c.MedianSeconds() / limits.read_bytes : 0;
}
double ComputeShare(const BenchCase& c, double peak) { return c.ops > 0 && peak > 0 ? c.ops / c.MedianSeconds() / peak : 0; }

std::string Percent(double share) { return share > 0 ? fmt::format("{:.0f} %", 100 * share) : ""; }

Status RunBenchCommand(const BenchFlags& flags, const CommandContext& context) {
  const double start = SteadySeconds();
  ASSIGN_OR_RETURN(const LoadedModel model, LoadWeightsOnly(flags.model, context));
  flags.products.Apply(model, context);
  const double load_seconds = SteadySeconds() - start;
  std::vector<float> logits;
  const int32_t first = 0;
  BenchOptions options = flags.options;
  ASSIGN_OR_RETURN(options.kv_plan, flags.kv.ToPlan(*model.checkpoint, model.decoder->spec(), flags.products.exact ? 32 : 16));
  ASSIGN_OR_RETURN(const auto cache, model.decoder->MakeCache(options.kv_plan));
  RETURN_IF_ERROR(model.decoder->Forward({&first, 1}, cache.get(), false, &logits));
  const double first_token_seconds = SteadySeconds() - start;

  const MachineLimits limits = MeasureMachineLimits(model.pool.get());
  const double peak = flags.products.exact ? limits.f32_ops : std::max(limits.int8_ops, limits.bf16_ops);
  const InterruptScope interrupt;
  const auto progress = context.MakeProgress();
  OpProfile profile;
  if (flags.profile) model.decoder->set_profile(&profile);
  ASSIGN_OR_RETURN(const std::vector<BenchCase> cases,
                   RunBench(model.decoder.get(), options, &InterruptScope::flag(), progress.get()));
  const double rss = PeakRss();

  const KvGeometry geometry = KvGeometryOf(model.decoder->spec());
  const int64_t context_length = std::max<int64_t>(1, model.decoder->spec().max_position_embeddings);
  if (context.json) {
    Json json = {{"model", flags.model},
                 {"threads", model.pool->num_threads()},
                 {"isa", IsaName()},
                 {"exact", flags.products.exact},
                 {"file_bytes", model.checkpoint->file_bytes()},
                 {"weight_bytes_per_token", WorkOf(*model.decoder).step_bytes},
                 {"kv_cache", KvPlanJson(options.kv_plan, geometry, context_length)},
                 {"load_seconds", load_seconds},
                 {"first_token_seconds", first_token_seconds},
                 {"peak_rss_bytes", rss},
                 {"machine",
                  {{"read_bytes_per_second", limits.read_bytes},
                   {"int8_ops_per_second", limits.int8_ops},
                   {"bf16_ops_per_second", limits.bf16_ops},
                   {"f32_ops_per_second", limits.f32_ops}}},
                 {"cases", Json::array()}};
    for (const BenchCase& c : cases) {
      json["cases"].push_back({{"kind", KindName(c.kind)},
                               {"size", c.size},
                               {"tokens", c.tokens},
                               {"tokens_per_second", c.Rate()},
                               {"seconds", c.seconds},
                               {"memory_share", MemoryShare(c, options.steps, limits)},
                               {"compute_share", ComputeShare(c, peak)}});
    }
    for (const auto& [name, entry] : profile.ops) {
      json["profile"][name] = {{"seconds", entry.seconds}, {"calls", entry.calls}};
    }
    return WriteJson(json);
  }
  std::string text = fmt::format("{}: {}, {} threads, {}{}\n", flags.model,
                                 FormatBytes(static_cast<double>(model.checkpoint->file_bytes())),
                                 model.pool->num_threads(), IsaName(), flags.products.exact ? ", exact" : "");
  text += fmt::format("load {:.3f} s, first token {:.3f} s after the start, peak memory {} (mapped weights included)\n",
                      load_seconds, first_token_seconds, FormatBytes(rss));
  text += fmt::format("a token reads {} of weights, experts as routed\n", FormatBytes(WorkOf(*model.decoder).step_bytes));
  if (flags.kv.any()) {
    for (const std::string& line : KvPlanText(options.kv_plan, geometry, context_length)) text += line + "\n";
  }
  text += fmt::format("this machine: reads {}/s; int8 {:.0f}, bf16 {:.0f}, f32 {:.0f} Gop/s\n\n", FormatBytes(limits.read_bytes),
                      limits.int8_ops / 1e9, limits.bf16_ops / 1e9, limits.f32_ops / 1e9);
  Table table({{"case"}, {"tok/s", Align::kRight}, {"spread", Align::kRight}, {"of bandwidth", Align::kRight},
               {flags.products.exact ? "of f32 peak" : "of int8 peak", Align::kRight}});
  for (const BenchCase& c : cases) {
    const auto [low, high] = std::minmax_element(c.seconds.begin(), c.seconds.end());
    table.AddRow({CaseName(c), fmt::format("{:.1f}", c.Rate()), fmt::format("{:.0f} %", 100 * (*high / *low - 1)),
                  Percent(MemoryShare(c, options.steps, limits)), Percent(ComputeShare(c, peak))});
  }
  text += table.Render();
  if (flags.profile) {
    double total = 0;
    for (const auto& [name, entry] : profile.ops) total += entry.seconds;
    std::vector<std::pair<std::string, OpProfile::Entry>> ops(profile.ops.begin(), profile.ops.end());
    std::sort(ops.begin(), ops.end(), [](const auto& a, const auto& b) { return a.second.seconds > b.second.seconds; });
    Table times({{"operation"}, {"seconds", Align::kRight}, {"share", Align::kRight}, {"calls", Align::kRight},
                 {"microseconds per call", Align::kRight}});
    for (const auto& [name, entry] : ops) {
      times.AddRow({name, fmt::format("{:.3f}", entry.seconds), Percent(entry.seconds / total), FormatInteger(entry.calls),
                    fmt::format("{:.2f}", entry.seconds / static_cast<double>(entry.calls) * 1e6)});
    }
    text += "\n" + times.Render();
  }
  return WriteStdout(text);
}

void AddSizes(CLI::App* sub, const std::string& name, std::vector<int64_t>* sizes, int64_t least, const std::string& help) {
  sub->add_option(name, *sizes, help)->delimiter(',')->check(CLI::Range(least, int64_t{1} << 24))->type_name("N,...");
}

}  // namespace

void RegisterBench(CLI::App& app, CommandContext* context) {
  CLI::App* sub = AddCommand(app, "bench",
                             "Measures prefill and decode, and beside them what the machine can do: read bandwidth and\n"
                             "multiplication peaks, measured in the same run. Lengths beyond the model's context are left out.",
                             "optiq bench MODEL\n"
                             "optiq bench MODEL --prefill 512 --depth 0,4096 --batch 1,8 --profile\n"
                             "optiq bench MODEL --depth 8192 --kv-bits 4\n"
                             "optiq bench MODEL --threads 1 --json");
  auto o = std::make_shared<BenchFlags>();
  sub->add_option("MODEL", o->model, "A model directory (Hugging Face or MLX) or a .gguf file")->required();
  AddSizes(sub, "--prefill", &o->options.prefill, 1, "Prompt lengths (default 128,512,2048)");
  AddSizes(sub, "--depth", &o->options.depths, 0, "Tokens before a decode (default 0,2048,8192)");
  AddSizes(sub, "--batch", &o->options.batches, 1, "Sequences decoded side by side (default 1,4,16)");
  sub->add_option("--steps", o->options.steps, "Decode steps of one run (default 32)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->type_name("N");
  sub->add_option("--repeats", o->options.repeats, "Runs of each case; the median is shown (default 3)")
      ->check(CLI::Range(1, 1000))
      ->type_name("N");
  sub->add_flag("--profile", o->profile, "Time per operation, over all cases");
  o->products.AddTo(sub);
  o->kv.AddTo(sub, "default 16, with --exact 32");
  sub->callback([=] { context->run = [=] { return RunBenchCommand(*o, *context); }; });
}

}  // namespace optiq
