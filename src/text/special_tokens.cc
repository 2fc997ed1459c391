#include "text/special_tokens.h"

#include <algorithm>
#include <charconv>
#include <map>

namespace optiq {
namespace {

constexpr const char* kConfigFile = "tokenizer_config.json";
constexpr const char* kMapFile = "special_tokens_map.json";
constexpr const char* kStandard[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                     "pad_token", "cls_token", "mask_token"};
constexpr const char* kFlags[] = {"single_word", "lstrip", "rstrip", "normalized", "special"};

// Tokens that a tokenizer class of transformers names by itself when tokenizer_config.json does not.
struct ClassDefault {
  const char* tokenizer_class;
  const char* name;
  const char* token;
};
constexpr ClassDefault kClassDefaults[] = {{"GemmaTokenizer", "mask_token", "<mask>"}};

bool IsStandard(std::string_view key) {
  return std::any_of(std::begin(kStandard), std::end(kStandard), [&](const char* s) { return key == s; });
}

// A token given as a string or as an object with content and flags; nullopt when null.
StatusOr<std::optional<Json>> TokenObject(const Json& value, std::string_view file, std::string_view field,
                                          bool special) {
  Json token = {
      {"single_word", false}, {"lstrip", false}, {"rstrip", false}, {"normalized", !special}, {"special", special}};
  if (value.is_null()) return std::nullopt;
  if (value.is_string()) {
    token["content"] = value;
    return token;
  }
  if (!value.is_object() || !value.contains("content") || !value["content"].is_string()) {
    return InvalidArgument("{}: field '{}' must be a token: a string or an object with 'content'", file, field);
  }
  token["content"] = value["content"];
  for (const char* flag : kFlags) {
    ASSIGN_OR_RETURN(std::optional<bool> set, GetBool(value, flag, fmt::format("{}: {}", file, field)));
    if (set) token[flag] = *set;
  }
  if (special) token["special"] = true;
  return token;
}

class Collector {
 public:
  Status Decoder(const Json& decoder) {
    std::map<int64_t, Json> by_id;
    if (!decoder.is_object()) return InvalidArgument("{}: field 'added_tokens_decoder' must be an object", kConfigFile);
    for (const auto& [key, value] : decoder.items()) {
      int64_t id = -1;
      auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
      if (error != std::errc() || end != key.data() + key.size() || id < 0) {
        return InvalidArgument("{}: field 'added_tokens_decoder': '{}' is not a token id", kConfigFile,
                               key.substr(0, 40));
      }
      ASSIGN_OR_RETURN(std::optional<Json> token, TokenObject(value, kConfigFile, "added_tokens_decoder", false));
      if (token) by_id[id] = *std::move(token);
    }
    for (auto& [id, token] : by_id) {
      known_[token["content"].get<std::string>()] = token;
      out.added_tokens.push_back(std::move(token));
    }
    return OkStatus();
  }

  Status Named(std::string_view file, const std::string& name, const Json& value) {
    ASSIGN_OR_RETURN(std::optional<Json> token, TokenObject(value, file, name, true));
    if (!token) return OkStatus();
    std::string content = (*token)["content"];
    auto same = [&](const auto& pair) { return pair.first == name; };
    auto old = std::find_if(out.named.begin(), out.named.end(), same);
    if (old != out.named.end()) {
      old->second = content;
    } else {
      out.named.emplace_back(name, content);
    }
    return Special(*std::move(token), value.is_string());
  }

  Status Extra(std::string_view file, const Json& value) {
    if (value.is_null()) return OkStatus();
    if (value.is_object()) {
      for (const auto& [name, token] : value.items()) RETURN_IF_ERROR(Named(file, name, token));
      return OkStatus();
    }
    if (!value.is_array()) return InvalidArgument("{}: field 'extra_special_tokens' must be a list or an object", file);
    for (const Json& item : value) {
      ASSIGN_OR_RETURN(std::optional<Json> token, TokenObject(item, file, "extra_special_tokens", true));
      if (token) RETURN_IF_ERROR(Special(*std::move(token), item.is_string()));
    }
    return OkStatus();
  }

  SpecialTokens out;

