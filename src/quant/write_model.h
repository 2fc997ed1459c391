// Executes a plan: writes the weights and config.json that stock mlx_lm.load reads.
#ifndef OPTIQ_QUANT_WRITE_MODEL_H_
#define OPTIQ_QUANT_WRITE_MODEL_H_

#include <string>
#include <vector>

#include "base/progress.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "io/checkpoint.h"
#include "model/decoder_spec.h"
#include "quant/input_moments.h"
#include "quant/plan.h"

namespace optiq {

// What a plan costs on disk.
struct PlanSize {
  uint64_t quantizable_bytes = 0;  // weights of the spec's modules: codes, scales, biases, dense ones in the model's dtype
  uint64_t quantizable_params = 0;
  uint64_t other_bytes = 0;        // norms, linear biases
  uint64_t other_params = 0;
  uint64_t header_bytes = 0;       // of the safetensors files
  uint64_t file_bytes() const { return quantizable_bytes + other_bytes + header_bytes; }
  double bpw() const { return quantizable_params > 0 ? 8.0 * quantizable_bytes / quantizable_params : 0; }
};
StatusOr<PlanSize> SizeOfPlan(const Checkpoint& checkpoint, const DecoderSpec& spec, const Plan& plan);

// The dtype of dense tensors and scales: the embedding's (bf16 for GGUF).
StatusOr<DType> ModelDType(const Checkpoint& checkpoint, const DecoderSpec& spec);

// Every path of the plan must be a module of the spec with a group size that divides its inputs: kInvalidArgument names the path.
Status CheckPlan(const DecoderSpec& spec, const Plan& plan);

// Writes model*.safetensors, the index and config.json into `dir`. Tensors the architecture does not use are left out; their names are
// appended to `dropped`. One matrix is in memory at a time.
Status WriteModel(const Checkpoint& checkpoint, const DecoderSpec& spec, const Plan& plan, const InputMoments& moments,
                  const std::string& dir, ThreadPool* pool, ProgressSink* progress, std::vector<std::string>* dropped);

// Reads the written directory back and compares every tensor with the plan and with a fresh encoding, byte by byte.
Status VerifyModel(const Checkpoint& checkpoint, const DecoderSpec& spec, const Plan& plan, const InputMoments& moments,
                   const Checkpoint& written, ThreadPool* pool, ProgressSink* progress);

// config.json of the output: the source's fields, spelled as mlx-lm reads them, and "quantization" with an entry per module.
Json OutputConfig(const Json& source, const DecoderSpec& spec, const Plan& plan, DType dtype);

}  // namespace optiq

#endif  // OPTIQ_QUANT_WRITE_MODEL_H_
