// Opens a GGUF file as a model in the Hugging Face layout: names, conventions and config undone from llama.cpp's
// (its convert_hf_to_gguf.py is the reference for what was done to a checkpoint on the way in).
#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/limits.h"
#include "base/sha256.h"
#include "io/checkpoint.h"
#include "io/gguf.h"
#include "io/gguf_config.h"
#include "io/gguf_tokenizer.h"

namespace optiq {
namespace {

constexpr std::string_view kEmbedding = "model.embed_tokens.weight";
constexpr std::string_view kHead = "lm_head.weight";
constexpr std::string_view kRopeFactors = "rope_freqs.weight";

struct NamePair {
  std::string_view gguf, hf;
};
constexpr NamePair kTopNames[] = {{"token_embd", "embed_tokens"}, {"output_norm", "norm"}};
constexpr NamePair kProjections[] = {
    {"attn_q", "self_attn.q_proj"},      {"attn_k", "self_attn.k_proj"}, {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"}, {"ffn_gate", "mlp.gate_proj"},  {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"},
};
constexpr NamePair kNorms[] = {{"attn_norm", "input_layernorm"}, {"ffn_norm", "post_attention_layernorm"}};
constexpr NamePair kGemma3Norms[] = {
    {"attn_norm", "input_layernorm"},
    {"post_attention_norm", "post_attention_layernorm"},
    {"ffn_norm", "pre_feedforward_layernorm"},
    {"post_ffw_norm", "post_feedforward_layernorm"},
};
constexpr NamePair kHeadNorms[] = {{"attn_q_norm", "self_attn.q_norm"}, {"attn_k_norm", "self_attn.k_norm"}};

std::string_view Lookup(std::span<const NamePair> names, std::string_view stem) {
  const auto it = std::find_if(names.begin(), names.end(), [&](const NamePair& n) { return n.gguf == stem; });
  return it == names.end() ? std::string_view() : it->hf;
}

std::string_view LayerModule(GgufArch arch, std::string_view stem, bool bias) {
  if (const std::string_view found = Lookup(kProjections, stem); !found.empty()) {
    const bool qkv = stem == "attn_q" || stem == "attn_k" || stem == "attn_v";
    return !bias || arch == GgufArch::kLlama || (arch == GgufArch::kQwen2 && qkv) ? found : std::string_view();
  }
  if (bias) return {};
  const bool gemma3 = arch == GgufArch::kGemma3;
  if (gemma3 || arch == GgufArch::kQwen3) {
    if (const std::string_view found = Lookup(kHeadNorms, stem); !found.empty()) return found;
  }
  return gemma3 ? Lookup(kGemma3Norms, stem) : Lookup(kNorms, stem);
}

// blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight; empty if the architecture has no such tensor.
std::string HuggingFaceName(GgufArch arch, std::string_view name, int64_t layers) {
  const size_t dot = name.rfind('.');
  if (dot == name.npos) return "";
  const std::string_view kind = name.substr(dot + 1);
  std::string_view stem = name.substr(0, dot);
  if (kind != "weight" && kind != "bias") return "";
  if (stem.substr(0, 4) != "blk.") {
    if (kind != "weight") return "";
    if (stem == "output") return std::string(kHead);
    const std::string_view module = Lookup(kTopNames, stem);
    return module.empty() ? "" : fmt::format("model.{}.weight", module);
  }
  stem.remove_prefix(4);
  int64_t layer = 0;
  const auto [end, error] = std::from_chars(stem.data(), stem.data() + stem.size(), layer);
  const size_t digits = end - stem.data();
  if (error != std::errc() || layer < 0 || layer >= layers || digits == stem.size() || stem[digits] != '.' ||
      std::to_string(layer).size() != digits) {
    return "";
  }
  const std::string_view module = LayerModule(arch, stem.substr(digits + 1), kind == "bias");
  return module.empty() ? "" : fmt::format("model.layers.{}.{}.{}", layer, module, kind);
}

// Marks what llama.cpp did to a tensor's values, so that ReadRows undoes it.
Status SetConventions(const GgufFile& file, GgufArch arch, int64_t heads, int64_t kv_heads, StoredTensor* t) {
  if (arch == GgufArch::kGemma3 && t->name.ends_with("norm.weight")) t->add_constant = -1.0f;
  if (arch != GgufArch::kLlama) return OkStatus();
  const bool q = t->name.find(".q_proj.") != t->name.npos, k = t->name.find(".k_proj.") != t->name.npos;
  if (!q && !k) return OkStatus();
  t->rotary_heads = q ? heads : kv_heads;
  if (t->shape[0] % (2 * t->rotary_heads) != 0) {
    return DataLoss("{}: tensor '{}': {} rows cannot be split into {} heads of even width", file.name(), t->name,
                    t->shape[0], t->rotary_heads);
  }
  return OkStatus();
}

double BitsPerWeight(DType dtype) { return 8.0 * DTypeBlockBytes(dtype) / DTypeBlockElements(dtype); }

// Root mean square of a - b over that of b, on at most `max_rows` evenly spaced rows.
double RelativeDifference(const StoredTensor& a, const StoredTensor& b, int64_t max_rows) {
  const int64_t rows = a.rows(), n = std::min(rows, max_rows);
  std::vector<float> x(a.cols()), y(b.cols());
  double difference = 0, norm = 0;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t row = n == rows ? i : static_cast<int64_t>(static_cast<double>(i) * (rows - 1) / (n - 1));
    ReadRows(a, row, row + 1, x.data());
    ReadRows(b, row, row + 1, y.data());
    for (size_t c = 0; c < x.size(); ++c) {
      const double d = static_cast<double>(x[c]) - y[c];
      difference += d * d;
      norm += static_cast<double>(y[c]) * y[c];
    }
  }
  return std::sqrt(difference / norm);
}

// Files that carry both token_embd and output, each quantized by itself, of a tied model: the two then differ by
// quantization error only (relative RMS below 0.15; two unrelated matrices give 1.4). A sample of rows decides unless
// it comes out near.
bool IsOneMatrix(const StoredTensor& embedding, const StoredTensor& head) {
  constexpr double kLimit = 0.15;
  constexpr int64_t kSample = 512;
  if (embedding.shape != head.shape) return false;
  double difference = RelativeDifference(embedding, head, kSample);
  if (difference > 0.10 && difference < 0.30) difference = RelativeDifference(embedding, head, embedding.rows());
  return difference < kLimit;
}

class GgufModel {
 public:
  GgufModel(const GgufFile& file, GgufArch arch) : file_(file), arch_(arch) {}

