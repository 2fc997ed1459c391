#include "io/safetensors.h"

#include <algorithm>
#include <cstring>
#include <string_view>

#include "base/checked.h"
#include "base/limits.h"
#include "io/safetensors_header.h"

namespace optiq {
namespace {

std::string_view Text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// What a failed download or a clone without LFS leaves under the name of a weight file.
Status CheckIsNotSomethingElse(std::string_view text, const std::string& path) {
  if (text.starts_with("version https://git-lfs")) {
    return DataLoss("{}: this is a Git LFS pointer, not the file; fetch it with `git lfs pull`", path);
  }
  if (text.starts_with("<!DOCTYPE") || text.starts_with("<!doctype") || text.starts_with("<html")) {
    return DataLoss("{}: this is a web page, not a safetensors file; download it again", path);
  }
  return OkStatus();
}

Status CheckNoDuplicates(const std::vector<HeaderEntry>& entries, const std::string& path) {
  std::vector<std::string_view> names;
  names.reserve(entries.size());
  for (const HeaderEntry& e : entries) names.push_back(e.name);
  std::sort(names.begin(), names.end());
  auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) return DataLoss("{}: tensor '{}': defined twice", path, PrintableName(*twice));
  return OkStatus();
}

// `entries` are sorted by offset: each must begin where the one before ended, and have the size its shape says.
Status CheckCoverage(const std::vector<HeaderEntry>& entries, uint64_t data_size, const std::string& path) {
  uint64_t at = 0;
  for (const HeaderEntry& e : entries) {
    const std::string name = PrintableName(e.name);
    if (e.end < e.begin) return DataLoss("{}: tensor '{}': data_offsets end before they begin", path, name);
    std::optional<uint64_t> bytes = TensorBytes(e.dtype, e.shape);
    if (!bytes) return DataLoss("{}: tensor '{}': shape [{}] overflows", path, name, fmt::join(e.shape, ", "));
    if (*bytes != e.end - e.begin) {
      return DataLoss("{}: tensor '{}': shape [{}] of {} takes {} bytes, but data_offsets span {}", path, name,
                      fmt::join(e.shape, ", "), DTypeName(e.dtype), *bytes, e.end - e.begin);
    }
    if (e.begin < at) return DataLoss("{}: tensor '{}': its data overlap those of another tensor", path, name);
    if (e.begin > at) return DataLoss("{}: tensor '{}': {} unused bytes before its data", path, name, e.begin - at);
    if (e.end > data_size) {
      return DataLoss("{}: tensor '{}': ends {} bytes past the end of the file; is the download complete?", path, name,
                      e.end - data_size);
    }
    at = e.end;
  }
  if (at != data_size) return DataLoss("{}: {} bytes after the last tensor", path, data_size - at);
  return OkStatus();
}

}  // namespace

std::string PrintableName(std::string_view name) {
  std::string out(name.substr(0, 80));
  for (char& c : out) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  if (name.size() > out.size()) out += "...";
  return out;
}

StatusOr<std::vector<StoredTensor>> ParseSafetensors(std::span<const std::byte> file, const std::string& path,
                                                     std::map<std::string, std::string>* metadata) {
  RETURN_IF_ERROR(CheckIsNotSomethingElse(Text(file.first(std::min<size_t>(file.size(), 64))), path));
  if (file.size() < 8) return DataLoss("{}: {} bytes, too short for a safetensors file", path, file.size());
  uint64_t header_size = 0;
  for (int i = 7; i >= 0; --i) header_size = header_size << 8 | std::to_integer<uint64_t>(file[i]);
  if (header_size > limits::kSafetensorsHeaderBytes) {
    return DataLoss("{}: header of {} bytes, more than the limit of {}; is this a safetensors file?", path, header_size,
                    limits::kSafetensorsHeaderBytes);
  }
  if (header_size > file.size() - 8) {
    return DataLoss("{}: header of {} bytes in a file of {}; is the download complete?", path, header_size,
                    file.size());
  }
  StatusOr<SafetensorsHeader> parsed = ParseSafetensorsHeader(Text(file.subspan(8, header_size)));
  if (!parsed.ok()) return Annotate(parsed.status(), path);
  std::vector<HeaderEntry>& entries = parsed->entries;
  RETURN_IF_ERROR(CheckNoDuplicates(entries, path));
  // Empty tensors before others at the same offset, so that they do not look like overlaps.
  std::sort(entries.begin(), entries.end(), [](const HeaderEntry& a, const HeaderEntry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  const std::span<const std::byte> data = file.subspan(8 + header_size);
  RETURN_IF_ERROR(CheckCoverage(entries, data.size(), path));

  std::vector<StoredTensor> tensors;
  tensors.reserve(entries.size());
  for (HeaderEntry& e : entries) {
    StoredTensor& t = tensors.emplace_back();
    t.name = std::move(e.name);
    t.dtype = e.dtype;
    t.shape = std::move(e.shape);
    t.bytes = data.subspan(e.begin, e.end - e.begin);
  }
  if (metadata != nullptr) *metadata = std::move(parsed->metadata);
  return tensors;
}

}  // namespace optiq
