// Encoding whole modules: a matrix, or the matrices of all experts of a layer's projection.
#ifndef OPTIQ_QUANT_ENCODE_MODULE_H_
#define OPTIQ_QUANT_ENCODE_MODULE_H_

#include <deque>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/thread_pool.h"
#include "model/decoder_spec.h"
#include "model/weights.h"
#include "quant/encode.h"
#include "quant/input_moments.h"
#include "quant/plan.h"

namespace optiq {

// The formats a module may have: `candidates` whose groups divide its inputs. Routers have one, 8 bits as mlx-lm gives
// them, or none when their inputs do not divide: a wrong expert costs more than their few weights.
std::vector<AffineFormat> CandidatesFor(const DecoderSpec::Module& module, const std::vector<AffineFormat>& candidates);

// Encoded part by part: one per expert, else one.
using EncodedModule = std::vector<AffineMatrix>;
std::vector<WeightMatrix> ViewsOf(const EncodedModule& encoded, const std::string& path);

StatusOr<EncodedModule> EncodeModule(std::span<const WeightMatrix> parts, AffineFormat format,
                                     const std::string& encoder, const InputMoments& moments, ThreadPool* pool);

// The relative output error of all parts together, and each part's share of it (sums to 1; empty when there is no
// error).
struct ModuleError {
  double relative = 0;
  std::vector<double> shares;
};
ModuleError ErrorOfModule(std::span<const WeightMatrix> parts, const EncodedModule& encoded,
                          const InputMoments& moments, ThreadPool* pool);

// Calls fn(rows, expert) for slices of the parts of at most max_weights weights (at least a row), in order;
// expert is -1 when the module is not a stack. Slices encode independently: groups lie within rows.
Status ForEachSlice(std::span<const WeightMatrix> parts, bool stacked, int64_t max_weights,
                    const std::function<Status(const WeightMatrix& rows, int expert)>& fn);

// Replaces the matrices of a block that the plan quantizes by encoded ones, which live in *owned.
Status EncodeBlock(const Plan& plan, const InputMoments& moments, ThreadPool* pool, BlockWeights* weights,
                   std::deque<AffineMatrix>* owned);

// Some rows of a matrix, copied; `rows` holds, for every id, its row in the copy. For embedding tables that are too
// large to encode when only the rows of some tokens matter.
struct GatheredRows {
  std::vector<std::byte> bytes[3];
  WeightMatrix matrix;  // views on bytes
  std::vector<int32_t> rows;
};
GatheredRows GatherRows(const WeightMatrix& table, std::span<const int32_t> ids);

}  // namespace optiq

#endif  // OPTIQ_QUANT_ENCODE_MODULE_H_
