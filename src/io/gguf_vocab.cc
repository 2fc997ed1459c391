#include "io/gguf_vocab.h"

#include <algorithm>
#include <array>

#include "base/limits.h"
#include "io/gguf_spm.h"
#include "io/gguf_text.h"

namespace optiq {
namespace {

constexpr std::string_view kTokensKey = "tokenizer.ggml.tokens";
constexpr std::string_view kTypesKey = "tokenizer.ggml.token_type";
// Real vocabularies stay below a few hundred bytes; with n-byte tokens the merge list can grow with n squared.
constexpr size_t kMaxTokenBytes = 4096;
constexpr std::string_view kVisibleSpace = "\u2581";  // SentencePiece's visible space

bool StartsWith(std::string_view text, std::string_view head) { return text.substr(0, head.size()) == head; }

bool AllOf(std::string_view text, bool (*test)(char)) {
  return !text.empty() && std::all_of(text.begin(), text.end(), test);
}

// <unused12>, <mask>, <|fim_prefix|>, <|repo_name|>, <|file_sep|>: control tokens for llama.cpp, but "special": false
// in Gemma's and Qwen's own tokenizer.json.
bool IsPlainInOriginal(std::string_view token) {
  constexpr std::string_view kUnused = "<unused", kFim = "<|fim_";
  if (token == "<mask>" || token == "<|repo_name|>" || token == "<|file_sep|>") return true;
  if (StartsWith(token, kUnused) && token.back() == '>') {
    return AllOf(token.substr(kUnused.size(), token.size() - kUnused.size() - 1),
                 [](char c) { return c >= '0' && c <= '9'; });
  }
  if (StartsWith(token, kFim) && token.size() > kFim.size() + 2 && token.substr(token.size() - 2) == "|>") {
    return AllOf(token.substr(kFim.size(), token.size() - kFim.size() - 2), [](char c) {
      return c == '_' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    });
  }
  return false;
}

bool IsByteToken(std::string_view token) {  // <0xAB>
  const auto hex = [](char c) { return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'F'); };
  return token.size() == 6 && StartsWith(token, "<0x") && hex(token[3]) && hex(token[4]) && token[5] == '>';
}

StatusOr<std::optional<int64_t>> SpecialId(const GgufFile& file, std::string_view name, size_t count) {
  const std::string key = fmt::format("tokenizer.ggml.{}_token_id", name);
  if (!file.Has(key)) return std::optional<int64_t>();
  ASSIGN_OR_RETURN(const int64_t id, file.RequireInt(key, 0, static_cast<int64_t>(count) - 1));
  return std::optional<int64_t>(id);
}

Status ReadTypes(const GgufFile& file, GgufVocab* vocab) {
  if (file.ArraySize(kTypesKey) != vocab->tokens.size()) {
    return DataLoss("{}: {} does not have one item for each of the {} tokens", file.name(), kTypesKey,
                    vocab->tokens.size());
  }
  ASSIGN_OR_RETURN(const std::vector<int64_t> types, file.GetInts(kTypesKey));
  vocab->types.reserve(types.size());
  for (size_t i = 0; i < types.size(); ++i) {
    if (types[i] < 1 || types[i] > 6) return DataLoss("{}: token {} has the unknown type {}", file.name(), i, types[i]);
    vocab->types.push_back(static_cast<GgufTokenType>(types[i]));
  }
  return OkStatus();
}

Status CheckTokens(const GgufFile& file, GgufVocab* vocab) {
  const bool sentencepiece = vocab->model == "llama";
  std::vector<bool> in_use(vocab->tokens.size());
  for (size_t i = 0; i < vocab->tokens.size(); ++i) {
    std::string_view& token = vocab->tokens[i];
    if (token.size() > kMaxTokenBytes) {
      return ResourceExhausted("{}: token {} has {} bytes, more than {}", file.name(), i, token.size(), kMaxTokenBytes);
    }
    if (!IsUtf8(token)) return DataLoss("{}: token {} is not valid UTF-8", file.name(), i);
    if (sentencepiece && AllOf(token, [](char c) { return c == ' '; })) {  // GGUF spells runs of U+2581 as spaces
      std::string& text = vocab->respelled.emplace_back();
      for (size_t n = 0; n < token.size(); ++n) text += kVisibleSpace;
      token = text;
    }
    if (sentencepiece && vocab->types[i] == GgufTokenType::kByte && !IsByteToken(token)) {
      return DataLoss("{}: byte token {} is {}, not of the form '<0x1F>'", file.name(), i, QuoteForError(token));
    }
    in_use[i] = sentencepiece || vocab->types[i] != GgufTokenType::kUnused;
  }
  if (const std::optional<uint32_t> twin = FindDuplicateToken(vocab->tokens, in_use)) {
    return DataLoss("{}: token {} ({}) appears twice in the vocabulary", file.name(), *twin,
                    QuoteForError(vocab->tokens[*twin]));
  }
  return OkStatus();
}

// Ids that end generation besides eos: those of the metadata, then those known by name.
Status ReadStopIds(const GgufFile& file, GgufVocab* vocab) {
  const auto add = [&](int64_t id) {
    if (id != vocab->eos && std::find(vocab->stop.begin(), vocab->stop.end(), id) == vocab->stop.end())
      vocab->stop.push_back(id);
  };
  for (const char* name : {"eot", "eom"}) {
    ASSIGN_OR_RETURN(const std::optional<int64_t> id, SpecialId(file, name, vocab->tokens.size()));
    if (id) add(*id);
  }
  constexpr std::array kNames = {"<|endoftext|>", "<end_of_turn>", "<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"};
  for (const std::string_view name : kNames) {
    const auto it = std::find(vocab->tokens.begin(), vocab->tokens.end(), name);
    if (it != vocab->tokens.end()) add(it - vocab->tokens.begin());
  }
  return OkStatus();
}

}  // namespace

