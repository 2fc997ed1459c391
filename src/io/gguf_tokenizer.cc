#include "io/gguf_tokenizer.h"

#include <cmath>

#include "base/json.h"
#include "base/limits.h"
#include "io/gguf_spm.h"
#include "io/gguf_text.h"
#include "io/gguf_vocab.h"

namespace optiq {
namespace {

// Pre-tokenizer patterns as in the models' own tokenizer.json; they differ in the length of digit runs.
constexpr const char* kQwenSplit =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kLlama3Split =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kMergesKey = "tokenizer.ggml.merges";
constexpr std::string_view kScoresKey = "tokenizer.ggml.scores";

// The parts of tokenizer.json around the vocabulary.
struct Pipeline {
  OrderedJson normalizer, pre_tokenizer, post_processor, decoder;  // null if none
  OrderedJson unk_token;
  bool fuse_unk = false, byte_fallback = false, ignore_merges = false;
  bool whole_vocab = false;       // added tokens are part of the model's vocabulary too
  bool fillers_in_vocab = false;  // and so are unused and byte tokens
};

OrderedJson ByteLevel(bool add_prefix_space, bool trim_offsets, bool use_regex) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", add_prefix_space},
          {"trim_offsets", trim_offsets},
          {"use_regex", use_regex}};
}

OrderedJson Sequence(const char* items_key, std::initializer_list<OrderedJson> items) {
  OrderedJson out{{"type", "Sequence"}};
  out[items_key] = OrderedJson::array();
  for (const OrderedJson& item : items) out[items_key].push_back(item);
  return out;
}

OrderedJson SplitThenBytes(const char* pattern, bool trim_offsets) {
  return Sequence("pretokenizers",
                  {{{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}},
                   ByteLevel(false, trim_offsets, false)});
}

// BOS before and EOS after each text, as far as the file asks for them; null if for neither.
OrderedJson Template(const GgufVocab& vocab) {
  if (!vocab.add_bos && !vocab.add_eos) return nullptr;
  OrderedJson single = OrderedJson::array(), pair = OrderedJson::array(), specials = OrderedJson::object();
  const auto special = [&](int64_t id, int type, OrderedJson* out) {
    const std::string text(vocab.tokens[id]);
    out->push_back({{"SpecialToken", {{"id", text}, {"type_id", type}}}});
    specials[text] = {{"id", text}, {"ids", OrderedJson::array({id})}, {"tokens", OrderedJson::array({text})}};
  };
  for (int type = 0; type < 2; ++type) {
    const OrderedJson text{{"Sequence", {{"id", type == 0 ? "A" : "B"}, {"type_id", type}}}};
    for (OrderedJson* out : {&single, &pair}) {
      if (type == 1 && out == &single) continue;
      if (vocab.add_bos) special(*vocab.bos, type, out);
      out->push_back(text);
      if (vocab.add_eos) special(*vocab.eos, type, out);
    }
  }
  return {{"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", specials}};
}

OrderedJson BytesThenTemplate(const GgufVocab& vocab, bool add_prefix_space, bool use_regex) {
  const OrderedJson bytes = ByteLevel(add_prefix_space, false, use_regex), tokens = Template(vocab);
  return tokens.is_null() ? bytes : Sequence("processors", {bytes, tokens});
}

StatusOr<Pipeline> ByteLevelPipeline(const GgufFile& file, const GgufVocab& vocab) {
  Pipeline p;
  p.post_processor = BytesThenTemplate(vocab, false, false);
  p.decoder = ByteLevel(false, false, false);
  if (vocab.pre == "smollm") {
    p.pre_tokenizer =
        Sequence("pretokenizers", {{{"type", "Digits"}, {"individual_digits", true}}, ByteLevel(false, true, true)});
    p.whole_vocab = true;
  } else if (vocab.pre == "qwen2") {
    p.normalizer = {{"type", "NFC"}};
    p.pre_tokenizer = SplitThenBytes(kQwenSplit, false);
  } else if (vocab.pre == "llama-bpe") {
    p.pre_tokenizer = SplitThenBytes(kLlama3Split, true);
    p.post_processor = BytesThenTemplate(vocab, true, true);
    p.decoder = ByteLevel(true, true, true);
    p.ignore_merges = true;
  } else if (vocab.pre == "gpt-2") {
    p.pre_tokenizer = ByteLevel(false, true, true);
    p.decoder = ByteLevel(true, true, true);
    p.whole_vocab = true;
  } else {
    return Unimplemented(
        "{}: pre-tokenizer {} is not supported, only smollm, qwen2, llama-bpe and gpt-2; use the original "
        "checkpoint",
        file.name(), QuoteForError(vocab.pre));
  }
  return p;
}

