// Every limit on untrusted input, in one place. docs/limits.md lists them for users.
#ifndef OPTIQ_BASE_LIMITS_H_
#define OPTIQ_BASE_LIMITS_H_

#include <cstddef>
#include <cstdint>

namespace optiq::limits {

inline constexpr uint64_t kSafetensorsHeaderBytes = 100'000'000;  // as the Rust crate and mlx
inline constexpr size_t kTensorsPerFile = 1'000'000;
inline constexpr size_t kTensorNameBytes = 1024;
inline constexpr size_t kTensorRank = 8;
inline constexpr uint64_t kConfigBytes = 64ull << 20;       // config.json, index, generation_config, tokenizer_config
inline constexpr uint64_t kTokenizerJsonBytes = 256ull << 20;
inline constexpr uint64_t kChatTemplateBytes = 1ull << 20;
inline constexpr int kJsonDepth = 64;
inline constexpr size_t kJsonValues = 4'000'000;
inline constexpr size_t kShards = 10'000;

inline constexpr uint64_t kGgufStringBytes = 16ull << 20;
inline constexpr uint64_t kGgufArrayItems = 16'000'000;
inline constexpr uint64_t kGgufKeys = 65'536;

// Model dimensions: far above any real model, small enough that products of three fit 64 bits.
inline constexpr int64_t kLayers = 4096;
inline constexpr int64_t kWidth = 1 << 22;        // hidden, intermediate
inline constexpr int64_t kHeads = 1 << 14;
inline constexpr int64_t kHeadDim = 1 << 14;
inline constexpr int64_t kExperts = 1 << 14;
inline constexpr int64_t kVocab = 1 << 24;
inline constexpr int64_t kContext = 1 << 28;

}  // namespace optiq::limits

#endif  // OPTIQ_BASE_LIMITS_H_
