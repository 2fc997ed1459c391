#include "io/safetensors_writer.h"

#include <algorithm>
#include <numeric>

#include "base/checked.h"
#include "base/json.h"
#include "base/limits.h"
#include "io/safetensors.h"

namespace optiq {
namespace {

std::string Quoted(const std::string& text) { return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace); }

StatusOr<uint64_t> SizeOf(const TensorSpec& spec, const std::string& path) {
  const std::optional<uint64_t> bytes = TensorBytes(spec.dtype, spec.shape);
  if (spec.name.empty() || spec.name.size() > limits::kTensorNameBytes || spec.name == "__metadata__" ||
      IsBlock(spec.dtype) || !bytes) {
    return InvalidArgument("{}: tensor '{}': cannot be written as {} [{}]", path, PrintableName(spec.name),
                           DTypeName(spec.dtype), fmt::join(spec.shape, ", "));
  }
  return *bytes;
}

// The header, and where each tensor lies behind it.
struct Layout {
  std::string header;
  std::vector<std::pair<std::string, std::pair<uint64_t, uint64_t>>> offsets;  // name -> [begin, end) of the data
  uint64_t data_bytes = 0;
};

StatusOr<Layout> LayOut(const std::string& path, const std::vector<TensorSpec>& tensors, const SafetensorsMetadata& metadata) {
  std::vector<size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return DTypeBlockBytes(tensors[a].dtype) > DTypeBlockBytes(tensors[b].dtype);
  });
  Layout out;
  std::string& header = out.header;
  header = "{";
  if (!metadata.empty()) {
    std::vector<std::string> fields;
    for (const auto& [key, value] : metadata) fields.push_back(Quoted(key) + ":" + Quoted(value));
    header += fmt::format("\"__metadata__\":{{{}}}", fmt::join(fields, ","));
  }
  for (size_t i : order) {
    const TensorSpec& spec = tensors[i];
    ASSIGN_OR_RETURN(const uint64_t bytes, SizeOf(spec, path));
    const uint64_t at = out.data_bytes;
    const std::optional<uint64_t> end = CheckedAdd(at, bytes);
    if (!end || *end > static_cast<uint64_t>(INT64_MAX) / 2)
      return InvalidArgument("{}: the tensors are too large", path);
    out.offsets.push_back({spec.name, {at, *end}});
    header +=
        fmt::format("{}{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}", header.size() > 1 ? "," : "",
                    Quoted(spec.name), DTypeName(spec.dtype), fmt::join(spec.shape, ","), at, *end);
    out.data_bytes = *end;
  }
  header += "}";
  header.resize(RoundUp(static_cast<int64_t>(header.size()), 8), ' ');
  if (header.size() > limits::kSafetensorsHeaderBytes) {
    return InvalidArgument("{}: header of {} bytes, more than the format's limit of {}", path, header.size(),
                           limits::kSafetensorsHeaderBytes);
  }
  return out;
}

}  // namespace

StatusOr<uint64_t> SafetensorsFileBytes(const std::vector<TensorSpec>& tensors, const SafetensorsMetadata& metadata) {
  ASSIGN_OR_RETURN(const Layout layout, LayOut("the model", tensors, metadata));
  return 8 + layout.header.size() + layout.data_bytes;
}

StatusOr<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::Create(const std::string& path,
                                                                       const std::vector<TensorSpec>& tensors,
                                                                       const SafetensorsMetadata& metadata) {
  ASSIGN_OR_RETURN(const Layout layout, LayOut(path, tensors, metadata));
  const std::string& header = layout.header;
  const uint64_t at = layout.data_bytes;
  std::unique_ptr<SafetensorsWriter> writer(new SafetensorsWriter());
  for (const auto& [name, range] : layout.offsets) {
    if (!writer->entries_.emplace(name, Entry{range.first, range.second}).second) {
      return InvalidArgument("{}: tensor '{}': declared twice", path, PrintableName(name));
    }
  }
  const uint64_t data_begin = 8 + header.size();
  for (auto& [name, entry] : writer->entries_) {
    entry.next += data_begin;
    entry.end += data_begin;
  }
  writer->path_ = path;
  writer->missing_bytes_ = at;
  RETURN_IF_ERROR(CheckFreeSpace(ParentDirectory(path), data_begin + at));
  ASSIGN_OR_RETURN(writer->file_, OutputFile::Create(path, data_begin + at));
  std::string prefix;
  for (int i = 0; i < 8; ++i) prefix.push_back(static_cast<char>(header.size() >> (8 * i) & 0xff));
  prefix += header;
  RETURN_IF_ERROR(writer->file_->WriteAt(0, std::as_bytes(std::span(prefix.data(), prefix.size()))));
  return writer;
}

Status SafetensorsWriter::Append(std::string_view name, std::span<const std::byte> bytes) {
  if (file_ == nullptr) return FailedPrecondition("{}: already finished", path_);
  auto it = entries_.find(std::string(name));
  if (it == entries_.end()) return InvalidArgument("{}: tensor '{}': was not declared", path_, PrintableName(name));
  Entry& entry = it->second;
  if (bytes.size() > entry.end - entry.next) {
    return InvalidArgument("{}: tensor '{}': {} bytes more than its shape has", path_, PrintableName(name),
                           bytes.size() - (entry.end - entry.next));
  }
  RETURN_IF_ERROR(file_->WriteAt(entry.next, bytes));
  entry.next += bytes.size();
  missing_bytes_ -= bytes.size();
  return OkStatus();
}

Status SafetensorsWriter::Finish() {
  if (file_ == nullptr) return FailedPrecondition("{}: already finished", path_);
  for (const auto& [name, entry] : entries_) {
    if (entry.next != entry.end) {
      return FailedPrecondition("{}: tensor '{}': {} bytes are missing", path_, PrintableName(name),
                                entry.end - entry.next);
    }
  }
  RETURN_IF_ERROR(file_->Commit());
  file_ = nullptr;
  return OkStatus();
}

Status WriteSafetensors(const std::string& path, const std::vector<TensorData>& tensors,
                        const SafetensorsMetadata& metadata) {
  std::vector<TensorSpec> specs;
  for (const TensorData& t : tensors) specs.push_back(t.spec);
  ASSIGN_OR_RETURN(auto writer, SafetensorsWriter::Create(path, specs, metadata));
  for (const TensorData& t : tensors) RETURN_IF_ERROR(writer->Append(t.spec.name, t.bytes));
  return writer->Finish();
}

}  // namespace optiq
