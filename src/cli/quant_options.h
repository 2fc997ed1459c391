// Options that convert and sensitivity share.
#ifndef OPTIQ_CLI_QUANT_OPTIONS_H_
#define OPTIQ_CLI_QUANT_OPTIONS_H_

#include <memory>
#include <string>
#include <vector>

#include "cli/command.h"
#include "quant/convert.h"

namespace optiq {

struct QuantFlags {
  std::string candidate_bits = "4,8", group_size = "64", products = "bf16", memory = "2GB";
  std::vector<std::string> overrides;  // REGEX=BITS
};

// Adds --candidate-bits, --group-size, --calibration*, --probe-all, --products, --memory.
void AddQuantOptions(CLI::App* sub, ConvertOptions* options, QuantFlags* flags);

// Parses the flags into options; errors name the flag.
Status ApplyQuantFlags(const QuantFlags& flags, ConvertOptions* options);

// "4,8": numbers without repetitions.
StatusOr<std::vector<int>> ParseInts(const std::string& text, const std::string& flag);

// "4.0GB", "76.3MB", "900000000" in decimal units.
StatusOr<uint64_t> ParseBytes(const std::string& text, const std::string& flag);

// Tables for people: the most sensitive weights, and bits by kind of weight.
std::string SensitivityText(const ConvertSummary& summary, int rows);
std::string AllocationText(const ConvertSummary& summary);

}  // namespace optiq

#endif  // OPTIQ_CLI_QUANT_OPTIONS_H_
