// From a model to its sensitivity table: the calibration tokens, what they say about the inputs of every layer, the sweep.
#ifndef OPTIQ_QUANT_MEASURE_H_
#define OPTIQ_QUANT_MEASURE_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/progress.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "io/checkpoint.h"
#include "model/decoder_spec.h"
#include "quant/convert.h"
#include "quant/input_moments.h"
#include "quant/sensitivity_table.h"

namespace optiq {

struct FloatModel {
  std::unique_ptr<Checkpoint> checkpoint;
  DecoderSpec spec;
};
StatusOr<FloatModel> OpenFloatModel(const std::string& path);

// The calibration text as the model reads it, with its own tokenizer and chat template.
StatusOr<TokenBatch> LoadTokens(const Checkpoint& checkpoint, const CalibrationOptions& options);

struct Measurement {
  SensitivityTable table;
  TokenBatch tokens;
  std::optional<InputMoments> moments;  // absent when a finished table was found in work_dir
  SweepStats stats;
};

// Keeps its state, and the finished table, in work_dir (empty: nowhere), so that a killed run goes on.
StatusOr<Measurement> MeasureModel(const FloatModel& model, const ConvertOptions& options, const std::string& work_dir,
                                   ThreadPool* pool, ProgressSink* progress);

}  // namespace optiq

#endif  // OPTIQ_QUANT_MEASURE_H_
