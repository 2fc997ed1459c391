// One request and its answer, as an endpoint sees it. Everything may be called from any thread; what comes after the
// answer's end, or after the client left, has no effect.
#ifndef OPTIQ_SERVER_EXCHANGE_H_
#define OPTIQ_SERVER_EXCHANGE_H_

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "server/http_message.h"

namespace optiq {

class Exchange {
 public:
  virtual ~Exchange() = default;

  virtual const HttpRequest& request() const = 0;
  // Headers that every answer of this exchange carries (request id, CORS). Before any answer, by the router only.
  virtual void AddHeader(std::string name, std::string value) = 0;

  // The whole answer.
  virtual void Send(HttpResponse response) = 0;

  // An answer in pieces: begin, write any number of times, end. While nothing is written `heartbeat` is sent every ten
  // seconds.
  virtual void BeginStream(HttpResponse head, std::string heartbeat) = 0;
  virtual void Write(std::string piece) = 0;
  virtual void EndStream() = 0;

  // Runs the task on the connection's strand, where tasks run one at a time in order.
  virtual void Post(std::function<void()> task) = 0;
  // Bytes written and not yet taken by the client's socket. On the strand only.
  virtual size_t unsent() const = 0;
  // Called once on the strand when the unsent bytes have fallen below a quarter of the buffer.
  virtual void OnDrained(std::function<void()> task) = 0;
  // Called once on the strand when the client leaves before the answer's end; at once if it has left already.
  virtual void OnLeave(std::function<void()> task) = 0;
};

using ExchangePtr = std::shared_ptr<Exchange>;

inline constexpr size_t kStreamBufferBytes = 256 << 10;

}  // namespace optiq

#endif  // OPTIQ_SERVER_EXCHANGE_H_
