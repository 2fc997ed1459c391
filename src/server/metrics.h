// Counters of the server beside the engine's, in Prometheus' text format.
#ifndef OPTIQ_SERVER_METRICS_H_
#define OPTIQ_SERVER_METRICS_H_

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "server/http_server.h"

namespace optiq {

class Histogram {
 public:
  explicit Histogram(std::vector<double> bounds) : bounds_(std::move(bounds)), counts_(bounds_.size() + 1) {}
  void Add(double value);
  std::string Text(const std::string& name, const std::string& help) const;

 private:
  std::vector<double> bounds_;
  std::vector<int64_t> counts_;
  double sum_ = 0;
  int64_t count_ = 0;
};

// Thread-safe.
class Metrics {
 public:
  void CountRequest(const std::string& endpoint, int status);
  void CountCancelled(const std::string& reason);
  void AddGeneration(const EngineUsage& usage, double seconds);
  std::string Text(const EngineStats& engine, const HttpServerStats& http, const std::string& model) const;

 private:
  mutable std::mutex mutex_;
  std::map<std::pair<std::string, int>, int64_t> requests_;
  std::map<std::string, int64_t> cancelled_;
  Histogram ttft_{{0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60}};
  Histogram tpot_{{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1}};
  Histogram queue_{{0.001, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60}};
  Histogram latency_{{0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300}};
};

}  // namespace optiq

#endif  // OPTIQ_SERVER_METRICS_H_
