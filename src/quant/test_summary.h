// A filled-in ConvertSummary for tests of the writers.
#ifndef OPTIQ_QUANT_TEST_SUMMARY_H_
#define OPTIQ_QUANT_TEST_SUMMARY_H_

#include "quant/allocation.h"
#include "quant/summary.h"
#include "quant/test_table.h"

namespace optiq {

inline ConvertSummary ExampleSummary(double bpw = 4.5, int layers = 30) {
  ConvertSummary s;
  s.table = SmolTable(layers);
  Allocation a = Allocate(s.table, {.budget_bytes = BudgetForBpw(s.table, bpw)}).value();
  s.plan = PlanFromAllocation(s.table, a);
  s.base_model = "example-org/SmolLM2-135M-Instruct";
  s.date = "2026-11-23";
  s.optiq_version = "0.1.0";
  s.command_line = "optiq convert smollm2-135m --target-bpw 4.5";
  s.architecture = "llama";
  s.dtype = "BF16";
  s.licence = "apache-2.0";
  s.predicted_kl = a.predicted_kl;
  s.lp_bound = a.lp_bound;
  s.optimal = a.optimal;
  s.target_bpw = bpw;
  s.quantized_params = TotalParams(s.table);
  s.total_params = s.quantized_params + 35136;
  s.quantized_bytes = a.bytes;
  s.achieved_bpw = 8.0 * static_cast<double>(a.bytes) / static_cast<double>(s.quantized_params);
  s.file_bytes = a.bytes + 70272;
  s.source_bytes = s.total_params * 2;
  s.evaluation = {{"uniform 4-bit g64", 4.5, 75620352, 0.3648, 0.006, 0.2839, 1.839, 12.98, 0.705, false},
                  {"optiq 4.50 bpw", s.achieved_bpw, a.bytes, 0.1512, 0.003, 0.101, 0.83, 10.87, 0.792, true}};
  s.reference_perplexity = 9.84;
  s.heldout_tokens = 4088;
  s.heldout_text = "GSM8K training questions and Python documentation";
  s.calibration_domains = {{"prose", 1000}, {"code", 1048}};
  s.calibration_tokens = 2048;
  s.stages = {{"sensitivity", 83.2}, {"write", 3.4}};
  s.warnings = {"The source is a GGUF file."};
  return s;
}

// Every string replaced by one that would break out of HTML, Markdown, YAML and JSON, and is not UTF-8.
inline ConvertSummary HostileSummary() {
  const std::string evil = "\"'><img src=x onerror=alert(1)></script>`|\n---\n# [x](y) \xFF";
  ConvertSummary s = ExampleSummary(4.5, 3);
  s.base_model = s.date = s.optiq_version = s.command_line = s.architecture = s.dtype = s.licence = evil;
  s.heldout_text = s.plan.origin = s.table.fingerprint = s.table.calibration_sha256 = s.kv_advice = evil;
  s.calibration_domains = {{evil, 1}};
  s.stages = {{evil, 1}};
  s.warnings = {evil};
  for (EvalRow& r : s.evaluation) r.name = evil;
  s.table.items[1].path = "model.layers.0." + evil;
  s.table.items[2].path = evil;
  return s;
}

}  // namespace optiq

#endif  // OPTIQ_QUANT_TEST_SUMMARY_H_
