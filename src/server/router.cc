#include "server/router.h"

#include <algorithm>
#include <new>

#include "text/ordered_json.h"

namespace optiq {
namespace {

constexpr JsonLimits kBodyLimits{64, 1'000'000};

// "localhost:8080" -> "localhost"; "[::1]:80" -> "[::1]".
std::string_view HostName(std::string_view host) {
  const size_t bracket = host.rfind(']');
  const size_t colon = host.rfind(':');
  if (colon != std::string_view::npos && (bracket == std::string_view::npos || colon > bracket))
    host = host.substr(0, colon);
  return host;
}

bool Loopback(std::string_view name) { return name == "localhost" || name == "127.0.0.1" || name == "[::1]"; }

bool In(const std::vector<std::string>& list, std::string_view value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

std::string NameOfRequest(std::string_view given) {
  const bool fine = !given.empty() && given.size() <= 128 && std::all_of(given.begin(), given.end(), [](char c) {
    return c > ' ' && c < 127 && c != '"' && c != '\\';
  });
  return fine ? std::string(given) : MakeId("req_");
}

}  // namespace

void Call::Reply(HttpResponse response) const {
  const int status = response.status;
  exchange->Send(std::move(response));
  LogRequest(app, request(), endpoint, request_id, status, seconds());
}

void Call::Fail(const ApiError& error, Protocol protocol) const { Reply(ErrorResponse(error, protocol, request_id)); }

bool EqualInConstantTime(std::string_view a, std::string_view b) {
  unsigned char different = a.size() == b.size() ? 0 : 1;
  for (size_t i = 0; i < a.size(); ++i)
    different |= static_cast<unsigned char>(a[i] ^ (b.empty() ? 0 : b[i % b.size()]));
  return different == 0;
}

bool Router::Authorized(const HttpRequest& request) const {
  if (app_->options.api_keys.empty()) return true;
  std::string_view key = request.Header("x-api-key");
  const std::string_view bearer = request.Header("authorization");
  if (key.empty() && bearer.size() > 7 && (bearer.starts_with("Bearer ") || bearer.starts_with("bearer ")))
    key = bearer.substr(7);
  if (key.size() > 4096) return false;
  bool found = false;
  for (const std::string& known : app_->options.api_keys) found |= EqualInConstantTime(known, key);
  return found;
}

bool Router::CheckOrigin(const Call& call) const {
  const HttpRequest& request = call.request();
  const AppOptions& options = app_->options;
  const std::string_view host = HostName(request.Header("host"));
  // A page of another name that resolves to this machine must not reach a server without a key.
  if (options.api_keys.empty() && !Loopback(host) && host != options.host && !In(options.allow_hosts, host)) {
    call.Fail({403, fmt::format("the host '{}' is not served here; see --allow-host", std::string(host.substr(0, 100))),
               "", "host_not_allowed"});
    return false;
  }
  const std::string_view origin = request.Header("origin");
  if (origin.empty()) return true;
  const bool any = In(options.allow_origins, "*");
  if (any || In(options.allow_origins, origin)) {
    call.exchange->AddHeader("Access-Control-Allow-Origin", any ? "*" : std::string(origin));
    call.exchange->AddHeader("Vary", "Origin");
    call.exchange->AddHeader("Access-Control-Expose-Headers", "x-request-id");
    if (request.method == "OPTIONS") {
      HttpResponse response;
      response.status = 204;
      response.content_type = "";
      response.headers = {{"Access-Control-Allow-Methods", "GET, POST, OPTIONS"},
                          {"Access-Control-Allow-Headers",
                           "authorization, content-type, x-api-key, anthropic-version, anthropic-beta, x-request-id"},
                          {"Access-Control-Max-Age", "600"}};
      if (!request.Header("access-control-request-private-network").empty()) {
        response.headers.emplace_back("Access-Control-Allow-Private-Network", "true");
      }
      call.Reply(std::move(response));
      return false;
    }
    return true;
  }
  const bool own = origin == fmt::format("http://{}", request.Header("host")) ||
                   origin == fmt::format("https://{}", request.Header("host"));
  if (own || (request.method != "POST" && request.method != "OPTIONS")) return true;
  call.Fail({403, "requests from this origin are not allowed; see --allow-origin", "", "origin_not_allowed"});
  return false;
}

void Router::Handle(ExchangePtr exchange) const {
  const HttpRequest& request = exchange->request();
  Call call{app_, exchange, NameOfRequest(request.Header("x-request-id")), "other", std::chrono::steady_clock::now(),
            ""};
  exchange->AddHeader("x-request-id", call.request_id);
  exchange->AddHeader("X-Content-Type-Options", "nosniff");
  exchange->AddHeader("Cross-Origin-Resource-Policy", "same-origin");
  const Route* route = nullptr;
  std::string allowed;
  const std::string method = request.method == "HEAD" ? "GET" : request.method;
  // Clients that leave out "/v1" find the same endpoints.
  for (const std::string& path : {request.path, "/v1" + request.path}) {
    for (const Route& r : routes_) {
      const bool below = r.path.ends_with('*');
      const std::string_view prefix = std::string_view(r.path).substr(0, r.path.size() - (below ? 1 : 0));
      if (below ? !(path.starts_with(prefix) && path.size() > prefix.size()) : path != prefix) continue;
      allowed += (allowed.empty() ? "" : ", ") + r.method;
      if (r.method != method) continue;
      route = &r;
      call.endpoint = r.path;
      if (below) call.path_rest = path.substr(prefix.size());
      break;
    }
    if (route != nullptr) break;
  }
  if (!CheckOrigin(call)) return;
  const Protocol protocol = route != nullptr                           ? route->protocol
                            : request.path.starts_with("/v1/messages") ? Protocol::kAnthropic
                                                                       : Protocol::kOpenAi;
  if ((route == nullptr || !route->open) && !Authorized(request)) {
    return call.Fail({401, "the API key is missing or wrong", "", "invalid_api_key"}, protocol);
  }
  if (route == nullptr) {
    if (allowed.empty())
      return call.Fail({404, fmt::format("there is no endpoint {}", request.path.substr(0, 200)), "", "not_found"},
                       protocol);
    HttpResponse response = ErrorResponse(
        {405, fmt::format("this endpoint takes {}", allowed), "", "method_not_allowed"}, protocol, call.request_id);
    response.headers.emplace_back("Allow", allowed);
    return call.Reply(std::move(response));
  }
  const auto guarded = [call, route, protocol] {
    try {
      route->handle(call);
    } catch (const std::bad_alloc&) {
      call.Fail({503, "out of memory", "", "out_of_memory"}, protocol);
    } catch (const std::exception& error) {
      call.Fail({500, fmt::format("internal error: {}", error.what()), "", "internal_error"}, protocol);
    }
  };
  if (route->where == Route::kInline) return guarded();
  if (!app_->work.Run(guarded)) call.Fail({429, "too many requests are waiting", "", "queue_full"}, protocol);
}

std::optional<ApiError> ParseBody(const HttpRequest& request, OrderedJson* body) {
  std::string type(request.Header("content-type").substr(0, request.Header("content-type").find(';')));
  std::transform(type.begin(), type.end(), type.begin(),
                 [](unsigned char c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; });
  while (type.ends_with(' ')) type.pop_back();
  if (type != "application/json")
    return ApiError{415, "the content type must be application/json", "", "unsupported_media_type"};
  if (request.body.find('\0') != std::string::npos)
    return ApiError{400, "the body holds a NUL byte", "", "invalid_json"};
  StatusOr<OrderedJson> json = ParseOrderedJson(request.body, "the body", kBodyLimits);
  if (!json.ok()) return ApiError{400, Message(json.status()), "", "invalid_json"};
  if (!json->is_object()) return ApiError{400, "the body must be a JSON object", "", "invalid_json"};
  *body = *std::move(json);
  return std::nullopt;
}

}  // namespace optiq
