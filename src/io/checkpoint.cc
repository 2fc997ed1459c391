#include "io/checkpoint.h"

#include <algorithm>
#include <functional>

#include "base/file.h"
#include "base/limits.h"
#include "base/sha256.h"
#include "io/quantization_config.h"
#include "io/safetensors.h"

namespace optiq {
namespace {

bool Contains(std::span<const std::byte> outer, std::span<const std::byte> inner) {
  // std::less gives a total order also for pointers into different objects.
  const std::less_equal<const std::byte*> not_after;
  return not_after(outer.data(), inner.data()) && not_after(inner.data() + inner.size(), outer.data() + outer.size());
}

const MappedFile* MapOf(const std::vector<std::unique_ptr<MappedFile>>& maps, const StoredTensor& tensor) {
  for (const auto& map : maps) {
    if (Contains(map->bytes(), tensor.bytes)) return map.get();
  }
  return nullptr;
}

uint64_t TextFileLimit(const std::string& name) {
  if (name == "tokenizer.json" || name == "tokenizer.model") return limits::kTokenizerJsonBytes;
  if (name.ends_with(".jinja")) return limits::kChatTemplateBytes;
  return limits::kConfigBytes;
}

}  // namespace

StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::Open(const std::string& path) {
  if (DirExists(path)) return OpenModelDirectory(path);
  if (path.ends_with(".gguf")) return OpenGgufModel(path);
  if (!FileExists(path)) {
    ASSIGN_OR_RETURN(auto file, MappedFile::Open(path));  // says what is wrong with it
    return InvalidArgument("{}: not a model", path);
  }
  ASSIGN_OR_RETURN(auto file, MappedFile::Open(path));
  const auto bytes = file->bytes();
  if (bytes.size() >= 4 && std::string_view(reinterpret_cast<const char*>(bytes.data()), 4) == "GGUF") {
    return OpenGgufModel(path);
  }
  return InvalidArgument("{}: not a model; give the directory that holds config.json and the weights, or a .gguf file",
                         path);
}

Status Checkpoint::Index() {
  std::sort(tensors_.begin(), tensors_.end(),
            [](const StoredTensor& a, const StoredTensor& b) { return a.name < b.name; });
  by_name_.clear();
  by_name_.reserve(tensors_.size());
  for (size_t i = 0; i < tensors_.size(); ++i) {
    if (!by_name_.emplace(tensors_[i].name, i).second) {
      return DataLoss("{}: tensor '{}': defined in two files", path_, PrintableName(tensors_[i].name));
    }
  }
  return OkStatus();
}

const StoredTensor* Checkpoint::Find(std::string_view name) const {
  auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : &tensors_[it->second];
}

StatusOr<const StoredTensor*> Checkpoint::Require(std::string_view name) const {
  const StoredTensor* tensor = Find(name);
  if (tensor == nullptr) return NotFound("{}: tensor '{}': missing", path_, PrintableName(name));
  return tensor;
}

StatusOr<std::optional<AffineFormat>> Checkpoint::QuantizationOf(std::string_view module_path, int64_t in_dim) const {
  const std::string module(module_path);
  const ModuleTensors tensors{Find(module + ".weight"), Find(module + ".scales"), Find(module + ".biases")};
  auto format = ResolveQuantization(config_, module_path, tensors, in_dim);
  if (!format.ok()) return Annotate(format.status(), path_);
  return format;
}

std::vector<std::string> Checkpoint::TextFiles() const {
  std::vector<std::string> names = text_files_;
  for (const auto& [name, text] : built_text_) names.push_back(name);
  std::sort(names.begin(), names.end());
  return names;
}

bool Checkpoint::HasTextFile(const std::string& name) const {
  return built_text_.contains(name) || std::find(text_files_.begin(), text_files_.end(), name) != text_files_.end();
}

StatusOr<std::string> Checkpoint::ReadTextFile(const std::string& name) const {
  if (auto it = built_text_.find(name); it != built_text_.end()) return it->second;
  if (!HasTextFile(name)) return NotFound("{}/{}: no such file", path_, name);
  const std::string path = path_ + "/" + name;
  ASSIGN_OR_RETURN(std::string text, optiq::ReadTextFile(path, TextFileLimit(name)));
  if (text.starts_with("version https://git-lfs")) {
    return DataLoss("{}: this is a Git LFS pointer, not the file; fetch it with `git lfs pull`", path);
  }
  return text;
}

void Checkpoint::Prefetch(const StoredTensor& tensor) const {
  if (const MappedFile* map = MapOf(maps_, tensor)) map->Prefetch(tensor.bytes);
}

void Checkpoint::Release(const StoredTensor& tensor) const {
  if (const MappedFile* map = MapOf(maps_, tensor)) map->Release(tensor.bytes);
}

StatusOr<std::string> Checkpoint::Fingerprint() const {
  // Every part is preceded by its length, so that no two inputs give the same bytes.
  Sha256 hash;
  auto add = [&](std::string_view part) {
    hash.Update(std::to_string(part.size()) + ":");
    hash.Update(part);
  };
  add(header_digest_input_);
  add(config_.dump(-1, ' ', false, Json::error_handler_t::replace));
  if (HasTextFile("tokenizer.json")) {
    ASSIGN_OR_RETURN(std::string tokenizer, ReadTextFile("tokenizer.json"));
    add(tokenizer);
  }
  return hash.HexDigest();
}

}  // namespace optiq
