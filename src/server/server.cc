#include "server/server.h"

#include <thread>

namespace optiq {

bool IsLoopback(const std::string& host) { return host == "localhost" || host == "::1" || host.starts_with("127."); }

StatusOr<std::unique_ptr<OptiqServer>> OptiqServer::Start(App* app, HttpServerOptions options) {
  if (!IsLoopback(options.host) && app->options.api_keys.empty()) {
    return InvalidArgument(
        "--host {}: an address that others can reach needs a key; give --api-key-file, or bind to 127.0.0.1",
        options.host);
  }
  app->options.host = options.host;
  std::unique_ptr<OptiqServer> server(new OptiqServer(app));
  AddAllRoutes(&server->router_, app);
  OptiqServer* raw = server.get();
  ASSIGN_OR_RETURN(server->http_,
                   HttpServer::Start(
                       std::move(options), [raw](ExchangePtr exchange) { raw->router_.Handle(std::move(exchange)); },
                       [](int status, const std::string& message) {
                         return Dump(ErrorJson({status, message, "", "bad_request"}, Protocol::kOpenAi));
                       }));
  HttpServer* http = server->http_.get();
  app->http_stats = [http] { return http->stats(); };
  return server;
}

OptiqServer::~OptiqServer() {
  // Handlers of the pools use the connections, so those go last.
  app_->work.Stop();
  app_->slow.Stop();
  if (http_) http_->Stop();
  app_->http_stats = [] { return HttpServerStats{}; };
}

void OptiqServer::Drain(std::chrono::milliseconds deadline) {
  app_->draining = true;
  const auto start = std::chrono::steady_clock::now();
  http_->StopAccepting();
  app_->engine->Drain(deadline);
  // What the engine has cancelled is still to be told to the clients.
  const auto used = std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - start);
  http_->WaitUntilIdle(std::max(deadline - used, std::chrono::milliseconds(0)) + std::chrono::milliseconds(2500));
}

}  // namespace optiq