StatusOr<Pipeline> SentencePiecePipeline(const GgufFile& file, const GgufVocab& vocab) {
  ASSIGN_OR_RETURN(const std::optional<bool> prefix, file.GetBool("tokenizer.ggml.add_space_prefix"));
  if (prefix.value_or(true)) {
    return Unimplemented(
        "{}: a SentencePiece tokenizer that puts a space before the text is not supported; use the original "
        "checkpoint",
        file.name());
  }
  if (!vocab.unk) return DataLoss("{}: metadata key 'tokenizer.ggml.unknown_token_id' is missing", file.name());
  Pipeline p;
  p.normalizer = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\u2581"}};
  p.pre_tokenizer = {
      {"type", "Split"}, {"pattern", {{"String", " "}}}, {"behavior", "MergedWithPrevious"}, {"invert", false}};
  p.post_processor = Template(vocab);
  p.decoder = Sequence("decoders", {{{"type", "Replace"}, {"pattern", {{"String", "\u2581"}}}, {"content", " "}},
                                    {{"type", "ByteFallback"}},
                                    {{"type", "Fuse"}}});
  p.unk_token = std::string(vocab.tokens[*vocab.unk]);
  p.fuse_unk = p.byte_fallback = p.whole_vocab = p.fillers_in_vocab = true;
  return p;
}

// Writes the two long members as text: as JSON values they would take ten times the memory.
void AppendVocab(const GgufVocab& vocab, const Pipeline& pipeline, std::string* out) {
  char separator = '{';
  for (size_t i = 0; i < vocab.tokens.size(); ++i) {
    const bool keep = vocab.types[i] == GgufTokenType::kNormal || pipeline.fillers_in_vocab ||
                      (pipeline.whole_vocab && vocab.IsAdded(i));
    if (!keep) continue;
    out->push_back(separator);
    separator = ',';
    AppendJsonString(vocab.tokens[i], out);
    fmt::format_to(std::back_inserter(*out), ":{}", i);
  }
  if (separator == '{') out->push_back('{');
  out->push_back('}');
}

void AppendMerge(std::string_view left, std::string_view right, std::string* out) {
  out->append(out->back() == '[' ? "[" : ",[");
  AppendJsonString(left, out);
  out->push_back(',');
  AppendJsonString(right, out);
  out->push_back(']');
}

Status CheckTextSize(const GgufFile& file, uint64_t bytes) {
  if (bytes <= limits::kTokenizerJsonBytes) return OkStatus();
  return ResourceExhausted("{}: tokenizer.json would have more than {} bytes", file.name(),
                           limits::kTokenizerJsonBytes);
}

Status AppendFileMerges(const GgufFile& file, const GgufVocab& vocab, std::string* out) {
  // A merge makes a token, so there cannot be more merges than tokens by much; this also bounds the allocation.
  const std::optional<uint64_t> count = file.ArraySize(kMergesKey);
  if (!count || *count > 2 * vocab.tokens.size()) {
    return DataLoss("{}: metadata key '{}' is missing or has more than {} items", file.name(), kMergesKey,
                    2 * vocab.tokens.size());
  }
  ASSIGN_OR_RETURN(const std::vector<std::string_view> merges, file.GetStrings(kMergesKey));
  for (size_t i = 0; i < merges.size(); ++i) {
    const std::string_view merge = merges[i];
    const size_t space = merge.find(' ');
    if (space == 0 || space == merge.npos || space + 1 == merge.size() || merge.find(' ', space + 1) != merge.npos ||
        !IsUtf8(merge)) {
      return DataLoss("{}: merge {} is {}, not two tokens with one space between them", file.name(), i,
                      QuoteForError(merge));
    }
    AppendMerge(merge.substr(0, space), merge.substr(space + 1), out);
    RETURN_IF_ERROR(CheckTextSize(file, out->size()));
  }
  return OkStatus();
}

