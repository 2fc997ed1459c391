// Everything that a conversion can tell about itself: what the model card, optiq_metadata.json and report.html show.
#ifndef OPTIQ_QUANT_SUMMARY_H_
#define OPTIQ_QUANT_SUMMARY_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "quant/plan.h"
#include "quant/sensitivity_table.h"

namespace optiq {

// One model compared with the float reference on the held-out text.
struct EvalRow {
  std::string name;      // "optiq 4.5 bpw", "uniform 4-bit g64"
  double bpw = 0;        // bits per weight over the quantizable weights, scales and biases included
  uint64_t bytes = 0;    // of the quantizable weights on disk
  double kl_mean = 0;    // KL(float || this), nats per token
  double kl_stderr = 0;  // standard error of kl_mean
  double kl_median = 0, kl_p99 = 0;
  double perplexity = 0;
  double top1_agreement = 0;  // share of positions with the same most likely token, 0..1
  bool shipped = false;       // this is the model in the directory
};

struct StageTime {
  std::string name;
  double seconds = 0;
};

struct ConvertSummary {
  std::string base_model;            // as the user named it
  bool base_model_is_local = false;  // a path on this machine, not a hub's "owner/name"
  std::string date;                  // passed in ("2026-11-23"), so that writers are functions of their input
  std::string optiq_version;
  std::string command_line;
  std::string architecture;  // config.json's model_type
  std::string dtype;         // of the dense tensors: "BF16"
  std::string licence;       // of the base model, an SPDX-like id; empty when unknown

  SensitivityTable table;  // empty items: no sweep was made (uniform or hand-written plan)
  Plan plan;
  double predicted_kl = 0;  // of the plan, additive model; 0 without a table
  double lp_bound = 0;      // lower bound of predicted_kl at this budget; 0 when not allocated
  bool optimal = false;     // predicted_kl is proven the least at this budget
  double target_bpw = 0;    // asked for; 0 when there was no target
  double achieved_bpw = 0;  // 8 * quantized_bytes / quantized_params

  uint64_t total_params = 0;      // of the whole model
  uint64_t quantized_params = 0;  // weights that the plan covers
  uint64_t quantized_bytes = 0;   // their bytes on disk, dense ones of the plan included
  uint64_t file_bytes = 0;        // all safetensors files
  uint64_t source_bytes = 0;      // the float checkpoint's files

  std::vector<EvalRow> evaluation;  // on held-out text; may be empty
  double reference_perplexity = 0;  // of the float model on the same text; 0 when not evaluated
  int64_t heldout_tokens = 0;
  std::string heldout_text;                                          // what the text is
  std::vector<std::pair<std::string, int64_t>> calibration_domains;  // name, tokens
  int64_t calibration_tokens = 0;

  std::vector<StageTime> stages;
  std::vector<std::string> warnings;
  std::string kv_advice;  // one sentence on kv_config.json; empty when there is none
};

// One quantizable weight: what was measured for it and what the plan does with it.
struct SummaryItem {
  std::string path;
  int block = -1;                         // decoder layer; -1: outside the layers
  std::string kind;                       // KindOf(path)
  const SensitivityItem* item = nullptr;  // null without a table
  int bits = 0;                           // 16 for dense
  int group_size = 0;                     // 0 for dense
  std::string encoder;                    // empty for dense
  bool measured = false;                  // kl is known: the table has this format
  double kl = 0;                          // of the chosen option; 0 for dense
  uint64_t bytes = 0;                     // 0 when not known
  // KL of this weight alone at 4 bits, group 64 (or what comes nearest, brought to 4 bits by the factor 4 per bit): the
  // common scale on which weights are compared. Negative when nothing was measured.
  double sensitivity = -1;
};

// One per item of the table, in its order; without a table one per entry of the plan, by layer. Points into `summary`.
std::vector<SummaryItem> SummaryItems(const ConvertSummary& summary);

// The layer number after a "layers", "h" or "blocks" segment of a module path; -1 when there is none.
int BlockOf(std::string_view path);

// What a weight is, without its layer: "q" for "model.layers.3.self_attn.q_proj", "experts up", "router",
// "embed_tokens".
std::string KindOf(std::string_view path);

// Whether the base model was named by a path: said so, or evident from the name.
bool IsLocal(const ConvertSummary& summary);

// The last component when the model was named by a path, else the name itself.
std::string DisplayName(const ConvertSummary& summary);

// Decimal units: "76.3 MB".
std::string HumanBytes(uint64_t bytes);
// Three significant digits: "0.0123", "4.56e-05".
std::string Short(double v);
// "0.3648 ± 0.0060": two digits of the error, the value to the same place. Without an error, Short(mean).
std::string WithError(double mean, double standard_error);
// Decimal with thousands separators: "134,515,008".
std::string Grouped(uint64_t n);
// "1.2 s", "3 min 20 s".
std::string HumanSeconds(double seconds);

}  // namespace optiq

#endif  // OPTIQ_QUANT_SUMMARY_H_
