// What the sensitivity sweep measured: for each quantizable weight, what each option costs in bytes and in KL.
#ifndef OPTIQ_QUANT_SENSITIVITY_TABLE_H_
#define OPTIQ_QUANT_SENSITIVITY_TABLE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/status.h"
#include "io/checkpoint.h"

namespace optiq {

struct SensitivityOption {
  AffineFormat format;
  std::string encoder = "rtn";  // the encoder whose error was probed
  uint64_t bytes = 0;           // codes, scales and biases on disk
  double kl = 0;                // KL(float || float with only this weight encoded), nats per token, mean over positions
  bool measured = false;  // false: scaled from the item's probe by weight_error (KL is quadratic in the weight error)
  double kl_stderr = 0;   // standard error of kl over positions (measured options)
  // sum_j h_j |dW_ij|^2 / sum_j h_j |W_ij|^2 with h_j the mean square of input column j: the relative error of the
  // output.
  double weight_error = 0;
};

struct SensitivityItem {
  std::string path;            // MLX module path: "model.layers.3.mlp.down_proj"
  std::vector<int64_t> shape;  // [out, in] (stacked experts: [experts, out, in])
  int block = 0;               // decoder layer; -1 embedding (and tied head), num_hidden_layers: untied head
  std::vector<SensitivityOption> options;
  uint64_t dense_bytes = 0;  // bytes when left in the checkpoint's dtype
  // Stacked experts: tokens of the calibration text that each got (0: the text says nothing about it), and each one's share of the
  // output error of the first option.
  std::vector<int64_t> expert_tokens;
  std::vector<double> expert_error_shares;
  uint64_t params() const;
};

struct SensitivityTable {
  std::string base_model;   // what the user named
  std::string fingerprint;  // Checkpoint::Fingerprint of the float model
  std::string metric = "kl_divergence_vs_reference";
  std::string reference = "float";
  std::string calibration_sha256;
  int64_t calibration_sequences = 0, calibration_length = 0;
  std::vector<SensitivityItem> items;  // in model order

  // mlx-optiq's sensitivity.json schema ({base_model, candidate_bits, group_size, metric, layers: [{layer_name,
  // sensitivities:
  // {"4": kl}, param_count, metadata}]}) plus our fields beside it; FromJson reads our own files back exactly (%.17g).
  // Bytes of strings that are not UTF-8 become U+FFFD, so that dump() does not throw.
  Json ToJson() const;
  static StatusOr<SensitivityTable> FromJson(const Json& json, std::string_view what);
};

// Bytes of an affine-quantized matrix on disk: codes + scales + biases (scale_bytes each, per group).
uint64_t AffineBytes(const std::vector<int64_t>& shape, AffineFormat format, int scale_bytes = 2);

}  // namespace optiq

#endif  // OPTIQ_QUANT_SENSITIVITY_TABLE_H_