 private:
  // A token named by its text alone keeps the flags it was declared with.
  Status Special(Json token, bool text_only) {
    auto it = known_.find(token["content"].get<std::string>());
    if (text_only && it != known_.end()) {
      token = it->second;
      token["special"] = true;
    }
    out.added_tokens.push_back(std::move(token));
    return OkStatus();
  }

  std::map<std::string, Json> known_;
};

const Json& Field(const Json& object, const char* key) {
  static const Json null;
  auto it = object.is_object() ? object.find(key) : object.end();
  return object.is_object() && it != object.end() ? *it : null;
}

Status Collect(Collector& collector, std::string_view file, const Json& object) {
  for (const char* name : kStandard) RETURN_IF_ERROR(collector.Named(file, name, Field(object, name)));
  for (const auto& [key, value] : object.items()) {
    bool own = key.ends_with("_token") && !IsStandard(key) && (value.is_string() || value.is_object());
    if (own) RETURN_IF_ERROR(collector.Named(file, key, value));
  }
  const Json& extra = Field(object, "extra_special_tokens");
  return collector.Extra(file, extra.is_null() ? Field(object, "additional_special_tokens") : extra);
}

StatusOr<Json> ReadObject(const Checkpoint& checkpoint, const char* file) {
  if (!checkpoint.HasTextFile(file)) return Json();
  ASSIGN_OR_RETURN(std::string text, checkpoint.ReadTextFile(file));
  ASSIGN_OR_RETURN(Json json, ParseJson(text, file));
  if (!json.is_object()) return DataLoss("{}: must be a JSON object", file);
  return json;
}

}  // namespace

std::optional<std::string> SpecialTokens::Find(std::string_view name) const {
  for (const auto& [key, token] : named) {
    if (key == name) return token;
  }
  return std::nullopt;
}

StatusOr<SpecialTokens> ParseSpecialTokens(const Json& tokenizer_config, const Json& special_tokens_map) {
  Collector collector;
  const Json& decoder = Field(tokenizer_config, "added_tokens_decoder");
  if (!decoder.is_null()) RETURN_IF_ERROR(collector.Decoder(decoder));
  if (tokenizer_config.is_object()) RETURN_IF_ERROR(Collect(collector, kConfigFile, tokenizer_config));
  if (decoder.is_null() && special_tokens_map.is_object())
    RETURN_IF_ERROR(Collect(collector, kMapFile, special_tokens_map));
  ASSIGN_OR_RETURN(std::optional<std::string> tokenizer_class,
                   GetString(tokenizer_config, "tokenizer_class", kConfigFile));
  for (const ClassDefault& d : kClassDefaults) {
    std::string_view name = tokenizer_class ? std::string_view(*tokenizer_class) : "";
    if (name.ends_with("Fast")) name.remove_suffix(4);
    if (name == d.tokenizer_class && !tokenizer_config.contains(d.name)) {
      RETURN_IF_ERROR(collector.Named(kConfigFile, d.name, Json(d.token)));
    }
  }
  // The standard names come first, in their order, wherever they were found.
  auto rank = [](const auto& pair) {
    return std::find_if(std::begin(kStandard), std::end(kStandard), [&](const char* s) { return pair.first == s; }) -
           std::begin(kStandard);
  };
  std::stable_sort(collector.out.named.begin(), collector.out.named.end(),
                   [&](const auto& a, const auto& b) { return rank(a) < rank(b); });
  ASSIGN_OR_RETURN(std::optional<bool> split, GetBool(tokenizer_config, "split_special_tokens", kConfigFile));
  collector.out.split_special_tokens = split.value_or(false);
  return std::move(collector.out);
}

StatusOr<SpecialTokens> ReadSpecialTokens(const Checkpoint& checkpoint) {
  ASSIGN_OR_RETURN(Json config, ReadObject(checkpoint, kConfigFile));
  ASSIGN_OR_RETURN(Json map, ReadObject(checkpoint, kMapFile));
  auto tokens = ParseSpecialTokens(config, map);
  return tokens.ok() ? std::move(tokens) : Annotate(tokens.status(), checkpoint.path());
}

}  // namespace optiq
