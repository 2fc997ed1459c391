// The sensitivity sweep: KL(float model || float model with one weight encoded), for every quantizable weight, from one pass over the
// checkpoint. Probes of a block branch off the reference at that block and run on as streams of differences (delta_flow.h); every
// block of the checkpoint is read once per wave, and all probes fit one wave when memory allows.
#ifndef OPTIQ_QUANT_SWEEP_H_
#define OPTIQ_QUANT_SWEEP_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/progress.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "io/checkpoint.h"
#include "model/decoder_spec.h"
#include "ops/linear.h"
#include "quant/calibration.h"
#include "quant/input_moments.h"
#include "quant/sensitivity_table.h"

namespace optiq {

struct SweepOptions {
  std::vector<AffineFormat> candidates;  // the options of every weight (those whose group_size divides its inputs)
  std::string encoder = "search";
  // Measure every option. Otherwise each bit width up to 4 (or the smallest, if all are wider) is probed at one group size, and the
  // other options are scaled from the nearest probe by weight_error.
  bool probe_all = false;
  Products products = Products::kBF16;
  uint64_t memory_bytes = 2ull << 30;    // for streams, tape and temporaries
  std::string work_dir;                  // keeps state for resuming; empty: none
  double save_seconds = 30;              // least time between two saves
  ProgressSink* progress = nullptr;
  int stop_after_block = -1;             // tests: give up (kCancelled) after this block of the first wave, with state saved
};

struct SweepStats {
  double seconds = 0;      // this run
  double gemm_flops = 0;   // matrix products of this run
  int64_t probes = 0;
  int waves = 0;
  bool resumed = false;
};

StatusOr<SensitivityTable> MeasureSensitivity(const Checkpoint& checkpoint, const DecoderSpec& spec,
                                              const TokenBatch& tokens, const InputMoments& moments,
                                              const SweepOptions& options, ThreadPool* pool, SweepStats* stats);

// Which options of `formats` are measured directly, by the rule at SweepOptions::probe_all.
std::vector<bool> ProbedOptions(const std::vector<AffineFormat>& formats, bool probe_all);

}  // namespace optiq

#endif  // OPTIQ_QUANT_SWEEP_H_
