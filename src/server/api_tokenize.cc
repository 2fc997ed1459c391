// POST /tokenize, /detokenize, GET /tokenizer_info: both llama.cpp's and vLLM's field names.
#include "server/api.h"
#include "server/chat_call.h"
#include "server/token_text.h"

namespace optiq {

void HandleTokenize(const Call& call) {
  const App& app = *call.app;
  OrderedJson body;
  if (const auto error = ParseBody(call.request(), &body)) return call.Fail(*error);
  std::optional<ApiError> error;
  Fields fields(body, "", &error);
  const auto prompt = fields.String("prompt"), content = fields.String("content");
  const bool special =
      fields.Bool("add_special_tokens").value_or(fields.Bool("add_special").value_or(prompt.has_value()));
  const bool pieces = fields.Bool("return_token_strs").value_or(false) || fields.Bool("with_pieces").value_or(false);
  const bool generation = fields.Bool("add_generation_prompt").value_or(true);
  fields.Accept({"model", "parse_special"});
  std::vector<int32_t> ids;
  if (fields.Has("messages")) {
    ChatCall chat;
    chat.messages = ReadMessages(&fields, "messages");
    chat.tools = ReadTools(&fields, "tools");
    chat.template_args = ReadTemplateArgs(&fields, app);
    if (error) return call.Fail(*error);
    if (!app.chat_template) return call.Fail({400, "the model has no chat template", "messages", "no_chat_template"});
    RenderOptions render;
    render.tools = chat.tools;
    render.extra = chat.template_args;
    render.add_generation_prompt = generation;
    StatusOr<std::vector<int32_t>> encoded = EncodeChat(*app.chat_template, *app.tokenizer, chat.messages, render);
    if (!encoded.ok()) return call.Fail({400, Message(encoded.status()), "messages", "template_error"});
    ids = *std::move(encoded);
  } else {
    if (!prompt && !content) fields.Fail("prompt", "is missing", "missing_required_parameter");
    if (error) return call.Fail(*error);
    StatusOr<std::vector<int32_t>> encoded =
        app.tokenizer->Encode(prompt ? *prompt : *content, special ? EncodeMode::kWithSpecial : EncodeMode::kPlain);
    if (!encoded.ok()) return call.Fail(ToApiError(encoded.status()));
    ids = *std::move(encoded);
  }
  OrderedJson out = {{"tokens", ids}, {"count", ids.size()}, {"max_model_len", app.engine->options().context_length}};
  if (pieces) {
    out["token_strs"] = OrderedJson::array();
    for (const int32_t id : ids) out["token_strs"].push_back(ValidUtf8(TokenBytes(*app.tokenizer, id)));
  }
  call.Reply(JsonResponse(out));
}

void HandleDetokenize(const Call& call) {
  OrderedJson body;
  if (const auto error = ParseBody(call.request(), &body)) return call.Fail(*error);
  std::optional<ApiError> error;
  Fields fields(body, "", &error);
  fields.Accept({"model"});
  const OrderedJson* tokens = fields.Array("tokens", 4'000'000);
  if (tokens == nullptr) fields.Fail("tokens", "is missing", "missing_required_parameter");
  if (error) return call.Fail(*error);
  std::vector<int32_t> ids;
  for (const OrderedJson& t : *tokens) {
    if (!t.is_number_integer() || t.get<int64_t>() < 0 || t.get<int64_t>() >= call.app->vocab_size) {
      return call.Fail({400, fmt::format("'tokens' must hold integers from 0 to {}", call.app->vocab_size - 1),
                        "tokens", "invalid_value"});
    }
    ids.push_back(t.get<int32_t>());
  }
  StatusOr<std::string> text = call.app->tokenizer->Decode(ids, false);
  if (!text.ok()) return call.Fail(ToApiError(text.status()));
  call.Reply(JsonResponse({{"prompt", *text}, {"content", *text}}));
}

void HandleTokenizerInfo(const Call& call) {
  const Tokenizer& t = *call.app->tokenizer;
  const auto or_null = [](const std::optional<std::string>& text) {
    return text ? OrderedJson(*text) : OrderedJson(nullptr);
  };
  call.Reply(JsonResponse({{"bos_token", or_null(t.bos_token())},
                           {"eos_token", or_null(t.eos_token())},
                           {"pad_token", or_null(t.pad_token())},
                           {"unk_token", or_null(t.unk_token())},
                           {"vocab_size", call.app->vocab_size},
                           {"chat_template", call.app->chat_template ? OrderedJson(call.app->chat_template->source())
                                                                     : OrderedJson(nullptr)}}));
}

}  // namespace optiq