  // Names the tensors and undoes a doubled embedding.
  Status ReadTensors() {
    const std::string prefix(GgufArchName(arch_));
    ASSIGN_OR_RETURN(const int64_t layers, file_.RequireInt(prefix + ".block_count", 1, limits::kLayers));
    ASSIGN_OR_RETURN(const int64_t heads, file_.RequireInt(prefix + ".attention.head_count", 1, limits::kHeads));
    int64_t kv_heads = heads;
    if (file_.Has(prefix + ".attention.head_count_kv")) {
      ASSIGN_OR_RETURN(kv_heads, file_.RequireInt(prefix + ".attention.head_count_kv", 1, limits::kHeads));
    }
    for (const GgufTensor& source : file_.tensors()) {
      StoredTensor t;
      t.dtype = source.dtype;
      t.shape = source.Shape();
      t.bytes = source.bytes;
      if (arch_ == GgufArch::kLlama && source.name == kRopeFactors) {
        if (!IsFloat(t.dtype) || t.rank() != 1) return Bad(source.name, "must be a vector of floats");
        ASSIGN_OR_RETURN(facts_.rope_factors, ReadVector(t));
        continue;
      }
      t.name = HuggingFaceName(arch_, source.name, layers);
      if (t.name.empty()) {
        return Unimplemented(
            "{}: tensor {} is not known in architecture {} with {} layers; use the original checkpoint", file_.name(),
            QuoteForError(source.name), GgufArchName(arch_), layers);
      }
      const bool vector = t.name.ends_with("norm.weight") || t.name.ends_with(".bias");
      if (t.rank() != (vector ? 1 : 2)) return Bad(source.name, vector ? "must be a vector" : "must be a matrix");
      RETURN_IF_ERROR(SetConventions(file_, arch_, heads, kv_heads, &t));
      facts_.attention_bias |= t.name.ends_with("proj.bias") && t.name.find(".self_attn.") != t.name.npos;
      facts_.mlp_bias |= t.name.ends_with("proj.bias") && t.name.find(".mlp.") != t.name.npos;
      tensors_.push_back(std::move(t));
    }
    return ResolveHead();
  }

