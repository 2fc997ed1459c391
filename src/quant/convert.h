// The whole conversion: measure, decide, write, verify, compare. Each step leaves a file for the next.
#ifndef OPTIQ_QUANT_CONVERT_H_
#define OPTIQ_QUANT_CONVERT_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/progress.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "quant/calibration.h"
#include "quant/kv_recommend.h"
#include "quant/plan.h"
#include "quant/summary.h"
#include "quant/sweep.h"

namespace optiq {

struct ConvertOptions {
  std::string model;   // directory or GGUF file
  std::string output;  // directory to make; empty only with dry_run

  // The budget: exactly one of these is set, unless a plan is given.
  double target_bpw = 0;        // bits per weight over the quantizable weights, scales and biases included
  uint64_t target_bytes = 0;    // of all safetensors files together
  std::string match_bytes;      // a directory whose safetensors files' total is the budget

  std::vector<int> candidate_bits = {4, 8};
  std::vector<int> group_sizes = {64};  // the first is the default format's
  std::vector<std::pair<std::string, int>> overrides;
  std::string encoder = "search";  // one of kEncoders (encode.h)
  bool probe_all = false;
  Products products = Products::kBF16;

  std::string plan_file;         // use this plan: no sweep, no allocation
  std::string sensitivity_file;  // use these measurements: no sweep
  std::string save_plan;         // also write the plan here

  CalibrationOptions calibration;
  CalibrationOptions heldout = {.sequences = 16, .length = 256, .heldout = true};
  bool evaluate = true;
  bool kv_config = true;              // measure the written model's cache and add kv_config.json
  KvRecommendOptions kv = {.target_bits = 4.5, .candidate_bits = {3, 4, 5, 6, 8}, .calibration = {.sequences = 1, .length = 1024},
                           .heldout = {.sequences = 1, .length = 1024, .heldout = true}, .score_tokens = 128};
  std::vector<AffineFormat> compare;  // further uniform formats to show beside the result
  bool force_plan = false;            // ship the plan even when a uniform format beats it
  bool dry_run = false;               // stop before writing
  bool overwrite = false;
  bool resume = true;
  bool keep_towers = false;           // write image and sound towers to a file of their own, as they are (bf16)
  uint64_t memory_bytes = 2ull << 30;

  std::string command_line, date, version;  // for the records
};

struct ConvertResult {
  ConvertSummary summary;
  SweepStats sweep;
};

// Errors leave nothing under the output's name; a killed run goes on from <output>.partial.
StatusOr<ConvertResult> Convert(const ConvertOptions& options, ThreadPool* pool, ProgressSink* progress);

// A plan that gives every module of the model one format; modules whose inputs the group does not divide stay dense.
Plan UniformPlan(const DecoderSpec& spec, AffineFormat format);

}  // namespace optiq

#endif  // OPTIQ_QUANT_CONVERT_H_
