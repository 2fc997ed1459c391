#include "server/http_server.h"

#include <sys/resource.h>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <unordered_map>

#include "server/connection.h"

namespace optiq {

namespace asio = boost::asio;
using Tcp = asio::ip::tcp;

namespace {

// As many descriptors as the system lets us have; how many connections that leaves.
size_t AllowedConnections(size_t wanted) {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return wanted;
  limit.rlim_cur = limit.rlim_max == RLIM_INFINITY ? 65536 : std::min<rlim_t>(limit.rlim_max, 65536);
  setrlimit(RLIMIT_NOFILE, &limit);
  getrlimit(RLIMIT_NOFILE, &limit);
  constexpr size_t kOthers = 40;  // model files, terminals, the listener
  return std::min<size_t>(wanted, limit.rlim_cur > kOthers ? limit.rlim_cur - kOthers : 1);
}

class Server : public HttpServer {
 public:
  Server(HttpServerOptions options, Handler handler, ErrorBody error_body)
      : options_(std::move(options)),
        handler_(std::move(handler)),
        error_body_(std::move(error_body)),
        acceptor_(io_),
        retry_(io_) {}
  ~Server() override { Stop(); }

  Status Listen() {
    options_.limits.connections = AllowedConnections(options_.limits.connections);
    boost::system::error_code error;
    const auto address = asio::ip::make_address(options_.host == "localhost" ? "127.0.0.1" : options_.host, error);
    if (error) return InvalidArgument("--host {}: not an IP address", options_.host);
    const Tcp::endpoint endpoint(address, options_.port);
    acceptor_.open(endpoint.protocol(), error);
    if (!error) acceptor_.set_option(Tcp::acceptor::reuse_address(true), error);
    if (!error) acceptor_.bind(endpoint, error);
    if (!error) acceptor_.listen(1024, error);
    if (error) return Unavailable("{}:{}: cannot listen: {}", options_.host, options_.port, error.message());
    port_ = acceptor_.local_endpoint().port();
    Accept();
    thread_ = std::thread([this] { Run(); });
    return OkStatus();
  }

  uint16_t port() const override { return port_; }

  HttpServerStats stats() const override {
    std::lock_guard lock(mutex_);
    return {connections_.size(), refused_};
  }

  void StopAccepting() override {
    draining_ = true;
    asio::post(io_, [this] {
      boost::system::error_code ignored;
      acceptor_.close(ignored);
      retry_.cancel();
    });
    for (const auto& connection : Live()) connection->CloseIfIdle();
  }

  bool WaitUntilIdle(std::chrono::milliseconds deadline) override {
    std::unique_lock lock(mutex_);
    return idle_.wait_for(lock, deadline, [this] { return connections_.empty(); });
  }

  void Stop() override {
    if (!thread_.joinable()) return;
    StopAccepting();
    for (const auto& connection : Live()) connection->Abort();
    WaitUntilIdle(std::chrono::seconds(2));
    io_.stop();
    thread_.join();
  }

 private:
  void Run() {
    const auto work = asio::make_work_guard(io_);
    for (;;) {
      try {
        io_.run();
        return;
      } catch (const std::exception&) {  // out of memory outside a connection: go on with the others
      }
    }
  }

  void Accept() {
    acceptor_.async_accept(asio::make_strand(io_), [this](boost::system::error_code error, Tcp::socket socket) {
      if (!acceptor_.is_open() || draining_) return;
      if (error) {  // no descriptors left, perhaps: try again later instead of spinning
        retry_.expires_after(std::chrono::milliseconds(50));
        retry_.async_wait([this](boost::system::error_code e) {
          if (!e) Accept();
        });
        return;
      }
      Take(std::move(socket));
      Accept();
    });
  }

  void Take(Tcp::socket socket) {
    boost::system::error_code ignored;
    socket.set_option(Tcp::no_delay(true), ignored);
    const uint64_t id = next_++;  // on the accepting strand only
    Connection* raw = new Connection(std::move(socket), options_.limits, handler_, error_body_, draining_);
    std::shared_ptr<Connection> connection(raw, [this, id](Connection* c) {
      delete c;
      std::lock_guard lock(mutex_);
      connections_.erase(id);
      if (connections_.empty()) idle_.notify_all();
    });
    bool full;
    {
      std::lock_guard lock(mutex_);
      full = connections_.size() >= options_.limits.connections;
      refused_ += full;
      connections_.emplace(id, connection);
    }
    full ? connection->Refuse() : connection->Start();
  }

  std::vector<std::shared_ptr<Connection>> Live() {
    std::vector<std::shared_ptr<Connection>> out;
    std::lock_guard lock(mutex_);
    for (const auto& [id, weak] : connections_) {
      if (auto connection = weak.lock()) out.push_back(std::move(connection));
    }
    return out;
  }

  HttpServerOptions options_;
  Handler handler_;
  ErrorBody error_body_;
  mutable std::mutex mutex_;  // declared before io_: connections unregister when io_ is destroyed
  std::condition_variable idle_;
  std::unordered_map<uint64_t, std::weak_ptr<Connection>> connections_;
  uint64_t next_ = 0;  // an address may be in use again before its old owner is off the list
  size_t refused_ = 0;
  std::atomic<bool> draining_{false};
  uint16_t port_ = 0;
  asio::io_context io_{1};
  Tcp::acceptor acceptor_;
  asio::steady_timer retry_;
  std::thread thread_;
};

}  // namespace

StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(HttpServerOptions options, Handler handler,
                                                        ErrorBody error_body) {
  auto server = std::make_unique<Server>(std::move(options), std::move(handler), std::move(error_body));
  RETURN_IF_ERROR(server->Listen());
  return std::unique_ptr<HttpServer>(std::move(server));
}

}  // namespace optiq
