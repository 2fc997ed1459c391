#include "io/model_writer.h"

#include <filesystem>

#include "base/checked.h"
#include "base/json.h"
#include "io/safetensors.h"

namespace optiq {
namespace {

namespace fs = std::filesystem;

constexpr const char* kIndexName = "model.safetensors.index.json";

// A reader takes every model*.safetensors of a directory, so one left by an earlier run with other shards must go.
Status RemoveOldWeights(const std::string& dir) {
  std::error_code error;
  std::vector<fs::path> old;
  for (auto it = fs::directory_iterator(dir, error); !error && it != fs::directory_iterator(); it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name.starts_with("model") && (name.ends_with(".safetensors") || name.ends_with(".safetensors.tmp"))) {
      old.push_back(it->path());
    }
  }
  if (error) return NotFound("{}: {}", dir, error.message());
  old.push_back(fs::path(dir) / kIndexName);
  for (const fs::path& path : old) {
    fs::remove(path, error);
    if (error) return FailedPrecondition("{}: cannot remove: {}", path.string(), error.message());
  }
  return OkStatus();
}

}  // namespace

StatusOr<std::vector<Shard>> PlanShards(const std::vector<TensorSpec>& tensors, uint64_t max_bytes) {
  std::vector<Shard> shards;
  for (const TensorSpec& spec : tensors) {
    const std::optional<uint64_t> bytes = TensorBytes(spec.dtype, spec.shape);
    if (!bytes || *bytes > static_cast<uint64_t>(INT64_MAX) / 2) {
      return InvalidArgument("tensor '{}': cannot be written as {} [{}]", PrintableName(spec.name),
                             DTypeName(spec.dtype), fmt::join(spec.shape, ", "));
    }
    if (shards.empty() || *bytes > max_bytes || shards.back().bytes > max_bytes - *bytes) shards.emplace_back();
    shards.back().tensors.push_back(spec);
    shards.back().bytes += *bytes;
  }
  for (size_t i = 0; i < shards.size(); ++i) {
    shards[i].file_name = shards.size() == 1 ? "model.safetensors"
                                             : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
  }
  return shards;
}

StatusOr<uint64_t> ModelFileBytes(const std::vector<TensorSpec>& tensors, const ModelWriterOptions& options) {
  ASSIGN_OR_RETURN(const std::vector<Shard> shards, PlanShards(tensors, options.max_shard_bytes));
  uint64_t sum = 0;
  for (const Shard& shard : shards) {
    ASSIGN_OR_RETURN(const uint64_t bytes, SafetensorsFileBytes(shard.tensors, options.metadata));
    const std::optional<uint64_t> total = CheckedAdd(sum, bytes);
    if (!total) return InvalidArgument("the tensors are too large");
    sum = *total;
  }
  return sum;
}

StatusOr<std::unique_ptr<ModelWriter>> ModelWriter::Create(const std::string& dir,
                                                           const std::vector<TensorSpec>& tensors,
                                                           ModelWriterOptions options) {
  std::unique_ptr<ModelWriter> writer(new ModelWriter());
  writer->dir_ = dir;
  writer->options_ = std::move(options);
  ASSIGN_OR_RETURN(writer->shards_, PlanShards(tensors, writer->options_.max_shard_bytes));
  if (writer->shards_.empty()) return InvalidArgument("{}: no tensors to write", dir);
  for (size_t i = 0; i < writer->shards_.size(); ++i) {
    const Shard& shard = writer->shards_[i];
    for (const TensorSpec& spec : shard.tensors) {
      if (!writer->shard_of_.emplace(spec.name, i).second) {
        return InvalidArgument("{}: tensor '{}': declared twice", dir, PrintableName(spec.name));
      }
    }
    const std::optional<uint64_t> total = CheckedAdd(writer->total_bytes_, shard.bytes);
    if (!total) return InvalidArgument("{}: the tensors are too large", dir);
    writer->total_bytes_ = *total;
  }
  writer->open_.resize(writer->shards_.size());
  writer->done_.resize(writer->shards_.size());
  RETURN_IF_ERROR(RemoveOldWeights(dir));
  RETURN_IF_ERROR(CheckFreeSpace(dir, writer->total_bytes_));
  return writer;
}

Status ModelWriter::Open(size_t shard) {
  if (open_[shard] != nullptr) return OkStatus();
  if (done_[shard]) return InvalidArgument("{}: {} is already complete", dir_, shards_[shard].file_name);
  ASSIGN_OR_RETURN(open_[shard], SafetensorsWriter::Create(dir_ + "/" + shards_[shard].file_name,
                                                           shards_[shard].tensors, options_.metadata));
  return OkStatus();
}

Status ModelWriter::Append(std::string_view name, std::span<const std::byte> bytes) {
  auto it = shard_of_.find(name);
  if (it == shard_of_.end()) return InvalidArgument("{}: tensor '{}': was not declared", dir_, PrintableName(name));
  const size_t shard = it->second;
  if (bytes.empty()) return OkStatus();
  RETURN_IF_ERROR(Open(shard));
  RETURN_IF_ERROR(open_[shard]->Append(name, bytes));
  if (open_[shard]->missing_bytes() > 0) return OkStatus();
  RETURN_IF_ERROR(open_[shard]->Finish());
  open_[shard] = nullptr;
  done_[shard] = true;
  return OkStatus();
}

Status ModelWriter::Finish() {
  for (size_t i = 0; i < shards_.size(); ++i) {
    if (done_[i]) continue;
    RETURN_IF_ERROR(Open(i));  // a shard of empty tensors gets no data
    RETURN_IF_ERROR(open_[i]->Finish());
    open_[i] = nullptr;
    done_[i] = true;
  }
  Json weight_map = Json::object();
  for (const auto& [name, shard] : shard_of_) weight_map[name] = shards_[shard].file_name;
  const OrderedJson index = {
      {"metadata", {{"total_size", total_bytes_}, {"total_parameters", options_.total_parameters}}},
      {"weight_map", weight_map}};
  return AtomicWriteFile(dir_ + "/" + kIndexName,
                         index.dump(4, ' ', false, OrderedJson::error_handler_t::replace) + "\n");
}

}  // namespace optiq
