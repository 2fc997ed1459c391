// The named tensors of a model and the text files beside them, whatever they are stored in: a directory in the Hugging Face or
// MLX layout (one or many safetensors shards) or a GGUF file. Nothing is copied or converted until asked.
#ifndef OPTIQ_IO_CHECKPOINT_H_
#define OPTIQ_IO_CHECKPOINT_H_

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/json.h"
#include "base/status.h"
#include "io/mapped_file.h"
#include "io/stored_tensor.h"

namespace optiq {

// How one module of an MLX-layout model is quantized (affine mode).
struct AffineFormat {
  int bits = 4;          // 2 3 4 5 6 8
  int group_size = 64;   // 32 64 128
  bool operator==(const AffineFormat&) const = default;
};

enum class CheckpointLayout { kHuggingFace, kMlx, kGguf };

class Checkpoint {
 public:
  // Opens a model directory (config.json + *.safetensors) or a .gguf file. Reads headers only; every size, offset, shard and
  // name is checked. Errors name the file and the tensor.
  static StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& path);

  const std::string& path() const { return path_; }
  CheckpointLayout layout() const { return layout_; }

  // config.json; rebuilt from the metadata for GGUF.
  const Json& config() const { return config_; }

  // All tensors, sorted by name.
  const std::vector<StoredTensor>& tensors() const { return tensors_; }
  const StoredTensor* Find(std::string_view name) const;
  // Find or a kNotFound status that names the model and the tensor.
  StatusOr<const StoredTensor*> Require(std::string_view name) const;

  // The quantization of a module path ("model.layers.0.mlp.up_proj"), by mlx-lm's rule: the per-path entry of
  // config["quantization"] if there is one (nullopt when it is false), else the shapes of weight and scales; nullopt when the
  // module has no scales. The shapes alone give bits * group_size; `in_dim` (columns of the float weight, 0 = not known)
  // separates the two as mlx-lm does, without it the section's own bits and group_size do. Errors when entry and shapes
  // disagree, or mode is not affine.
  StatusOr<std::optional<AffineFormat>> QuantizationOf(std::string_view module_path, int64_t in_dim = 0) const;

  // Text files of the model: tokenizer.json, tokenizer_config.json, chat_template.jinja, generation_config.json, ... Those that
  // mlx-lm copies beside a converted model. For GGUF they are rebuilt from the metadata.
  std::vector<std::string> TextFiles() const;
  bool HasTextFile(const std::string& name) const;
  StatusOr<std::string> ReadTextFile(const std::string& name) const;

  // Asks the kernel to read a tensor ahead / to drop its pages from this process (they stay in the page cache).
  void Prefetch(const StoredTensor& tensor) const;
  void Release(const StoredTensor& tensor) const;

  // Sum of the sizes of the weight files in bytes.
  uint64_t file_bytes() const { return file_bytes_; }
  // The weight files' paths.
  const std::vector<std::string>& files() const { return files_; }

  // sha256 over file names, sizes, headers, config.json and tokenizer.json (not over all weight bytes): names the input of a
  // resumable job.
  StatusOr<std::string> Fingerprint() const;

 private:
  friend StatusOr<std::unique_ptr<Checkpoint>> OpenModelDirectory(const std::string& path);
  friend StatusOr<std::unique_ptr<Checkpoint>> OpenGgufModel(const std::string& path);
  Checkpoint() = default;
  Status Index();  // sorts tensors_, fills by_name_, refuses duplicates

  std::string path_;
  CheckpointLayout layout_ = CheckpointLayout::kHuggingFace;
  Json config_;
  std::vector<StoredTensor> tensors_;
  std::unordered_map<std::string_view, size_t> by_name_;
  std::vector<std::unique_ptr<MappedFile>> maps_;
  std::map<std::string, std::string> built_text_;  // GGUF: file name -> contents
  std::vector<std::string> text_files_;            // directory: names present
  std::vector<std::string> files_;
  std::string header_digest_input_;
  uint64_t file_bytes_ = 0;
};

// The two ways to open; Checkpoint::Open picks one.
StatusOr<std::unique_ptr<Checkpoint>> OpenModelDirectory(const std::string& path);  // model_directory.cc
StatusOr<std::unique_ptr<Checkpoint>> OpenGgufModel(const std::string& path);       // gguf_model.cc

}  // namespace optiq

#endif  // OPTIQ_IO_CHECKPOINT_H_
