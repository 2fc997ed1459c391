// What went wrong with a request, and its body in either protocol.
#ifndef OPTIQ_SERVER_API_ERROR_H_
#define OPTIQ_SERVER_API_ERROR_H_

#include <string>
#include <string_view>

#include "base/json.h"
#include "base/status.h"
#include "server/http_message.h"

namespace optiq {

enum class Protocol { kOpenAi, kAnthropic };

struct ApiError {
  int status = 400;
  std::string message, param, code;  // param and code: empty for null
};

// kOutOfRange: 400 context_length_exceeded; kInvalidArgument and kDataLoss of parsing: 400; kAborted: 429
// (the queue is full); kUnavailable: 503 (draining); kResourceExhausted: 503; others 500.
ApiError ToApiError(const Status& status);

OrderedJson ErrorJson(const ApiError& error, Protocol protocol, std::string_view request_id = "");
HttpResponse ErrorResponse(const ApiError& error, Protocol protocol, std::string_view request_id = "");

// One line; broken UTF-8 becomes U+FFFD.
std::string Dump(const OrderedJson& json);
HttpResponse JsonResponse(const OrderedJson& json, int status = 200);

}  // namespace optiq

#endif  // OPTIQ_SERVER_API_ERROR_H_
