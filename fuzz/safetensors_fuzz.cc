// Any bytes as a safetensors file: refused, or every tensor can be read.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "io/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::map<std::string, std::string> metadata;
  const auto file = std::as_bytes(std::span(data, size));
  auto tensors = optiq::ParseSafetensors(file, "fuzz.safetensors", &metadata);
  if (!tensors.ok()) {
    OPTIQ_CHECK(optiq::Message(tensors.status()).find('\n') == std::string::npos);
    return 0;
  }
  const std::byte* at = nullptr;
  std::vector<float> row;
  for (const optiq::StoredTensor& t : *tensors) {
    OPTIQ_CHECK(t.bytes.size() == *optiq::TensorBytes(t.dtype, t.shape));
    OPTIQ_CHECK(t.bytes.data() >= file.data() && t.bytes.data() + t.bytes.size() <= file.data() + size);
    OPTIQ_CHECK(at == nullptr || t.bytes.data() == at);  // no hole, no overlap
    at = t.bytes.data() + t.bytes.size();
    if (!optiq::CanReadRows(t.dtype)) continue;
    // An empty tensor may have any number of rows: look at a few.
    const int64_t rows = std::min<int64_t>(t.rows(), 64);
    row.resize(t.cols() == 0 || rows == 0 ? 0 : t.cols());
    if (row.empty()) continue;
    for (int64_t r = 0; r < rows; ++r) optiq::ReadRows(t, r, r + 1, row.data());
  }
  return 0;
}
