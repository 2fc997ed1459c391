// One client's socket: requests in, answers out, deadlines, and noticing that the client left. Included by
// http_server.cc and connection.cc only.
#ifndef OPTIQ_SERVER_CONNECTION_H_
#define OPTIQ_SERVER_CONNECTION_H_

#include <atomic>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "server/exchange.h"
#include "server/http_limits.h"
#include "server/http_server.h"

namespace optiq {

class HttpExchange;

// All private methods run on the strand (the socket's executor).
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  using Tcp = boost::asio::ip::tcp;
  using ErrorCode = boost::system::error_code;

  Connection(Tcp::socket socket, const HttpLimits& limits, const HttpServer::Handler& handler,
             const HttpServer::ErrorBody& error_body, const std::atomic<bool>& draining)
      : socket_(std::move(socket)),
        timer_(socket_.get_executor()),
        heartbeat_timer_(socket_.get_executor()),
        limits_(limits),
        handler_(handler),
        error_body_(error_body),
        draining_(draining) {}

  void Start();
  // Answers 503 and closes: there are too many.
  void Refuse();
  // Closes if no request is being answered. From any thread.
  void CloseIfIdle();
  // From any thread.
  void Abort();

 private:
  friend class HttpExchange;
  enum class State { kIdle, kReading, kAnswering, kClosed };

  // Waits for bytes of the next request, or, while answering, for the client to leave.
  void Watch();
  void OnWatched(ErrorCode error, size_t bytes);
  void ReadHeader();
  void OnHeader(ErrorCode error);
  void ReadBody();
  void OnBody(ErrorCode error);
  void Dispatch();
  // Answers an error of the request's framing and closes.
  void Fail(int status, const std::string& message);

  void SendResponse(HttpResponse response);
  void BeginStream(HttpResponse head, std::string heartbeat);
  void WriteStream(std::string piece);
  void EndStream();
  std::string Head(const HttpResponse& response, bool chunked) const;
  void Queue(std::string bytes);
  void Flush();
  void OnFlushed(ErrorCode error, size_t bytes);
  void FinishAnswer();
  void Heartbeat();

  void SetDeadline(std::chrono::milliseconds time);
  void OnDeadline();
  // Ends the connection after a refusal without losing the answer: waits for the client's end for a while.
  void Linger();
  void Close();
  void Leave();

  template <typename Handler>
  auto Guarded(Handler handler);

  Tcp::socket socket_;
  boost::asio::steady_timer timer_, heartbeat_timer_;
  const HttpLimits& limits_;
  const HttpServer::Handler& handler_;
  const HttpServer::ErrorBody& error_body_;
  const std::atomic<bool>& draining_;

  State state_ = State::kIdle;
  boost::beast::flat_buffer buffer_;
  std::optional<boost::beast::http::request_parser<boost::beast::http::string_body>> parser_;
  std::chrono::steady_clock::time_point body_deadline_;
  bool watching_ = false, read_pending_ = false, restart_ = false;
  uint64_t deadline_ = 0;  // counts SetDeadline: an older timer's end means nothing
  bool deadline_set_ = false;

  std::shared_ptr<HttpExchange> exchange_;
  bool keep_alive_ = false, chunked_ = false, head_only_ = false, streaming_ = false, answer_complete_ = false,
       lingering_ = false;
  std::string heartbeat_;
  std::chrono::steady_clock::time_point last_write_;
  std::string queue_, writing_;
  size_t discarded_ = 0;
};

class HttpExchange : public Exchange, public std::enable_shared_from_this<HttpExchange> {
 public:
  HttpExchange(std::shared_ptr<Connection> connection, HttpRequest request)
      : connection_(std::move(connection)), request_(std::move(request)) {}

  const HttpRequest& request() const override { return request_; }
  void AddHeader(std::string name, std::string value) override {
    headers_.emplace_back(std::move(name), std::move(value));
  }
  void Send(HttpResponse response) override;
  void BeginStream(HttpResponse head, std::string heartbeat) override;
  void Write(std::string piece) override;
  void EndStream() override;
  void Post(std::function<void()> task) override;
  size_t unsent() const override;
  void OnDrained(std::function<void()> task) override;
  void OnLeave(std::function<void()> task) override;

 private:
  friend class Connection;
  bool current() const { return connection_->exchange_.get() == this; }

  std::shared_ptr<Connection> connection_;
  HttpRequest request_;
  std::vector<std::pair<std::string, std::string>> headers_;
  std::function<void()> on_leave_, on_drained_;
  bool left_ = false, ended_ = false;
};

}  // namespace optiq

#endif  // OPTIQ_SERVER_CONNECTION_H_
