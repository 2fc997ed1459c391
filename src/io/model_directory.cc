// Opening a model directory in the Hugging Face or MLX layout.
#include <algorithm>
#include <filesystem>
#include <set>
#include <unordered_set>

#include "base/file.h"
#include "base/limits.h"
#include "base/sha256.h"
#include "io/checkpoint.h"
#include "io/quantization_config.h"
#include "io/safetensors.h"
#include "io/shard_index.h"

namespace optiq {
namespace {

namespace fs = std::filesystem;

constexpr const char* kIndexName = "model.safetensors.index.json";

// Beside *.jinja: what tokenizers, generation and image processors of the Hugging Face layout are described by.
constexpr const char* kTextFileNames[] = {"added_tokens.json",
                                          "chat_template.json",
                                          "chat_template.jinja",
                                          "generation_config.json",
                                          "merges.txt",
                                          "preprocessor_config.json",
                                          "processor_config.json",
                                          "special_tokens_map.json",
                                          "spiece.model",
                                          "tokenizer.json",
                                          "tokenizer.model",
                                          "tokenizer_config.json",
                                          "video_preprocessor_config.json",
                                          "vocab.json",
                                          "vocab.txt"};

// Anything under this name, also a symlink that leads nowhere.
bool Exists(const std::string& path) {
  std::error_code error;
  return fs::exists(fs::symlink_status(path, error));
}

struct WeightFiles {
  std::vector<std::string> names;  // sorted
  std::optional<ShardIndex> index;
};

// The files that mlx-lm would glob: model*.safetensors.
StatusOr<std::vector<std::string>> GlobWeights(const std::string& dir) {
  std::vector<std::string> names;
  std::error_code error;
  for (auto it = fs::directory_iterator(dir, error); !error && it != fs::directory_iterator(); it.increment(error)) {
    std::string name = it->path().filename().string();
    if (name.starts_with("model") && name.ends_with(".safetensors")) names.push_back(std::move(name));
    if (names.size() > limits::kShards) return ResourceExhausted("{}: more than {} weight files", dir, limits::kShards);
  }
  if (error) return InvalidArgument("{}: cannot list the directory: {}", dir, error.message());
  std::sort(names.begin(), names.end());
  return names;
}

// "model-00002-of-00005.safetensors" -> 5; nullopt for other names.
std::optional<size_t> ShardCount(std::string_view name) {
  constexpr std::string_view kExample = "model-00000-of-00000.safetensors";
  if (name.size() != kExample.size()) return std::nullopt;
  size_t count = 0;
  for (size_t i = 0; i < name.size(); ++i) {
    const bool digit = name[i] >= '0' && name[i] <= '9';
    if (kExample[i] == '0' ? !digit : name[i] != kExample[i]) return std::nullopt;
    if (i >= 15 && i < 20) count = count * 10 + (name[i] - '0');
  }
  return count;
}

Status NoWeights(const std::string& dir) {
  if (FileExists(dir + "/pytorch_model.bin") || FileExists(dir + "/pytorch_model.bin.index.json")) {
    return Unimplemented("{}: holds pytorch_model.bin; only safetensors weights are supported, convert it first", dir);
  }
  return NotFound("{}: no model*.safetensors; is the download complete?", dir);
}

// The index decides if there is one. One exception, as transformers has it: a complete model.safetensors beside an
// index of shards that are not there (left from an older upload) is the model.
StatusOr<WeightFiles> FindWeights(const std::string& dir) {
  WeightFiles out;
  const std::string index_path = dir + "/" + kIndexName;
  const std::string single = "model.safetensors";
  if (Exists(index_path)) {
    ASSIGN_OR_RETURN(std::string text, ReadTextFile(index_path, limits::kConfigBytes));
    if (text.starts_with("version https://git-lfs")) {
      return DataLoss("{}: this is a Git LFS pointer, not the file; fetch it with `git lfs pull`", index_path);
    }
    ASSIGN_OR_RETURN(ShardIndex index, ParseShardIndex(text, index_path));
    auto missing = std::find_if(index.shards.begin(), index.shards.end(),
                                [&](const std::string& name) { return !Exists(dir + "/" + name); });
    if (missing == index.shards.end()) {
      out.names = index.shards;
      out.index = std::move(index);
      return out;
    }
    if (!FileExists(dir + "/" + single) || std::count(index.shards.begin(), index.shards.end(), single) > 0) {
      return NotFound("{}/{}: the shard is missing, but {} names it; is the download complete?", dir, *missing,
                      kIndexName);
    }
    out.names = {single};
    return out;
  }
  ASSIGN_OR_RETURN(out.names, GlobWeights(dir));
  if (out.names.empty()) return NoWeights(dir);
  if (std::optional<size_t> count = ShardCount(out.names[0]); count && *count != out.names.size()) {
    return NotFound("{}: {} of {} shards and no {}; is the download complete?", dir, out.names.size(), *count,
                    kIndexName);
  }
  return out;
}

Status CheckAgainstIndex(const std::string& dir, const ShardIndex& index, const std::string& file,
                         const std::vector<StoredTensor>& tensors) {
  for (const StoredTensor& t : tensors) {
    auto it = index.weight_map.find(t.name);
    if (it == index.weight_map.end()) {
      return DataLoss("{}/{}: tensor '{}': not listed in {}; delete the index if it is out of date", dir, file,
                      PrintableName(t.name), kIndexName);
    }
    if (it->second != file) {
      return DataLoss("{}/{}: tensor '{}': {} places it in {}", dir, file, PrintableName(t.name), kIndexName,
                      it->second);
    }
  }
  return OkStatus();
}

// transformers writes a multimodal model's decoder under "model.language_model." and its head beside it, mlx-lm has both under
// "language_model.": tensors go by mlx-lm's names.
std::string MlxName(const std::string& name, bool multimodal) {
  constexpr std::string_view kDecoder = "model.language_model.";
  if (!multimodal) return name;
  if (name.starts_with(kDecoder)) return "language_model.model." + name.substr(kDecoder.size());
  if (name.starts_with("lm_head.")) return "language_model." + name;
  return name;
}

std::vector<std::string> FindTextFiles(const std::string& dir) {
  std::set<std::string> names;
  for (const char* name : kTextFileNames) {
    if (FileExists(dir + "/" + name)) names.insert(name);
  }
  std::error_code error;
  for (auto it = fs::directory_iterator(dir, error); !error && it != fs::directory_iterator(); it.increment(error)) {
    std::string name = it->path().filename().string();
    if (name.ends_with(".jinja") && FileExists(dir + "/" + name)) names.insert(std::move(name));
  }
  return {names.begin(), names.end()};
}

// ModelOpt exports keep their section in a file of its own; mlx-lm reads it as quantization_config.
Status CheckSeparateQuantConfig(const std::string& dir, const Json& config) {
  const std::string path = dir + "/hf_quant_config.json";
  if (HasQuantization(config) || !FileExists(path)) return OkStatus();
  return Unimplemented("{}: ModelOpt-quantized weights are not supported; start from the unquantized or an MLX model",
                       path);
}

}  // namespace

StatusOr<std::unique_ptr<Checkpoint>> OpenModelDirectory(const std::string& path) {
  std::string dir = path;
  while (dir.size() > 1 && dir.back() == '/') dir.pop_back();
  if (!DirExists(dir)) return NotFound("{}: no such directory", dir);
  if (!Exists(dir + "/config.json")) {
    return NotFound("{}: no config.json; is this a model directory?", dir);
  }
  std::unique_ptr<Checkpoint> model(new Checkpoint());
  model->path_ = dir;
  ASSIGN_OR_RETURN(model->config_, ReadJsonFile(dir + "/config.json"));
  if (!model->config_.is_object()) return InvalidArgument("{}/config.json: must be an object", dir);
  RETURN_IF_ERROR(CheckQuantizationSection(model->config_, dir + "/config.json"));
  RETURN_IF_ERROR(CheckSeparateQuantConfig(dir, model->config_));

  ASSIGN_OR_RETURN(WeightFiles weights, FindWeights(dir));
  bool mlx = HasQuantization(model->config_);
  const auto text_config = model->config_.find("text_config");
  const bool multimodal = text_config != model->config_.end() && text_config->is_object();
  for (const std::string& name : weights.names) {
    ASSIGN_OR_RETURN(std::unique_ptr<MappedFile> map, MappedFile::Open(dir + "/" + name));
    const auto bytes = map->bytes();
    std::map<std::string, std::string> metadata;
    ASSIGN_OR_RETURN(std::vector<StoredTensor> tensors, ParseSafetensors(bytes, map->path(), &metadata));
    if (weights.index) RETURN_IF_ERROR(CheckAgainstIndex(dir, *weights.index, name, tensors));
    if (auto it = metadata.find("format"); it != metadata.end() && it->second == "mlx") mlx = true;

    uint64_t data_bytes = 0;
    for (StoredTensor& t : tensors) {
      data_bytes += t.bytes.size();
      t.name = MlxName(t.name, multimodal);
    }
    Sha256 header;
    header.Update(bytes.first(bytes.size() - data_bytes));
    model->header_digest_input_ += fmt::format("{}\n{}\n{}\n", name, bytes.size(), header.HexDigest());
    model->file_bytes_ += bytes.size();
    model->files_.push_back(map->path());
    std::move(tensors.begin(), tensors.end(), std::back_inserter(model->tensors_));
    model->maps_.push_back(std::move(map));
  }
  RETURN_IF_ERROR(model->Index());
  if (model->tensors_.empty()) return DataLoss("{}: the weight files hold no tensors", dir);
  if (weights.index) {
    for (const auto& [tensor, shard] : weights.index->weight_map) {
      if (model->Find(MlxName(tensor, multimodal)) == nullptr) {
        return DataLoss("{}/{}: tensor '{}': missing, but {} places it there", dir, shard, PrintableName(tensor),
                        kIndexName);
      }
    }
  }
  model->layout_ = mlx ? CheckpointLayout::kMlx : CheckpointLayout::kHuggingFace;
  model->text_files_ = FindTextFiles(dir);
  return model;
}

}  // namespace optiq
