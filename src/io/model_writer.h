// The weights of a model directory as mlx-lm writes them: model.safetensors, or model-00001-of-0000N.safetensors above
// the shard size, and always model.safetensors.index.json.
#ifndef OPTIQ_IO_MODEL_WRITER_H_
#define OPTIQ_IO_MODEL_WRITER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "io/safetensors_writer.h"

namespace optiq {

struct Shard {
  std::string file_name;
  std::vector<TensorSpec> tensors;
  uint64_t bytes = 0;  // of data
};

// Cuts `tensors` into shards in their order, as mlx-lm does: a shard takes tensors while its data stay within
// max_bytes; a larger tensor gets a shard of its own. kInvalidArgument for an impossible shape or dtype.
StatusOr<std::vector<Shard>> PlanShards(const std::vector<TensorSpec>& tensors, uint64_t max_bytes);

struct ModelWriterOptions {
  uint64_t max_shard_bytes = 5ull << 30;  // mlx-lm's "5 GB"
  SafetensorsMetadata metadata = {{"format", "mlx"}};
  uint64_t total_parameters = 0;  // for the index: logical parameters, a packed weight counts as what it stands for
};

// Bytes of all safetensors files together, headers included.
StatusOr<uint64_t> ModelFileBytes(const std::vector<TensorSpec>& tensors, const ModelWriterOptions& options = {});

class ModelWriter {
 public:
  // `tensors` in the order they are to lie in the shards (usually block by block). Removes weight files and an index
  // that an earlier run left in `dir`, and checks that there is room for all. Files are opened when their first data
  // come.
  static StatusOr<std::unique_ptr<ModelWriter>> Create(const std::string& dir, const std::vector<TensorSpec>& tensors,
                                                       ModelWriterOptions options = {});

  // Appends to the data of one tensor. A shard is finished and closed when its last byte is there, so writing roughly
  // in the declared order keeps one or two files open.
  Status Append(std::string_view name, std::span<const std::byte> bytes);

  // Checks that nothing is missing, and writes the index.
  Status Finish();

  uint64_t total_bytes() const { return total_bytes_; }  // of data, over all shards
  const std::vector<Shard>& shards() const { return shards_; }

 private:
  ModelWriter() = default;
  Status Open(size_t shard);

  std::string dir_;
  ModelWriterOptions options_;
  std::vector<Shard> shards_;
  std::vector<std::unique_ptr<SafetensorsWriter>> open_;  // one per shard, null before and after
  std::vector<bool> done_;
  std::map<std::string, size_t, std::less<>> shard_of_;
  uint64_t total_bytes_ = 0;
};

}  // namespace optiq

#endif  // OPTIQ_IO_MODEL_WRITER_H_
