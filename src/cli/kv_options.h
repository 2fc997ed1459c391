// The options that choose the KV cache, shared by generate, chat and logits, and the text that says what is in force.
#ifndef OPTIQ_CLI_KV_OPTIONS_H_
#define OPTIQ_CLI_KV_OPTIONS_H_

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/status.h"
#include "io/checkpoint.h"
#include "kv/kv_plan.h"
#include "model/decoder_spec.h"

namespace optiq {

struct KvOptions {
  std::optional<int> bits, group_size;
  std::optional<int64_t> start;
  std::string config;  // a file, or "auto": the model directory's own

  bool any() const { return bits || group_size || start || !config.empty(); }
  void AddTo(CLI::App* app, const std::string& default_text);
  // The plan asked for, or `fallback` bits everywhere. An option that would have no effect, or cannot be applied to this model, is
  // an error.
  StatusOr<KvPlan> ToPlan(const Checkpoint& checkpoint, const DecoderSpec& spec, int fallback) const;
};

// One line per kind of layer and format, with bytes per token, and the whole at `context` positions beside bf16.
std::vector<std::string> KvPlanText(const KvPlan& plan, const KvGeometry& geometry, int64_t context);
Json KvPlanJson(const KvPlan& plan, const KvGeometry& geometry, int64_t context);

// "4-bit", "bf16", "f32".
std::string KvFormatName(const KvFormat& format);

}  // namespace optiq

#endif  // OPTIQ_CLI_KV_OPTIONS_H_
