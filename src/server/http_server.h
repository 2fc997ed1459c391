// Accepts connections and hands their requests to a handler.
#ifndef OPTIQ_SERVER_HTTP_SERVER_H_
#define OPTIQ_SERVER_HTTP_SERVER_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/status.h"
#include "server/exchange.h"
#include "server/http_limits.h"

namespace optiq {

struct HttpServerOptions {
  std::string host = "127.0.0.1";
  uint16_t port = 8080;  // 0: any free one
  HttpLimits limits;
};

struct HttpServerStats {
  size_t connections = 0, refused = 0;
};

class HttpServer {
 public:
  // Called on a socket thread: must not block.
  using Handler = std::function<void(ExchangePtr)>;
  // The body of an answer that the connection gives on its own (a malformed request).
  using ErrorBody = std::function<std::string(int status, const std::string& message)>;

  // Binds and starts. kUnavailable when the address cannot be bound.
  static StatusOr<std::unique_ptr<HttpServer>> Start(HttpServerOptions options, Handler handler, ErrorBody error_body);
  virtual ~HttpServer() = default;

  virtual uint16_t port() const = 0;
  virtual HttpServerStats stats() const = 0;
  // No new connections; the ones that wait for a request are closed, the others after their answer.
  virtual void StopAccepting() = 0;
  // Waits until all connections are closed or the deadline has come; true if they are.
  virtual bool WaitUntilIdle(std::chrono::milliseconds deadline) = 0;
  // Closes everything and joins the threads.
  virtual void Stop() = 0;
};

}  // namespace optiq

#endif  // OPTIQ_SERVER_HTTP_SERVER_H_
