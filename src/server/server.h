// The whole server: listener, router, endpoints, and its end.
#ifndef OPTIQ_SERVER_SERVER_H_
#define OPTIQ_SERVER_SERVER_H_

#include <chrono>
#include <memory>

#include "server/app.h"
#include "server/http_server.h"
#include "server/router.h"

namespace optiq {

class OptiqServer {
 public:
  // app's members are set; it outlives the server. kInvalidArgument for an address other than loopback without a key.
  static StatusOr<std::unique_ptr<OptiqServer>> Start(App* app, HttpServerOptions options);
  ~OptiqServer();

  uint16_t port() const { return http_->port(); }
  // No new requests; running ones finish until the deadline, then they are cancelled. Blocks until all connections are
  // closed.
  void Drain(std::chrono::milliseconds deadline);

 private:
  explicit OptiqServer(App* app) : app_(app), router_(app) {}

  App* app_;
  Router router_;
  std::unique_ptr<HttpServer> http_;
};

bool IsLoopback(const std::string& host);

}  // namespace optiq

#endif  // OPTIQ_SERVER_SERVER_H_
