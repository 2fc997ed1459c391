#include "text/tokenizer.h"

#include "base/limits.h"
#include "text/rust_call.h"

namespace optiq {
namespace {

constexpr const char* kFile = "tokenizer.json";

ot_mode ModeOf(EncodeMode mode) {
  switch (mode) {
    case EncodeMode::kPlain:
      return OT_PLAIN;
    case EncodeMode::kWithSpecial:
      return OT_WITH_SPECIAL;
    case EncodeMode::kLiteral:
      return OT_LITERAL;
    case EncodeMode::kGuarded:
      return OT_GUARDED;
  }
  return OT_LITERAL;
}

}  // namespace

Tokenizer::Tokenizer(const ot_tok* handle, SpecialTokens special)
    : handle_(handle), special_(std::move(special)), vocab_limit_(static_cast<int32_t>(ot_tok_id_limit(handle))) {}

Tokenizer::~Tokenizer() { ot_tok_free(handle_); }

StatusOr<std::shared_ptr<const Tokenizer>> Tokenizer::Load(const Checkpoint& checkpoint) {
  if (!checkpoint.HasTextFile(kFile)) {
    return NotFound("{}: has no {}; copy it from the original model", checkpoint.path(), kFile);
  }
  ASSIGN_OR_RETURN(std::string json, checkpoint.ReadTextFile(kFile));
  ASSIGN_OR_RETURN(SpecialTokens special, ReadSpecialTokens(checkpoint));
  auto tokenizer = FromJson(json, special);
  return tokenizer.ok() ? std::move(tokenizer) : Annotate(tokenizer.status(), checkpoint.path());
}

StatusOr<std::shared_ptr<const Tokenizer>> Tokenizer::FromJson(std::string_view json, const SpecialTokens& special) {
  if (json.size() > limits::kTokenizerJsonBytes) {
    return ResourceExhausted("{}: larger than {} bytes", kFile, limits::kTokenizerJsonBytes);
  }
  if (json.starts_with("version https://git-lfs")) {
    return DataLoss("{}: this is a Git LFS pointer, not the file; fetch it with `git lfs pull`", kFile);
  }
  Json extra = {{"added_tokens", special.added_tokens}, {"split_special_tokens", special.split_special_tokens}};
  std::string extra_text = extra.dump(-1, ' ', false, Json::error_handler_t::replace);
  const ot_tok* handle = nullptr;
  rust::Buffer error;
  int code = ot_tok_load(rust::Str(json), rust::Str(extra_text), &handle, error.get());
  if (code != OT_OK) return rust::ToStatus(code, error, kFile);
  return std::shared_ptr<const Tokenizer>(new Tokenizer(handle, special));
}

StatusOr<std::vector<int32_t>> Tokenizer::Encode(std::string_view text, EncodeMode mode) const {
  rust::Buffer error;
  ot_ids ids{};
  int code = ot_tok_encode(handle_, rust::Str(text), ModeOf(mode), &ids, error.get());
  if (code != OT_OK) return rust::ToStatus(code, error, "encoding");
  std::vector<int32_t> out(ids.ptr, ids.ptr + ids.len);
  ot_ids_free(&ids);
  return out;
}

StatusOr<std::string> Tokenizer::Decode(const std::vector<int32_t>& ids, bool skip_special) const {
  for (int32_t id : ids) {
    if (id < 0) return InvalidArgument("decoding: {} is not a token id", id);
  }
  rust::Buffer text, error;
  const auto* data = reinterpret_cast<const uint32_t*>(ids.data());
  int code = ot_tok_decode(handle_, data, ids.size(), skip_special, text.get(), error.get());
  if (code != OT_OK) return rust::ToStatus(code, error, "decoding");
  return text.str();
}

StatusOr<std::string> Tokenizer::Guard(std::string_view text) const {
  rust::Buffer out, error;
  int code = ot_tok_guard(handle_, rust::Str(text), out.get(), error.get());
  if (code != OT_OK) return rust::ToStatus(code, error, "guarding");
  return out.str();
}

std::optional<int32_t> Tokenizer::TokenId(std::string_view token) const {
  rust::Buffer error;
  int64_t id = -1;
  if (ot_tok_id(handle_, rust::Str(token), &id, error.get()) != OT_OK || id < 0) return std::nullopt;
  return static_cast<int32_t>(id);
}

std::optional<std::string> Tokenizer::TokenText(int32_t id) const {
  rust::Buffer text, error;
  if (id < 0 || ot_tok_bytes(handle_, static_cast<uint32_t>(id), text.get(), error.get()) != OT_OK) return std::nullopt;
  return text.str();
}

bool Tokenizer::IsSpecial(int32_t id) const {
  return id >= 0 && (ot_tok_kind(handle_, static_cast<uint32_t>(id)) & 1) != 0;
}

bool Tokenizer::IsControl(int32_t id) const {
  return id >= 0 && (ot_tok_kind(handle_, static_cast<uint32_t>(id)) & 2) != 0;
}

}  // namespace optiq
