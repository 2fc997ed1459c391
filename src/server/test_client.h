// A blocking HTTP client over a plain socket, for tests of the server. Test code only.
#ifndef OPTIQ_SERVER_TEST_CLIENT_H_
#define OPTIQ_SERVER_TEST_CLIENT_H_

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

namespace optiq {

class TestClient {
 public:
  explicit TestClient(uint16_t port) {
    fd_ = socket(AF_INET, SOCK_STREAM, 0);
    timeval time{10, 0};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof(time));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  }
  ~TestClient() { Close(); }
  void Close() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }
  bool connected() const { return connected_; }

  void Write(const std::string& bytes) { (void)!::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL); }
  // Up to n bytes; "" at the end.
  std::string ReadSome(size_t n = 65536) {
    std::string out(n, '\0');
    const ssize_t got = recv(fd_, out.data(), n, 0);
    out.resize(got > 0 ? got : 0);
    return out;
  }
  std::string ReadUntil(const std::string& mark) {
    while (text_.find(mark) == std::string::npos) {
      const std::string more = ReadSome();
      if (more.empty()) break;
      text_ += more;
    }
    const size_t end = text_.find(mark);
    std::string out = text_.substr(0, end == std::string::npos ? end : end + mark.size());
    text_.erase(0, out.size());
    return out;
  }
  std::string ReadAll() {
    std::string out = std::exchange(text_, "");
    for (std::string more; !(more = ReadSome()).empty();) out += more;
    return out;
  }

  struct Answer {
    int status = 0;
    std::string head, body;
  };
  // One answer with a Content-Length.
  Answer Read() {
    Answer answer;
    answer.head = ReadUntil("\r\n\r\n");
    if (answer.head.size() < 12) return answer;
    answer.status = std::atoi(answer.head.c_str() + 9);
    const size_t at = answer.head.find("Content-Length: ");
    const size_t length = at == std::string::npos ? 0 : std::strtoul(answer.head.c_str() + at + 16, nullptr, 10);
    while (text_.size() < length) {
      const std::string more = ReadSome();
      if (more.empty()) break;
      text_ += more;
    }
    answer.body = text_.substr(0, length);
    text_.erase(0, answer.body.size());
    return answer;
  }
  Answer Get(const std::string& path, const std::string& headers = "") {
    Write("GET " + path + " HTTP/1.1\r\nHost: localhost\r\n" + headers + "\r\n");
    return Read();
  }
  static std::string PostText(const std::string& path, const std::string& body, const std::string& headers = "") {
    return "POST " + path + " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: " +
           std::to_string(body.size()) + "\r\n" + headers + "\r\n" + body;
  }
  Answer Post(const std::string& path, const std::string& body, const std::string& headers = "") {
    Write(PostText(path, body, headers));
    return Read();
  }

 private:
  int fd_;
  bool connected_;
  std::string text_;
};

}  // namespace optiq

#endif  // OPTIQ_SERVER_TEST_CLIENT_H_
