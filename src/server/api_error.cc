#include "server/api_error.h"

namespace optiq {
namespace {

std::string OpenAiType(int status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 429:
      return "rate_limit_error";
    default:
      return status >= 500 ? "server_error" : "invalid_request_error";
  }
}

std::string AnthropicType(int status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 404:
      return "not_found_error";
    case 413:
      return "request_too_large";
    case 429:
      return "rate_limit_error";
    case 503:
      return "overloaded_error";
    default:
      return status >= 500 ? "api_error" : "invalid_request_error";
  }
}

OrderedJson OrNull(const std::string& text) { return text.empty() ? OrderedJson(nullptr) : OrderedJson(text); }

}  // namespace

ApiError ToApiError(const Status& status) {
  ApiError error;
  error.message = Message(status);
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kDataLoss:
    case absl::StatusCode::kUnimplemented:
      error.status = status.code() == absl::StatusCode::kDataLoss ? 500 : 400;
      break;
    case absl::StatusCode::kOutOfRange:
      error.code = "context_length_exceeded";
      break;
    case absl::StatusCode::kAborted:
      error.status = 429;
      error.code = "queue_full";
      break;
    case absl::StatusCode::kUnavailable:
      error.status = 503;
      error.code = "shutting_down";
      break;
    case absl::StatusCode::kResourceExhausted:
      error.status = 503;
      error.code = "out_of_memory";
      break;
    default:
      error.status = 500;
  }
  return error;
}

OrderedJson ErrorJson(const ApiError& error, Protocol protocol, std::string_view request_id) {
  if (protocol == Protocol::kAnthropic) {
    const std::string prefix = error.param.empty() ? "" : error.param + ": ";
    return {{"type", "error"},
            {"error", {{"type", AnthropicType(error.status)}, {"message", prefix + error.message}}},
            {"request_id", std::string(request_id)}};
  }
  return {{"error",
           {{"message", error.message},
            {"type", OpenAiType(error.status)},
            {"param", OrNull(error.param)},
            {"code", OrNull(error.code)}}}};
}

HttpResponse ErrorResponse(const ApiError& error, Protocol protocol, std::string_view request_id) {
  HttpResponse response = JsonResponse(ErrorJson(error, protocol, request_id), error.status);
  if (error.status == 429 || error.status == 503) response.headers.emplace_back("Retry-After", "2");
  if (error.status == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer");
  return response;
}

std::string Dump(const OrderedJson& json) { return json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace); }

HttpResponse JsonResponse(const OrderedJson& json, int status) {
  HttpResponse response;
  response.status = status;
  response.body = Dump(json);
  return response;
}

}  // namespace optiq
