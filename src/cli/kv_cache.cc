// optiq kv-cache: which layers' keys and values mind quantization, and a kv_config.json that follows from it.
#include <sys/stat.h>

#include <algorithm>
#include <memory>
#include <string>

#include "base/file.h"
#include "base/thread_pool.h"
#include "cli/command.h"
#include "cli/format.h"
#include "cli/kv_options.h"
#include "cli/quant_options.h"
#include "cli/table.h"
#include "kv/kv_config.h"
#include "quant/kv_recommend.h"
#include "tensor/affine.h"

namespace optiq {
namespace {

struct KvCacheFlags {
  std::string model, output, candidate_bits = "4,8", memory = "2GB";
  KvRecommendOptions options;
  bool no_check = false, no_calibrate = false;
};

Status Apply(KvCacheFlags* f) {
  KvRecommendOptions& o = f->options;
  ASSIGN_OR_RETURN(o.candidate_bits, ParseInts(f->candidate_bits, "--candidate-bits"));
  for (int bits : o.candidate_bits) {
    if (bits != 16 && !IsValidAffineFormat({bits, 64})) {
      return InvalidArgument("--candidate-bits: {} is not one of 2,3,4,5,6,8,16", bits);
    }
  }
  std::sort(o.candidate_bits.begin(), o.candidate_bits.end());
  if (o.calibration.length <= o.score_tokens) {
    return InvalidArgument("--calibration-length {} must be larger than --score-tokens {}", o.calibration.length, o.score_tokens);
  }
  o.check = !f->no_check;
  o.calibrate = !f->no_calibrate;
  o.heldout.sequences = o.calibration.sequences;
  o.heldout.length = o.calibration.length;
  ASSIGN_OR_RETURN(o.memory_bytes, ParseBytes(f->memory, "--memory"));
  if (!f->output.empty() && ::mkdir(f->output.c_str(), 0777) != 0 && !DirExists(f->output)) {
    return InvalidArgument("-o {}: cannot make the directory", f->output);
  }
  return OkStatus();
}

std::string SensitivityTable(const KvRecommendation& r, const KvGeometry& geometry) {
  const auto cell = [](const std::map<int, double>& kl, const KvFormat& chosen) {
    std::string text;
    for (const auto& [bits, value] : kl) text += fmt::format("{}{}:{:.1e}", text.empty() ? "" : " ", bits, value);
    return std::pair(text, KvFormatName(chosen));
  };
  Table table({{"layer", Align::kRight}, {"kind"}, {"KL of keys by bits"}, {"keys"}, {"KL of values by bits"}, {"values"}});
  for (size_t i = 0; i < geometry.size(); ++i) {
    if (geometry[i].heads == 0) continue;
    const auto [kl_keys, keys] = cell(r.sensitivity.layers[i].keys, r.plan.layers[i].keys);
    const auto [kl_values, values] = cell(r.sensitivity.layers[i].values, r.plan.layers[i].values);
    table.AddRow({std::to_string(i), geometry[i].window > 0 ? "sliding" : "full", kl_keys, keys, kl_values, values});
  }
  return table.Render();
}

std::string CheckTable(const KvRecommendation& r) {
  Table table({{"cache"}, {"bytes", Align::kRight}, {"KL mean", Align::kRight}, {"same top-1", Align::kRight}});
  for (const KvCheck& c : r.checks) {
    table.AddRow({c.name + (c.name == r.shipped ? " *" : ""), FormatBytes(c.bytes), fmt::format("{:.2e} ± {:.0e}", c.kl, c.kl_stderr),
                  fmt::format("{:.1f} %", 100 * c.top1)});
  }
  return table.Render();
}

Json ResultJson(const KvRecommendation& r, const KvGeometry& geometry) {
  Json layers = Json::array();
  for (size_t i = 0; i < geometry.size(); ++i) {
    if (geometry[i].heads == 0) continue;
    const auto side = [](const std::map<int, double>& kl, const KvFormat& f) {
      Json by_bits = Json::object();
      for (const auto& [bits, value] : kl) by_bits[std::to_string(bits)] = value;
      return Json{{"bits", f.bits}, {"group_size", f.quantized() ? Json(f.group_size) : Json(nullptr)}, {"kl", by_bits}};
    };
    layers.push_back({{"layer_idx", i}, {"keys", side(r.sensitivity.layers[i].keys, r.plan.layers[i].keys)},
                      {"values", side(r.sensitivity.layers[i].values, r.plan.layers[i].values)}});
  }
  Json checks = Json::array();
  for (const KvCheck& c : r.checks) {
    checks.push_back({{"name", c.name}, {"bytes", c.bytes}, {"kl", c.kl}, {"kl_stderr", c.kl_stderr}, {"same_top1", c.top1}});
  }
  return {{"context", r.context}, {"budget_bytes", r.budget}, {"bytes", r.bytes}, {"bf16_bytes", r.bf16_bytes},
          {"predicted_kl", r.predicted_kl}, {"shipped", r.shipped}, {"layers", layers}, {"checks", checks}};
}

Status RunKvCache(KvCacheFlags flags, const CommandContext& context) {
  RETURN_IF_ERROR(Apply(&flags));
  ThreadPool pool(context.threads);
  const auto progress = context.MakeProgress();
  ASSIGN_OR_RETURN(const auto checkpoint, Checkpoint::Open(flags.model));
  ASSIGN_OR_RETURN(const KvRecommendation r, RecommendKv(*checkpoint, flags.options, &pool, progress.get()));
  ASSIGN_OR_RETURN(const DecoderSpec spec, ParseDecoderSpec(checkpoint->config(), flags.model + "/config.json"));
  const KvGeometry geometry = KvGeometryOf(spec);
  if (!flags.output.empty()) RETURN_IF_ERROR(WriteKvConfigs(flags.output, geometry, r, flags.options));
  if (context.json) return WriteJson(ResultJson(r, geometry));
  std::string text = fmt::format("KL(f32 cache || one layer's keys or values quantized) of {} tokens, each after {} others\n\n{}\n",
                                 r.sensitivity.tokens, flags.options.calibration.length - flags.options.score_tokens,
                                 SensitivityTable(r, geometry));
  if (!r.checks.empty()) {
    text += fmt::format("Whole caches on held-out text, {} tokens; bytes at {} tokens; * is recommended\n\n{}\n", r.check_tokens,
                        FormatInteger(r.context), CheckTable(r));
  }
  for (const std::string& line : KvPlanText(r.plan, geometry, r.context)) text += line + "\n";
  if (!flags.output.empty()) text += fmt::format("{}/{} and {}\n", flags.output, kKvConfigName, kKvConfigExtendedName);
  return WriteStdout(text);
}

}  // namespace

void RegisterKvCache(CLI::App& app, CommandContext* context) {
  CLI::App* sub = AddCommand(app, "kv-cache",
                             "Measures what quantizing each layer's keys and values does to the next tokens after a long text, and\n"
                             "recommends bits for each: kv_config.json (mlx-optiq's schema) and optiq_kv_config.json.",
                             "optiq kv-cache MODEL -o MODEL\n"
                             "optiq kv-cache MODEL --target-bits 4 --candidate-bits 2,3,4,5,6,8 --context 8192 -o config");
  auto f = std::make_shared<KvCacheFlags>();
  KvRecommendOptions& o = f->options;
  sub->add_option("MODEL", f->model, "A model directory (Hugging Face or MLX) or a .gguf file")->required();
  sub->add_option("--target-bits", o.target_bits, "The size: that of a cache with this many bits everywhere, scales apart")
      ->check(CLI::Range(2.0, 16.0))
      ->capture_default_str();
  sub->add_option("--candidate-bits", f->candidate_bits, "Bit widths to choose from: any of 2,3,4,5,6,8,16")
      ->type_name("LIST")
      ->capture_default_str();
  sub->add_option("--group-size", o.group_size, "Values that share a scale; smaller where a head's size demands it")
      ->check(CLI::IsMember({32, 64, 128}))
      ->capture_default_str();
  sub->add_option("--dense-first", o.dense_first, "First tokens that stay bf16 (in optiq_kv_config.json)")
      ->check(CLI::Range(0, 1 << 16))
      ->capture_default_str();
  sub->add_option("--dense-recent", o.dense_recent, "Most recent tokens that stay bf16 (likewise)")
      ->check(CLI::Range(0, 1 << 16))
      ->capture_default_str();
  sub->add_option("--context", o.context, "Tokens that bytes are counted for (default: the model's context, at most 32768)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 28))
      ->type_name("N");
  sub->add_option("--calibration", o.calibration.file, "Text or JSONL of {text} or {messages} to measure on, not our own")
      ->type_name("FILE");
  sub->add_option("--calibration-sequences", o.calibration.sequences, "Sequences to measure on, and to check on")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  sub->add_option("--calibration-length", o.calibration.length, "Tokens of each sequence")
      ->check(CLI::Range(16, 1 << 20))
      ->capture_default_str();
  sub->add_option("--calibration-seed", o.calibration.seed, "Which sequences are drawn")->capture_default_str();
  sub->add_option("--score-tokens", o.score_tokens, "Tokens at the end of each sequence whose distributions are compared")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  sub->add_flag("--no-side-runs", f->no_calibrate, "Do not scale the probes by runs with all keys, or all values, at each width");
  sub->add_flag("--no-check", f->no_check, "Do not compare the result with uniform caches by real KL");
  sub->add_option("--memory", f->memory, "Bound on the probes' buffers; more passes over the model below what they need")
      ->type_name("SIZE")
      ->capture_default_str();
  sub->add_option("-o,--output", f->output, "Directory for the two files; may be the model's own")->type_name("DIR");
  sub->callback([=] { context->run = [=] { return RunKvCache(*f, *context); }; });
}

}  // namespace optiq
