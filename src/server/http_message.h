// A request and a response, as plain data.
#ifndef OPTIQ_SERVER_HTTP_MESSAGE_H_
#define OPTIQ_SERVER_HTTP_MESSAGE_H_

#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace optiq {

struct HttpRequest {
  std::string method, path, query;  // the path as sent: nothing is decoded, so that no two spellings reach one endpoint
  std::map<std::string, std::string> headers;  // names in lower case; repeated ones joined with ", "
  std::string body;
  std::string peer;  // the client's address

  std::string_view Header(const std::string& name) const {
    const auto it = headers.find(name);
    return it == headers.end() ? std::string_view() : std::string_view(it->second);
  }
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  std::vector<std::pair<std::string, std::string>> headers;
};

}  // namespace optiq

#endif  // OPTIQ_SERVER_HTTP_MESSAGE_H_