Status AppendPieceMerges(const GgufFile& file, const GgufVocab& vocab, std::string* out) {
  if (file.ArraySize(kScoresKey) != vocab.tokens.size()) {
    return DataLoss("{}: '{}' does not have one item for each of the {} tokens", file.name(), kScoresKey,
                    vocab.tokens.size());
  }
  ASSIGN_OR_RETURN(std::vector<float> scores, file.GetFloats(kScoresKey));
  std::vector<bool> use(scores.size());
  for (size_t i = 0; i < scores.size(); ++i) {
    if (!std::isfinite(scores[i])) return DataLoss("{}: the score of token {} is not finite", file.name(), i);
    const bool user = vocab.types[i] == GgufTokenType::kUser;
    if (user) scores[i] = 0;  // as in SentencePiece; GGUF says -1000
    use[i] = user || vocab.types[i] == GgufTokenType::kNormal;
  }
  StatusOr<std::vector<SpmMerge>> merges = SpmMerges(vocab.tokens, scores, use);
  if (!merges.ok()) return Annotate(merges.status(), file.name());
  uint64_t bytes = out->size();
  for (const SpmMerge& m : *merges) bytes += vocab.tokens[m.piece].size() + 8;
  RETURN_IF_ERROR(CheckTextSize(file, bytes));
  out->reserve(bytes + bytes / 16);
  for (const SpmMerge& m : *merges) {
    const std::string_view piece = vocab.tokens[m.piece];
    AppendMerge(piece.substr(0, m.split), piece.substr(m.split), out);
  }
  return CheckTextSize(file, out->size());
}

OrderedJson AddedToken(const GgufVocab& vocab, size_t id) {
  return {{"content", std::string(vocab.tokens[id])},
          {"single_word", false},
          {"lstrip", false},
          {"rstrip", false},
          {"normalized", false},
          {"special", vocab.IsSpecial(id)}};
}

// dump() throws on invalid UTF-8, which ReadGgufVocab excludes; `replace` keeps even a mistake there from throwing.
std::string Dump(const OrderedJson& json, int indent = -1) {
  return json.dump(indent, ' ', false, OrderedJson::error_handler_t::replace);
}

StatusOr<std::string> TokenizerJson(const GgufFile& file, const GgufVocab& vocab) {
  if (vocab.model != "gpt2" && vocab.model != "llama") {
    return Unimplemented("{}: tokenizer model {} is not supported, only gpt2 and llama; use the original checkpoint",
                         file.name(), QuoteForError(vocab.model));
  }
  const bool bytes = vocab.model == "gpt2";
  ASSIGN_OR_RETURN(const Pipeline p, bytes ? ByteLevelPipeline(file, vocab) : SentencePiecePipeline(file, vocab));
  std::string out = R"({"version":"1.0","truncation":null,"padding":null,"added_tokens":[)";
  for (size_t i = 0; i < vocab.tokens.size(); ++i) {
    if (!vocab.IsAdded(i)) continue;
    OrderedJson added{{"id", i}};
    added.update(AddedToken(vocab, i));
    if (out.back() != '[') out.push_back(',');
    out += Dump(added);
  }
  out += "],";
  for (const auto& [name, part] : {std::pair{"normalizer", &p.normalizer}, std::pair{"pre_tokenizer", &p.pre_tokenizer},
                                   std::pair{"post_processor", &p.post_processor}, std::pair{"decoder", &p.decoder}}) {
    out += fmt::format("\"{}\":{},", name, Dump(*part));
  }
  out += fmt::format(
      R"("model":{{"type":"BPE","dropout":null,"unk_token":{},"continuing_subword_prefix":null,"end_of_word_suffix":null,)"
      R"("fuse_unk":{},"byte_fallback":{},"ignore_merges":{},"vocab":)",
      Dump(p.unk_token), p.fuse_unk, p.byte_fallback, p.ignore_merges);
  AppendVocab(vocab, p, &out);
  RETURN_IF_ERROR(CheckTextSize(file, out.size()));
  out += R"(,"merges":[)";
  RETURN_IF_ERROR(bytes ? AppendFileMerges(file, vocab, &out) : AppendPieceMerges(file, vocab, &out));
  out += "]}}\n";
  return out;
}

