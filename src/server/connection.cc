#include "server/connection.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/http/read.hpp>
#include <cctype>
#include <new>

namespace optiq {

namespace asio = boost::asio;
namespace http = boost::beast::http;

namespace {

constexpr size_t kWatchBytes = 64 << 10;  // of the next request, read while this one is answered
constexpr size_t kWriteBytes = 64 << 10;  // given to the socket at once: what must go out within the stall time
constexpr size_t kDiscardBytes = 64 << 20;

const char* Reason(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 204:
      return "No Content";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 411:
      return "Length Required";
    case 413:
      return "Payload Too Large";
    case 414:
      return "URI Too Long";
    case 415:
      return "Unsupported Media Type";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 500:
      return "Internal Server Error";
    case 501:
      return "Not Implemented";
    case 503:
      return "Service Unavailable";
    case 505:
      return "HTTP Version Not Supported";
    default:
      return "Status";
  }
}

std::string Lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return out;
}

int StatusOf(const Connection::ErrorCode& error) {
  if (error == http::error::header_limit) return 431;
  if (error == http::error::body_limit) return 413;
  if (error == http::error::bad_version) return 505;
  return 400;
}

std::string_view View(boost::beast::string_view text) { return {text.data(), text.size()}; }

}  // namespace

// A completion handler that keeps the connection alive and lets nothing escape: memory that ran out costs one
// connection.
template <typename Handler>
auto Connection::Guarded(Handler handler) {
  return [self = shared_from_this(), handler = std::move(handler)](auto&&... args) {
    try {
      handler(self.get(), std::forward<decltype(args)>(args)...);
    } catch (const std::exception&) {
      self->Leave();
    }
  };
}

void Connection::Start() {
  asio::dispatch(socket_.get_executor(), Guarded([](Connection* c) {
                   c->SetDeadline(c->limits_.header_time);
                   c->Watch();
                 }));
}

void Connection::Refuse() {
  asio::dispatch(socket_.get_executor(),
                 Guarded([](Connection* c) { c->Fail(503, "too many connections; try again later"); }));
}

void Connection::CloseIfIdle() {
  asio::post(socket_.get_executor(), Guarded([](Connection* c) {
               if (c->state_ == State::kIdle || c->state_ == State::kReading) c->Close();
             }));
}

void Connection::Abort() {
  asio::post(socket_.get_executor(), Guarded([](Connection* c) { c->Leave(); }));
}

void Connection::Watch() {
  if (watching_ || state_ == State::kClosed || (!lingering_ && buffer_.size() >= kWatchBytes)) return;
  watching_ = true;
  socket_.async_read_some(buffer_.prepare(4096),
                          Guarded([](Connection* c, ErrorCode error, size_t bytes) { c->OnWatched(error, bytes); }));
}

void Connection::OnWatched(ErrorCode error, size_t bytes) {
  watching_ = false;
  if (state_ == State::kClosed) return;
  if (!error) buffer_.commit(bytes);
  if (lingering_) {
    discarded_ += buffer_.size();
    buffer_.consume(buffer_.size());
    if (error || discarded_ > kDiscardBytes) return Close();
    return Watch();
  }
  if (restart_) {  // the answer went out while this read was pending
    restart_ = false;
    if (error && error != asio::error::operation_aborted) return Close();
    return buffer_.size() > 0 ? ReadHeader() : Watch();
  }
  if (error) return Leave();
  if (state_ == State::kIdle) return ReadHeader();
  Watch();
}

void Connection::ReadHeader() {
  state_ = State::kReading;
  read_pending_ = true;
  parser_.emplace();
  parser_->header_limit(limits_.header_bytes);
  parser_->body_limit(limits_.body_bytes);
  SetDeadline(limits_.header_time);
  http::async_read_header(socket_, buffer_, *parser_,
                          Guarded([](Connection* c, ErrorCode error, size_t) { c->OnHeader(error); }));
}

