// What a sweep keeps on disk between blocks, so that a killed run goes on where it was and ends with the same bytes.
#ifndef OPTIQ_QUANT_SWEEP_STATE_H_
#define OPTIQ_QUANT_SWEEP_STATE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/aligned.h"
#include "base/status.h"
#include "model/blockwise.h"
#include "model/decoder_spec.h"

namespace optiq {

// One option of one item to be measured.
struct Probe {
  int item = 0;
  int option = 0;
};

struct ProbeResult {
  bool done = false;
  double kl = 0, kl_stderr = 0;
};

struct SweepState {
  std::string key;      // names model, tokens, options; a state with another key is not used
  int wave = 0;
  int next_block = -1;  // the block to run next; -1: the embedding
  Activations reference;       // input of next_block
  Activations next_reference;  // input of the next wave's first block, once known
  bool has_next_reference = false;
  // Streams alive in this wave: probe index and differences.
  std::vector<int> stream_probe;
  std::vector<Activations> streams;
  std::vector<ProbeResult> results;              // per probe
  std::vector<std::vector<double>> weight_error;  // per item, per option; empty until its block has run
  std::vector<std::vector<double>> expert_shares;  // per item: each expert's share of the error of its first option
};

Status SaveSweepState(const SweepState& state, int64_t tokens, const DecoderSpec& spec, const std::string& path);

// kNotFound when there is none or it has another key; kDataLoss when it is damaged.
Status LoadSweepState(const std::string& path, const std::string& key, int64_t tokens, const DecoderSpec& spec,
                      SweepState* state);

}  // namespace optiq

#endif  // OPTIQ_QUANT_SWEEP_STATE_H_
