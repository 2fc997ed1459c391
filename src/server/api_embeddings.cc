// POST /v1/embeddings: hidden states of the loaded model, mean or last-token pooled, of length one.
#include <cmath>
#include <cstring>

#include "server/api.h"

namespace optiq {
namespace {

std::string Base64(std::string_view bytes) {
  static constexpr char kLetters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t group = 0;
    const size_t n = std::min<size_t>(3, bytes.size() - i);
    for (size_t j = 0; j < 3; ++j) group = group << 8 | (j < n ? static_cast<unsigned char>(bytes[i + j]) : 0);
    for (size_t j = 0; j < 4; ++j) out += j <= n ? kLetters[group >> (18 - 6 * j) & 63] : '=';
  }
  return out;
}

void Normalize(std::vector<float>* v) {
  double sum = 0;
  for (const float x : *v) sum += static_cast<double>(x) * x;
  if (sum <= 0) return;
  const double scale = 1 / std::sqrt(sum);
  for (float& x : *v) x = static_cast<float>(x * scale);
}

}  // namespace

void HandleEmbeddings(const Call& call) {
  const App& app = *call.app;
  OrderedJson body;
  if (const auto error = ParseBody(call.request(), &body)) return call.Fail(*error);
  std::optional<ApiError> error;
  Fields fields(body, "", &error);
  const std::string model = ReadModel(&fields, app);
  const OrderedJson* input = fields.Any("input");
  const bool base64 = fields.OneOf("encoding_format", {"float", "base64"}).value_or("float") == "base64";
  const auto dimensions = fields.Int("dimensions", 1, app.hidden_size > 0 ? app.hidden_size : INT32_MAX);
  const bool last = fields.OneOf("pooling", {"mean", "last"}).value_or("mean") == "last";
  fields.Accept({"user"});
  if (error) return call.Fail(*error);
  std::string adapter;
  if (auto e = app.FindModel(model, &adapter)) return call.Fail(*e);
  if (!adapter.empty())
    return call.Fail({400, "embeddings come from the model without an adapter", "model", "unsupported_parameter"});
  std::vector<std::pair<std::string, std::vector<int32_t>>> read;
  if (auto e = ReadPrompts(app, input, "input", 256, &read)) return call.Fail(*e);
  std::vector<std::vector<int32_t>> prompts;
  int64_t tokens = 0;
  for (auto& [text, ids] : read) {
    if (app.engine->options().context_length > 0 &&
        static_cast<int64_t>(ids.size()) > app.engine->options().context_length) {
      return call.Fail({400,
                        fmt::format("an input has {} tokens, but the context length is {}", ids.size(),
                                    app.engine->options().context_length),
                        "input", "context_length_exceeded"});
    }
    tokens += static_cast<int64_t>(ids.size());
    prompts.push_back(std::move(ids));
  }
  TellIgnored(call, fields);
  const auto run = [call, model, prompts = std::move(prompts), tokens, base64, dimensions, last]() mutable {
    StatusOr<std::vector<std::vector<float>>> vectors =
        call.app->engine->Embed(std::move(prompts), last ? Engine::Pooling::kLast : Engine::Pooling::kMean);
    if (!vectors.ok()) return call.Fail(ToApiError(vectors.status()));
    OrderedJson data = OrderedJson::array();
    for (size_t i = 0; i < vectors->size(); ++i) {
      std::vector<float>& v = (*vectors)[i];
      if (dimensions && static_cast<size_t>(*dimensions) < v.size()) v.resize(*dimensions);
      Normalize(&v);
      OrderedJson embedding;
      if (base64) {
        std::string bytes(v.size() * sizeof(float), '\0');
        std::memcpy(bytes.data(), v.data(), bytes.size());
        embedding = Base64(bytes);
      } else {
        embedding = v;
      }
      data.push_back({{"object", "embedding"}, {"index", i}, {"embedding", std::move(embedding)}});
    }
    call.Reply(JsonResponse({{"object", "list"},
                             {"data", std::move(data)},
                             {"model", model},
                             {"usage", {{"prompt_tokens", tokens}, {"total_tokens", tokens}}}}));
  };
  if (!call.app->slow.Run(run)) call.Fail({429, "too many embedding requests are waiting", "", "queue_full"});
}

}  // namespace optiq