void Connection::OnHeader(ErrorCode error) {
  read_pending_ = false;
  if (state_ != State::kReading) return;
  if (error == http::error::end_of_stream || error == http::error::partial_message) return Close();
  if (error) {
    if (error.category() != http::make_error_code(http::error::bad_version).category()) return Close();
    return Fail(StatusOf(error), fmt::format("the request is not valid HTTP/1.1: {}", error.message()));
  }
  const auto& header = parser_->get();
  if (header.target().size() > limits_.target_bytes) return Fail(414, "the request target is too long");
  size_t count = 0, hosts = 0;
  for (const auto& field : header) {
    ++count;
    hosts += field.name() == http::field::host;
  }
  if (count > limits_.header_count) return Fail(431, fmt::format("more than {} header fields", limits_.header_count));
  if (hosts > 1 || (hosts == 0 && header.version() >= 11)) return Fail(400, "exactly one Host header is needed");
  if (const auto coding = header.find(http::field::transfer_encoding);
      coding != header.end() && Lower(View(coding->value())) != "chunked") {
    return Fail(501, "the only transfer coding known is chunked");
  }
  body_deadline_ = std::chrono::steady_clock::now() + limits_.body_time;
  if (parser_->is_done()) return Dispatch();
  if (const auto length = parser_->content_length(); length && *length > limits_.body_bytes) {
    return Fail(413, fmt::format("the body is larger than {} bytes", limits_.body_bytes));
  }
  if (Lower(View(header[http::field::expect])) == "100-continue") {
    static const std::string kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
    asio::async_write(socket_, asio::buffer(kContinue),
                      Guarded([](Connection* c, ErrorCode e, size_t) { e ? c->Close() : c->ReadBody(); }));
    return;
  }
  ReadBody();
}

void Connection::ReadBody() {
  const auto left =
      std::chrono::duration_cast<std::chrono::milliseconds>(body_deadline_ - std::chrono::steady_clock::now());
  SetDeadline(std::min(left, limits_.body_idle_time));
  read_pending_ = true;
  http::async_read_some(socket_, buffer_, *parser_,
                        Guarded([](Connection* c, ErrorCode error, size_t) { c->OnBody(error); }));
}

void Connection::OnBody(ErrorCode error) {
  read_pending_ = false;
  if (state_ != State::kReading) return;
  if (error == http::error::end_of_stream || error == http::error::partial_message) return Close();
  if (error) {
    if (error.category() != http::make_error_code(http::error::bad_version).category()) return Close();
    if (error == http::error::body_limit)
      return Fail(413, fmt::format("the body is larger than {} bytes", limits_.body_bytes));
    return Fail(400, fmt::format("the body is not valid HTTP/1.1: {}", error.message()));
  }
  if (!parser_->is_done()) return ReadBody();
  Dispatch();
}

void Connection::Dispatch() {
  deadline_set_ = false;
  auto message = parser_->release();
  parser_.reset();
  HttpRequest request;
  request.method = std::string(View(message.method_string()));
  const std::string_view target = View(message.target());
  const size_t question = target.find('?');
  request.path = std::string(target.substr(0, question));
  if (question != std::string_view::npos) request.query = std::string(target.substr(question + 1));
  for (const auto& field : message) {
    std::string& value = request.headers[Lower(View(field.name_string()))];
    if (!value.empty()) value += ", ";
    value += View(field.value());
  }
  request.body = std::move(message.body());
  ErrorCode ignored;
  request.peer = socket_.remote_endpoint(ignored).address().to_string();
  keep_alive_ = message.keep_alive() && !draining_;
  chunked_ = message.version() >= 11;
  head_only_ = request.method == "HEAD";
  state_ = State::kAnswering;
  streaming_ = answer_complete_ = false;
  exchange_ = std::make_shared<HttpExchange>(shared_from_this(), std::move(request));
  Watch();
  const std::shared_ptr<HttpExchange> exchange = exchange_;
  handler_(exchange);
}

void Connection::Fail(int status, const std::string& message) {
  state_ = State::kAnswering;
  keep_alive_ = false;
  head_only_ = false;
  HttpResponse response;
  response.status = status;
  response.body = error_body_(status, message);
  deadline_set_ = false;
  SendResponse(std::move(response));
}

