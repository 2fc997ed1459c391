// optiq eval: perplexity on a text, and KL from a reference model.
#include <cmath>
#include <memory>
#include <string>

#include "cli/command.h"
#include "cli/interrupt.h"
#include "cli/kv_options.h"
#include "cli/model_loader.h"
#include "cli/table.h"
#include "cli/terminal.h"
#include "eval/evaluate_model.h"

namespace optiq {
namespace {

struct EvalFlags {
  std::string model, reference;
  CalibrationOptions text = {.sequences = 16, .length = 256};
  int64_t score_tokens = 0;
  KvOptions kv;
  bool fast = false;
};

Json EstimateJson(const Estimate& e) { return {{"mean", e.mean}, {"standard_error", e.standard_error}}; }

std::string PlusMinus(const Estimate& e, double scale = 1) {
  return fmt::format("{:.4g} ± {:.2g}", e.mean * scale, e.standard_error * scale);
}

Json ResultJson(const EvalFlags& flags, const TokenBatch& tokens, const EvalResult& r) {
  Json json = {{"model", flags.model},       {"text", flags.text.file.empty() ? "held-out" : flags.text.file},
               {"text_sha256", tokens.sha256}, {"sequences", r.sequences},
               {"length", r.length},         {"scored_tokens", r.tokens},
               {"exact", !flags.fast},       {"nll", EstimateJson(r.nll)},
               {"perplexity", std::exp(r.nll.mean)}};
  if (r.divergence) {
    const DivergenceResult& d = *r.divergence;
    json["reference"] = flags.reference;
    json["kl"] = EstimateJson(d.kl);
    json["kl"]["median"] = d.kl_median;
    json["kl"]["p99"] = d.kl_p99;
    json["kl"]["max"] = d.kl_max;
    json["same_top1"] = EstimateJson(d.same_top1);
    json["reference_perplexity"] = std::exp(d.reference_nll.mean);
  }
  return json;
}

Status RunEval(const EvalFlags& flags, const CommandContext& context) {
  ASSIGN_OR_RETURN(const LoadedModel model, LoadModel(flags.model, context));
  LoadedModel reference;
  if (!flags.reference.empty()) {
    ASSIGN_OR_RETURN(reference, LoadWeightsOnly(flags.reference, context));
    reference.decoder->set_products(Products::kF32);
  }
  if (flags.fast) model.decoder->set_products(Products::kFast);
  const DecoderSpec& spec = model.decoder->spec();
  if (spec.max_position_embeddings > 0 && flags.text.length > spec.max_position_embeddings) {
    return InvalidArgument("--length {}: the model's context is {}", flags.text.length, spec.max_position_embeddings);
  }
  CalibrationOptions text = flags.text;
  text.heldout = text.file.empty();
  ASSIGN_OR_RETURN(const TokenBatch tokens,
                   LoadCalibration(*model.tokenizer, model.chat_template ? &*model.chat_template : nullptr, text));
  EvalOptions options = {.score_tokens = flags.score_tokens, .cancel = &InterruptScope::flag()};
  ASSIGN_OR_RETURN(options.kv_plan, flags.kv.ToPlan(*model.checkpoint, spec, flags.fast ? 16 : 32));
  if (flags.kv.any() || context.verbose) {
    for (const std::string& line : KvPlanText(options.kv_plan, KvGeometryOf(spec), flags.text.length)) context.Note("{}", line);
  }
  const InterruptScope interrupt;
  const auto progress = context.MakeProgress();
  ASSIGN_OR_RETURN(const EvalResult r,
                   EvaluateModel(model.decoder.get(), reference.decoder.get(), tokens, options, model.pool.get(), progress.get()));
  if (context.json) return WriteJson(ResultJson(flags, tokens, r));
  std::string out = fmt::format("{} sequences of {} tokens of {}; {} tokens scored\n\n", r.sequences, r.length,
                                text.heldout ? "our held-out text" : text.file, r.tokens);
  Table table({{"measure"}, {"value", Align::kRight}});
  table.AddRow({"perplexity", fmt::format("{:.3f}", std::exp(r.nll.mean))});
  table.AddRow({"negative log likelihood, nats", PlusMinus(r.nll)});
  if (r.divergence) {
    const DivergenceResult& d = *r.divergence;
    table.AddRow({"reference's perplexity", fmt::format("{:.3f}", std::exp(d.reference_nll.mean))});
    table.AddRow({"KL(reference || model), nats", PlusMinus(d.kl)});
    table.AddRow({"KL median, p99, max", fmt::format("{:.3g}, {:.3g}, {:.3g}", d.kl_median, d.kl_p99, d.kl_max)});
    table.AddRow({"same most likely token", PlusMinus(d.same_top1, 100) + " %"});
  }
  return WriteStdout(out + table.Render());
}

}  // namespace

void RegisterEval(CLI::App& app, CommandContext* context) {
  CLI::App* sub = AddCommand(app, "eval",
                             "Perplexity on a text that no model of ours was calibrated on, and with --reference the\n"
                             "divergence from another model's predictions. Standard errors are over sequences (from 8).",
                             "optiq eval MODEL\n"
                             "optiq eval MODEL --reference FLOAT_MODEL --json\n"
                             "optiq eval MODEL --reference MODEL --fast --kv-bits 4 --sequences 2 --length 8192 --score-tokens 512");
  auto f = std::make_shared<EvalFlags>();
  sub->add_option("MODEL", f->model, "A model directory (Hugging Face or MLX) or a .gguf file")->required();
  sub->add_option("--reference", f->reference, "The model to compare with, run exactly (f32, f32 cache)")->type_name("MODEL");
  sub->add_option("--text", f->text.file, "Text or JSONL of {text} or {messages}, not our own")->type_name("FILE");
  sub->add_option("--sequences", f->text.sequences, "Sequences to draw")->check(CLI::Range(int64_t{1}, int64_t{1} << 20))->capture_default_str();
  sub->add_option("--length", f->text.length, "Tokens of each sequence")->check(CLI::Range(int64_t{2}, int64_t{1} << 24))->capture_default_str();
  sub->add_option("--seed", f->text.seed, "Which sequences are drawn")->capture_default_str();
  sub->add_option("--score-tokens", f->score_tokens, "Only the last ones of each sequence (default: all)")
      ->check(CLI::Range(int64_t{2}, int64_t{1} << 24))
      ->type_name("N");
  sub->add_flag("--fast", f->fast, "The arithmetic of generate and chat; default f32");
  f->kv.AddTo(sub, "default 32, with --fast 16");
  sub->callback([=] { context->run = [=] { return RunEval(*f, *context); }; });
}

}  // namespace optiq
