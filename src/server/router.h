// Paths to endpoints, and what holds for all of them: keys, origins, hosts, request ids.
#ifndef OPTIQ_SERVER_ROUTER_H_
#define OPTIQ_SERVER_ROUTER_H_

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "server/app.h"

namespace optiq {

// A request on its way: what endpoints need beside the exchange.
struct Call {
  App* app = nullptr;
  ExchangePtr exchange;
  std::string request_id;
  std::string endpoint;  // the route's path
  std::chrono::steady_clock::time_point start;
  std::string path_rest;  // of a route that ends with '*'

  const HttpRequest& request() const { return exchange->request(); }
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); }
  // Sends and logs.
  void Reply(HttpResponse response) const;
  void Fail(const ApiError& error, Protocol protocol = Protocol::kOpenAi) const;
};

struct Route {
  enum Where { kInline, kPool };  // kInline: on the socket thread, must be immediate
  std::string method, path;       // a path ending with '*' takes everything below
  std::function<void(const Call&)> handle;
  Where where = kPool;
  bool open = false;  // no key needed
  Protocol protocol = Protocol::kOpenAi;
};

class Router {
 public:
  explicit Router(App* app) : app_(app) {}
  void Add(Route route) { routes_.push_back(std::move(route)); }
  // On a socket thread.
  void Handle(ExchangePtr exchange) const;

 private:
  // Host, Origin and CORS headers; false when the request was answered.
  bool CheckOrigin(const Call& call) const;
  bool Authorized(const HttpRequest& request) const;

  App* app_;
  std::vector<Route> routes_;
};

// Compares in time that depends on the lengths only.
bool EqualInConstantTime(std::string_view a, std::string_view b);

// The request's body as an object: content type, UTF-8, limits. An error otherwise.
std::optional<ApiError> ParseBody(const HttpRequest& request, OrderedJson* body);

void AddAllRoutes(Router* router, App* app);

}  // namespace optiq

#endif  // OPTIQ_SERVER_ROUTER_H_