std::string Connection::Head(const HttpResponse& response, bool chunked) const {
  std::string head = fmt::format("HTTP/1.1 {} {}\r\n", response.status, Reason(response.status));
  if (!response.content_type.empty()) head += fmt::format("Content-Type: {}\r\n", response.content_type);
  const auto add = [&head](const auto& headers) {
    for (const auto& [name, value] : headers) head += fmt::format("{}: {}\r\n", name, value);
  };
  add(response.headers);
  if (exchange_) add(exchange_->headers_);
  if (chunked) {
    head += "Transfer-Encoding: chunked\r\n";
  } else if (!streaming_ && response.status != 204) {
    head += fmt::format("Content-Length: {}\r\n", response.body.size());
  }
  head += keep_alive_ ? "Connection: keep-alive\r\n\r\n" : "Connection: close\r\n\r\n";
  return head;
}

void Connection::SendResponse(HttpResponse response) {
  if (state_ != State::kAnswering || answer_complete_ || streaming_) return;
  answer_complete_ = true;
  std::string bytes = Head(response, false);
  if (!head_only_) bytes += response.body;
  Queue(std::move(bytes));
}

void Connection::BeginStream(HttpResponse head, std::string heartbeat) {
  if (state_ != State::kAnswering || answer_complete_ || streaming_) return;
  streaming_ = true;
  if (!chunked_) keep_alive_ = false;  // HTTP/1.0: the end of the connection is the end of the answer
  heartbeat_ = std::move(heartbeat);
  Queue(Head(head, chunked_));
  if (!heartbeat_.empty()) Heartbeat();
}

void Connection::WriteStream(std::string piece) {
  if (state_ != State::kAnswering || answer_complete_ || !streaming_ || piece.empty() || head_only_) return;
  Queue(chunked_ ? fmt::format("{:x}\r\n{}\r\n", piece.size(), piece) : std::move(piece));
}

void Connection::EndStream() {
  if (state_ != State::kAnswering || answer_complete_ || !streaming_) return;
  answer_complete_ = true;
  if (chunked_ && !head_only_) Queue("0\r\n\r\n");
  Flush();
}

void Connection::Heartbeat() {
  heartbeat_timer_.expires_after(limits_.heartbeat_time);
  heartbeat_timer_.async_wait(Guarded([exchange = exchange_.get()](Connection* c, ErrorCode error) {
    if (error || c->state_ != State::kAnswering || c->answer_complete_ || c->exchange_.get() != exchange) return;
    if (std::chrono::steady_clock::now() - c->last_write_ >= c->limits_.heartbeat_time / 2 && c->queue_.empty())
      c->WriteStream(c->heartbeat_);
    c->Heartbeat();
  }));
}

void Connection::Queue(std::string bytes) {
  last_write_ = std::chrono::steady_clock::now();
  if (queue_.empty()) {
    queue_ = std::move(bytes);
  } else {
    queue_ += bytes;
  }
  Flush();
}

void Connection::Flush() {
  if (!writing_.empty() || state_ == State::kClosed) return;
  if (queue_.empty()) {
    if (answer_complete_) FinishAnswer();
    return;
  }
  if (queue_.size() <= kWriteBytes) {
    writing_.swap(queue_);
  } else {
    writing_ = queue_.substr(0, kWriteBytes);
    queue_.erase(0, kWriteBytes);
  }
  SetDeadline(limits_.write_stall_time);
  asio::async_write(socket_, asio::buffer(writing_),
                    Guarded([](Connection* c, ErrorCode error, size_t bytes) { c->OnFlushed(error, bytes); }));
}

void Connection::OnFlushed(ErrorCode error, size_t) {
  writing_.clear();
  if (state_ == State::kClosed) return;
  deadline_set_ = false;
  if (error) return Leave();
  if (queue_.empty() && queue_.capacity() > kStreamBufferBytes) queue_.shrink_to_fit();
  Flush();
  if (exchange_ && exchange_->on_drained_ && queue_.size() + writing_.size() < kStreamBufferBytes / 4) {
    const std::function<void()> task = std::exchange(exchange_->on_drained_, nullptr);
    task();
  }
}