  const GgufTensorFacts& facts() const { return facts_; }
  std::vector<StoredTensor> TakeTensors() { return std::move(tensors_); }

 private:
  Status Bad(std::string_view name, std::string_view what) const {
    return DataLoss("{}: tensor {}: {}", file_.name(), QuoteForError(name), what);
  }

  StoredTensor* Find(std::string_view name) {
    const auto it =
        std::find_if(tensors_.begin(), tensors_.end(), [&](const StoredTensor& t) { return t.name == name; });
    return it == tensors_.end() ? nullptr : &*it;
  }

  Status ResolveHead() {
    StoredTensor* embedding = Find(kEmbedding);
    if (embedding == nullptr) return DataLoss("{}: tensor 'token_embd.weight' is missing", file_.name());
    if (embedding->rows() > limits::kVocab) {
      return ResourceExhausted("{}: a vocabulary of {}, more than {}", file_.name(), embedding->rows(), limits::kVocab);
    }
    facts_.vocab_size = embedding->rows();
    const StoredTensor* head = Find(kHead);
    facts_.tied = head == nullptr;
    if (head != nullptr && IsOneMatrix(*embedding, *head)) {
      if (BitsPerWeight(head->dtype) > BitsPerWeight(embedding->dtype)) {
        embedding->dtype = head->dtype;
        embedding->bytes = head->bytes;
      }
      tensors_.erase(tensors_.begin() + (head - tensors_.data()));
      facts_.tied = true;
    }
    return OkStatus();
  }

  const GgufFile& file_;
  const GgufArch arch_;
  GgufTensorFacts facts_;
  std::vector<StoredTensor> tensors_;
};

}  // namespace

StatusOr<std::unique_ptr<Checkpoint>> OpenGgufModel(const std::string& path) {
  ASSIGN_OR_RETURN(std::unique_ptr<MappedFile> map, MappedFile::Open(path));
  ASSIGN_OR_RETURN(const GgufFile file, GgufFile::Parse(map->bytes(), path));
  ASSIGN_OR_RETURN(const GgufArch arch, GgufArchOf(file));
  GgufModel model(file, arch);
  RETURN_IF_ERROR(model.ReadTensors());

  std::unique_ptr<Checkpoint> checkpoint(new Checkpoint());
  ASSIGN_OR_RETURN(checkpoint->config_, BuildGgufConfig(file, arch, model.facts()));
  ASSIGN_OR_RETURN(GgufTextFiles text, BuildGgufTextFiles(file, arch, model.facts().vocab_size));
  checkpoint->path_ = path;
  checkpoint->layout_ = CheckpointLayout::kGguf;
  checkpoint->tensors_ = model.TakeTensors();
  checkpoint->built_text_["tokenizer.json"] = std::move(text.tokenizer_json);
  checkpoint->built_text_["tokenizer_config.json"] = std::move(text.tokenizer_config_json);
  checkpoint->built_text_["generation_config.json"] = std::move(text.generation_config_json);
  checkpoint->files_ = {path};
  checkpoint->file_bytes_ = map->bytes().size();
  Sha256 table;
  table.Update(file.tensor_table());
  checkpoint->header_digest_input_ =
      fmt::format("{}\n{}\n{}\n", path.substr(path.rfind('/') + 1), map->bytes().size(), table.HexDigest());
  checkpoint->maps_.push_back(std::move(map));
  RETURN_IF_ERROR(checkpoint->Index());
  return checkpoint;
}

}  // namespace optiq