bool GgufVocab::IsAdded(size_t id) const {
  return types[id] == GgufTokenType::kControl || types[id] == GgufTokenType::kUnknown ||
         types[id] == GgufTokenType::kUser;
}

bool GgufVocab::IsSpecial(size_t id) const {
  if (types[id] == GgufTokenType::kUser) return false;
  const bool has_plain = model == "llama" || pre == "qwen2";
  return !(has_plain && IsPlainInOriginal(tokens[id]));
}

StatusOr<GgufVocab> ReadGgufVocab(const GgufFile& file, int64_t vocab_size) {
  GgufVocab vocab;
  ASSIGN_OR_RETURN(const std::string_view model, file.RequireString("tokenizer.ggml.model"));
  ASSIGN_OR_RETURN(const std::optional<std::string_view> pre, file.GetString("tokenizer.ggml.pre"));
  vocab.model = std::string(model);
  vocab.pre = std::string(pre.value_or(""));

  // The count is compared with the embedding's rows, whose data is in the file, before anything of that size is
  // allocated.
  const std::optional<uint64_t> count = file.ArraySize(kTokensKey);
  if (!count || *count == 0) return DataLoss("{}: metadata key '{}' is missing or empty", file.name(), kTokensKey);
  if (*count > static_cast<uint64_t>(vocab_size)) {
    return DataLoss("{}: {} tokens, but the embedding has {} rows", file.name(), *count, vocab_size);
  }
  ASSIGN_OR_RETURN(vocab.tokens, file.GetStrings(kTokensKey));
  RETURN_IF_ERROR(ReadTypes(file, &vocab));
  RETURN_IF_ERROR(CheckTokens(file, &vocab));

  ASSIGN_OR_RETURN(vocab.bos, SpecialId(file, "bos", vocab.tokens.size()));
  ASSIGN_OR_RETURN(vocab.eos, SpecialId(file, "eos", vocab.tokens.size()));
  ASSIGN_OR_RETURN(vocab.pad, SpecialId(file, "padding", vocab.tokens.size()));
  ASSIGN_OR_RETURN(vocab.unk, SpecialId(file, "unknown", vocab.tokens.size()));
  if (!vocab.eos) return DataLoss("{}: metadata key 'tokenizer.ggml.eos_token_id' is missing", file.name());
  RETURN_IF_ERROR(ReadStopIds(file, &vocab));

  // llama.cpp adds BOS for Llama 3 and SentencePiece unless the file says otherwise.
  const bool bos_by_default = vocab.model == "llama" || vocab.pre == "llama-bpe";
  ASSIGN_OR_RETURN(const std::optional<bool> add_bos, file.GetBool("tokenizer.ggml.add_bos_token"));
  ASSIGN_OR_RETURN(const std::optional<bool> add_eos, file.GetBool("tokenizer.ggml.add_eos_token"));
  vocab.add_bos = add_bos.value_or(bos_by_default);
  vocab.add_eos = add_eos.value_or(false);
  if (vocab.add_bos && !vocab.bos) {
    return DataLoss("{}: add_bos_token is set, but there is no tokenizer.ggml.bos_token_id", file.name());
  }
  return vocab;
}

}  // namespace optiq
