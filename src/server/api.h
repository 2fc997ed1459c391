// The endpoints, one file each (api_*.cc).
#ifndef OPTIQ_SERVER_API_H_
#define OPTIQ_SERVER_API_H_

#include "server/fields.h"
#include "server/router.h"

namespace optiq {

void HandleChatCompletions(const Call& call);
void HandleCompletions(const Call& call);
void HandleEmbeddings(const Call& call);
void HandleMessages(const Call& call);
void HandleCountTokens(const Call& call);
void HandleResponses(const Call& call);
void HandleTokenize(const Call& call);
void HandleDetokenize(const Call& call);
void HandleTokenizerInfo(const Call& call);
void HandleModels(const Call& call);
void HandleModel(const Call& call);
void HandleHealth(const Call& call);
void HandleMetrics(const Call& call);
void HandleProps(const Call& call);
void HandleOpenApi(const Call& call);
void HandlePage(const Call& call);

// usage of OpenAI's answers.
OrderedJson UsageJson(const EngineUsage& usage, int64_t reasoning_tokens);
// A prompt, or several: a string, strings, ids, arrays of ids. Texts and their ids (with BOS where the tokenizer adds
// one).
std::optional<ApiError> ReadPrompts(const App& app, const OrderedJson* json, const char* param, size_t most,
                                    std::vector<std::pair<std::string, std::vector<int32_t>>>* prompts);
// The model that the request names: the protocols ask for one.
std::string ReadModel(Fields* fields, const App& app);
// "x-optiq-ignored": fields that no endpoint knows are told to the client.
void TellIgnored(const Call& call, const Fields& fields);

}  // namespace optiq

#endif  // OPTIQ_SERVER_API_H_
