// Synthetic sensitivity tables for tests: the shapes of SmolLM2-135M and errors that follow the quadratic law.
#ifndef OPTIQ_QUANT_TEST_TABLE_H_
#define OPTIQ_QUANT_TEST_TABLE_H_

#include <cmath>
#include <random>
#include <string>

#include "quant/sensitivity_table.h"

namespace optiq {

// 30 layers x 7 projections and the tied embedding; bits {2,3,4,5,6,8} at groups {32,64,128}, 4-bit g64 measured.
inline SensitivityTable SmolTable(int layers = 30, uint32_t seed = 1) {
  std::mt19937 rng(seed);
  struct Kind {
    const char* name;
    int64_t out, in;
    double median;  // KL at 4 bits, group 64 (mean figures of the real model)
  };
  const Kind kinds[] = {{"self_attn.q_proj", 576, 576, 4.6e-4}, {"self_attn.k_proj", 192, 576, 3.1e-4},
                        {"self_attn.v_proj", 192, 576, 2.2e-3}, {"self_attn.o_proj", 576, 576, 4.3e-4},
                        {"mlp.gate_proj", 1536, 576, 6.6e-4},   {"mlp.up_proj", 1536, 576, 1.1e-3},
                        {"mlp.down_proj", 576, 1536, 1.0e-3}};
  SensitivityTable table;
  table.base_model = "SmolLM2-135M-Instruct";
  table.fingerprint = "00ff";
  table.calibration_sha256 = std::string(64, 'a');
  table.calibration_sequences = 8;
  table.calibration_length = 256;
  auto add = [&](std::string path, int block, int64_t out, int64_t in, double kl4) {
    SensitivityItem item;
    item.path = std::move(path);
    item.shape = {out, in};
    item.block = block;
    item.dense_bytes = static_cast<uint64_t>(out * in * 2);
    for (int bits : {2, 3, 4, 5, 6, 8}) {
      for (int group : {32, 64, 128}) {
        if (in % group != 0) continue;
        SensitivityOption o;
        o.format = {bits, group};
        o.bytes = AffineBytes(item.shape, o.format);
        o.kl = kl4 * std::pow(4.0, 4 - bits) * std::pow(group / 64.0, 0.4);
        o.measured = bits == 4 && group == 64;
        o.kl_stderr = o.measured ? o.kl * 0.05 : 0;
        o.weight_error = 0.009 * std::pow(4.0, 4 - bits);
        item.options.push_back(o);
      }
    }
    table.items.push_back(std::move(item));
  };
  add("model.embed_tokens", -1, 49152, 576, 0.096);
  std::lognormal_distribution<double> spread(0.0, 0.5);
  for (int layer = 0; layer < layers; ++layer) {
    for (const Kind& kind : kinds) {
      double kl = kind.median * spread(rng);
      if (layer == 11 && kind.in == 1536) kl = 0.0447;  // one outlier, as measured
      if (layer == 29 && kind.in == 1536) kl = 0.0174;
      add("model.layers." + std::to_string(layer) + "." + kind.name, layer, kind.out, kind.in, kl);
    }
  }
  return table;
}

}  // namespace optiq

#endif  // OPTIQ_QUANT_TEST_TABLE_H_