StatusOr<std::string> TokenizerConfigJson(const GgufFile& file, GgufArch arch, const GgufVocab& vocab) {
  const auto text = [&](const std::optional<int64_t>& id) {
    return id ? OrderedJson(std::string(vocab.tokens[*id])) : OrderedJson();
  };
  const bool qwen = arch == GgufArch::kQwen2 || arch == GgufArch::kQwen3;
  ASSIGN_OR_RETURN(const int64_t context,
                   file.RequireInt(fmt::format("{}.context_length", GgufArchName(arch)), 1, limits::kContext));
  OrderedJson c;
  // transformers 5 rebuilds the classes it knows by name, and its GPT2Tokenizer drops SmolLM2's digit split.
  c["tokenizer_class"] = qwen                        ? "Qwen2Tokenizer"
                         : arch == GgufArch::kGemma3 ? "GemmaTokenizer"
                                                     : "PreTrainedTokenizerFast";
  c["add_bos_token"] = vocab.add_bos;
  c["add_eos_token"] = vocab.add_eos;
  c["add_prefix_space"] = false;
  c["clean_up_tokenization_spaces"] = false;
  c["bos_token"] = qwen && !vocab.add_bos ? OrderedJson() : text(vocab.bos);
  c["eos_token"] = text(vocab.eos);
  c["pad_token"] = text(vocab.pad);
  c["unk_token"] = text(vocab.unk);
  c["model_max_length"] = context;
  OrderedJson& added = c["added_tokens_decoder"] = OrderedJson::object();
  // (object_t::emplace_back: the ids are distinct, and operator[] of an ordered object searches it from the start)
  auto& members = added.get_ref<OrderedJson::object_t&>();
  for (size_t i = 0; i < vocab.tokens.size(); ++i) {
    if (vocab.IsAdded(i)) members.push_back({std::to_string(i), AddedToken(vocab, i)});
  }
  ASSIGN_OR_RETURN(const std::optional<std::string_view> chat, file.GetString("tokenizer.chat_template"));
  if (chat && !chat->empty()) {
    if (chat->size() > limits::kChatTemplateBytes) {
      return ResourceExhausted("{}: the chat template has {} bytes, more than {}", file.name(), chat->size(),
                               limits::kChatTemplateBytes);
    }
    if (!IsUtf8(*chat)) return DataLoss("{}: the chat template is not valid UTF-8", file.name());
    c["chat_template"] = std::string(*chat);
  }
  return Dump(c, 2) + "\n";
}

std::string GenerationConfigJson(const GgufVocab& vocab) {
  const auto id = [](const std::optional<int64_t>& value) { return value ? OrderedJson(*value) : OrderedJson(); };
  OrderedJson eos = *vocab.eos;
  if (!vocab.stop.empty()) {
    eos = OrderedJson::array({*vocab.eos});
    for (const int64_t stop : vocab.stop) eos.push_back(stop);
  }
  const OrderedJson config{{"bos_token_id", id(vocab.bos)}, {"eos_token_id", eos}, {"pad_token_id", id(vocab.pad)}};
  return Dump(config, 2) + "\n";
}

}  // namespace

StatusOr<GgufTextFiles> BuildGgufTextFiles(const GgufFile& file, GgufArch arch, int64_t vocab_size) {
  ASSIGN_OR_RETURN(const GgufVocab vocab, ReadGgufVocab(file, vocab_size));
  GgufTextFiles files;
  ASSIGN_OR_RETURN(files.tokenizer_json, TokenizerJson(file, vocab));
  ASSIGN_OR_RETURN(files.tokenizer_config_json, TokenizerConfigJson(file, arch, vocab));
  files.generation_config_json = GenerationConfigJson(vocab);
  return files;
}

}  // namespace optiq
