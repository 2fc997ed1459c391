// One chat request on its way through the engine: n answers, each parsed as it comes, handed to the protocol's writer.
// All of it but the sinks runs on the connection's strand.
#ifndef OPTIQ_SERVER_CHAT_RUN_H_
#define OPTIQ_SERVER_CHAT_RUN_H_

#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "server/chat_call.h"
#include "server/router.h"

namespace optiq {

struct ChatAnswer {
  std::string reasoning, content;
  struct Call {
    std::string id, name, arguments;
  };
  std::vector<Call> calls;
  std::vector<TokenLogprobs> logprobs;
  bool ended_by_length = false;
  std::string stop;  // the stop string that ended it
  int64_t reasoning_tokens = 0;
  EngineUsage usage;
  bool called() const { return !calls.empty() && !ended_by_length; }
};

// Sums over n answers: the prompt is counted once.
EngineUsage TotalUsage(const std::vector<ChatAnswer>& answers);
int64_t TotalReasoningTokens(const std::vector<ChatAnswer>& answers);

// One protocol's way to write answers. Strings are bytes of the event stream.
class ChatWriter {
 public:
  virtual ~ChatWriter() = default;
  virtual Protocol protocol() const { return Protocol::kOpenAi; }
  virtual std::string Heartbeat() const { return ": keep-alive\n\n"; }

  virtual std::string Begin(const EngineUsage& prompt) = 0;
  // New events of an answer, which already holds them; logprobs of the tokens behind them.
  virtual std::string Events(size_t index, const OutputEvents& events, std::span<const TokenLogprobs> logprobs,
                             const ChatAnswer& answer) = 0;
  virtual std::string Finish(size_t index, const ChatAnswer& answer, std::span<const TokenLogprobs> logprobs) = 0;
  virtual std::string End(const std::vector<ChatAnswer>& answers) = 0;
  virtual std::string Error(const ApiError& error, std::string_view request_id) = 0;
  // The whole answer, not streamed.
  virtual OrderedJson Body(const std::vector<ChatAnswer>& answers) = 0;
};

// Submits and answers. On a pool thread.
void StartChat(const Call& call, ChatPrompt prompt, int64_t n, bool stream, std::string call_id_prefix,
               std::unique_ptr<ChatWriter> writer);

}  // namespace optiq

#endif  // OPTIQ_SERVER_CHAT_RUN_H_