void Connection::FinishAnswer() {
  heartbeat_timer_.cancel();
  if (exchange_) {
    exchange_->ended_ = true;
    exchange_->on_leave_ = exchange_->on_drained_ = nullptr;
    exchange_.reset();
  }
  if (!keep_alive_ || draining_) return Linger();
  state_ = State::kIdle;
  answer_complete_ = streaming_ = false;
  SetDeadline(limits_.keep_alive_time);
  if (!watching_) return buffer_.size() > 0 ? ReadHeader() : Watch();
  if (buffer_.size() > 0) {  // the next request has begun to arrive: the watch must not take its rest
    restart_ = true;
    socket_.cancel();
  }
}

void Connection::SetDeadline(std::chrono::milliseconds time) {
  deadline_set_ = true;
  const uint64_t mine = ++deadline_;
  timer_.expires_after(std::max(time, std::chrono::milliseconds(0)));
  timer_.async_wait(Guarded([mine](Connection* c, ErrorCode error) {
    if (!error && c->deadline_set_ && c->deadline_ == mine) c->OnDeadline();
  }));
}

void Connection::OnDeadline() {
  if (state_ == State::kReading) {
    ErrorCode ignored;
    socket_.cancel(ignored);  // the pending read ends with an error and finds the state changed
    return Fail(408, "the request did not arrive in time");
  }
  if (state_ == State::kAnswering && !lingering_) return Leave();
  Close();
}

void Connection::Linger() {
  ErrorCode ignored;
  socket_.shutdown(Tcp::socket::shutdown_send, ignored);
  state_ = State::kAnswering;
  lingering_ = true;
  SetDeadline(std::chrono::milliseconds(2000));
  if (read_pending_) return Close();
  parser_.reset();
  buffer_.consume(buffer_.size());
  Watch();
}

void Connection::Leave() {
  std::function<void()> task;
  if (exchange_) {
    exchange_->left_ = true;
    task = std::exchange(exchange_->on_leave_, nullptr);
    exchange_->on_drained_ = nullptr;
  }
  Close();
  if (task) task();
}

void Connection::Close() {
  if (state_ == State::kClosed) return;
  state_ = State::kClosed;
  ErrorCode ignored;
  socket_.close(ignored);
  timer_.cancel();
  heartbeat_timer_.cancel();
  if (exchange_) {
    exchange_->ended_ = true;
    exchange_.reset();
  }
}

void HttpExchange::Send(HttpResponse response) {
  Post([this, response = std::move(response)]() mutable { connection_->SendResponse(std::move(response)); });
}
void HttpExchange::BeginStream(HttpResponse head, std::string heartbeat) {
  Post([this, head = std::move(head), heartbeat = std::move(heartbeat)]() mutable {
    connection_->BeginStream(std::move(head), std::move(heartbeat));
  });
}
void HttpExchange::Write(std::string piece) {
  Post([this, piece = std::move(piece)]() mutable { connection_->WriteStream(std::move(piece)); });
}
void HttpExchange::EndStream() {
  Post([this] { connection_->EndStream(); });
}

void HttpExchange::Post(std::function<void()> task) {
  // dispatch: at once when already on the strand, which keeps the order and spares a round.
  asio::dispatch(connection_->socket_.get_executor(), [self = shared_from_this(), task = std::move(task)] {
    try {
      if (self->current()) task();
    } catch (const std::exception&) {
      self->connection_->Leave();
    }
  });
}

size_t HttpExchange::unsent() const {
  return current() ? connection_->queue_.size() + connection_->writing_.size() : 0;
}

void HttpExchange::OnDrained(std::function<void()> task) {
  if (current()) on_drained_ = std::move(task);
}

void HttpExchange::OnLeave(std::function<void()> task) {
  asio::dispatch(connection_->socket_.get_executor(), [self = shared_from_this(), task = std::move(task)]() mutable {
    if (self->left_) return task();
    if (!self->ended_) self->on_leave_ = std::move(task);
  });
}

}  // namespace optiq
