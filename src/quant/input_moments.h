// What the inputs of a model's linear layers look like on the calibration text: the mean square of every column. That is the diagonal of
// the Hessian of a layer's output error, which the encoder weighs errors with. One forward pass of the float model, block by block.
#ifndef OPTIQ_QUANT_INPUT_MOMENTS_H_
#define OPTIQ_QUANT_INPUT_MOMENTS_H_

#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/progress.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "io/checkpoint.h"
#include "model/decoder_spec.h"
#include "quant/calibration.h"

namespace optiq {

struct InputMoments {
  std::map<std::string, std::vector<float>> mean_squares;  // module path -> [in]; stacked experts: [experts, in]
  // Stacked experts: how many tokens each got. One that got none has the average of the others for its mean squares.
  std::map<std::string, std::vector<int64_t>> expert_tokens;

  // Empty when the module is not known.
  std::span<const float> Of(const std::string& path) const;
  // [in] of one expert, or of the module when expert < 0.
  std::span<const float> OfPart(const std::string& path, int expert, int64_t in) const;
};

// All modules of spec.QuantizableModules(). A tied embedding counts in both of its parts: the inputs of the head, scaled to mean 1, plus
// 1 for the rows looked up. An embedding that is only looked up: all ones.
// With a work_dir the result is kept there, and taken from there when it was made from the same model and tokens.
StatusOr<InputMoments> MeasureInputMoments(const Checkpoint& checkpoint, const DecoderSpec& spec, const TokenBatch& tokens,
                                           const std::string& work_dir, ThreadPool* pool, ProgressSink* progress);

}  // namespace optiq

#endif  // OPTIQ_QUANT_INPUT_MOMENTS_H_
