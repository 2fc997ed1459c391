#include "server/metrics.h"

#include <fmt/format.h>

#include <algorithm>

namespace optiq {
namespace {

std::string Escape(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\' || c == '"') out += '\\';
    if (c == '\n') {
      out += "\\n";
    } else {
      out += c;
    }
  }
  return out;
}

template <typename T>
void Line(std::string* out, const char* name, const char* type, const char* help, T value) {
  *out += fmt::format("# HELP optiq:{} {}\n# TYPE optiq:{} {}\noptiq:{} {}\n", name, help, name, type, name, value);
}

}  // namespace

void Histogram::Add(double value) {
  const size_t i = std::lower_bound(bounds_.begin(), bounds_.end(), value) - bounds_.begin();
  ++counts_[i];
  ++count_;
  sum_ += value;
}

std::string Histogram::Text(const std::string& name, const std::string& help) const {
  std::string out = fmt::format("# HELP {} {}\n# TYPE {} histogram\n", name, help, name);
  int64_t below = 0;
  for (size_t i = 0; i < bounds_.size(); ++i) {
    below += counts_[i];
    out += fmt::format("{}_bucket{{le=\"{}\"}} {}\n", name, bounds_[i], below);
  }
  out += fmt::format("{}_bucket{{le=\"+Inf\"}} {}\n{}_sum {}\n{}_count {}\n", name, count_, name, sum_, name, count_);
  return out;
}

void Metrics::CountRequest(const std::string& endpoint, int status) {
  std::lock_guard lock(mutex_);
  ++requests_[{endpoint, status}];
}

void Metrics::CountCancelled(const std::string& reason) {
  std::lock_guard lock(mutex_);
  ++cancelled_[reason];
}

void Metrics::AddGeneration(const EngineUsage& usage, double seconds) {
  std::lock_guard lock(mutex_);
  queue_.Add(usage.queue_seconds);
  latency_.Add(seconds);
  if (usage.completion_tokens > 0) ttft_.Add(usage.queue_seconds + usage.first_token_seconds);
  if (usage.completion_tokens > 1) tpot_.Add(usage.decode_seconds / static_cast<double>(usage.completion_tokens - 1));
}

std::string Metrics::Text(const EngineStats& e, const HttpServerStats& http, const std::string& model) const {
  std::string out = fmt::format(
      "# HELP optiq:build_info Version and model.\n# TYPE optiq:build_info "
      "gauge\noptiq:build_info{{version=\"{}\",model=\"{}\"}} 1\n",
      OPTIQ_VERSION, Escape(model));
  Line(&out, "requests_running", "gauge", "Sequences in the batch.", e.running);
  Line(&out, "requests_prefilling", "gauge", "Sequences whose prompt is being read.", e.prefilling);
  Line(&out, "requests_waiting", "gauge", "Requests in the queue.", e.waiting);
  Line(&out, "prompt_tokens_total", "counter", "Prompt tokens, cached ones included.", e.prompt_tokens);
  Line(&out, "cached_tokens_total", "counter", "Prompt tokens taken from the prefix cache.", e.cached_tokens);
  Line(&out, "generation_tokens_total", "counter", "Tokens generated.", e.completion_tokens);
  Line(&out, "kv_bytes_active", "gauge", "Bytes of keys and values of running sequences.", e.kv_bytes_active);
  Line(&out, "kv_bytes_cached", "gauge", "Bytes of keys and values kept for later prompts.", e.kv_bytes_cached);
  Line(&out, "kv_bytes_budget", "gauge", "Bytes that both may have together.", e.kv_bytes_budget);
  Line(&out, "kv_utilization", "gauge", "Active bytes over the budget.",
       e.kv_bytes_budget > 0 ? static_cast<double>(e.kv_bytes_active) / static_cast<double>(e.kv_bytes_budget) : 0.0);
  Line(&out, "prefix_cache_queries_total", "counter", "Requests that looked for a cached prefix.", e.prefix_queries);
  Line(&out, "prefix_cache_hits_total", "counter", "Requests that found one.", e.prefix_hits);
  Line(&out, "drafted_tokens_total", "counter", "Tokens guessed from repetitions.", e.drafted_tokens);
  Line(&out, "accepted_tokens_total", "counter", "Guessed tokens that were right.", e.accepted_tokens);
  Line(&out, "steps_total", "counter", "Forward passes.", e.steps);
  Line(&out, "engine_heartbeat_seconds", "gauge", "Since the engine last came round.", e.heartbeat_seconds);
  Line(&out, "connections", "gauge", "Open connections.", http.connections);
  Line(&out, "connections_refused_total", "counter", "Connections refused because there were too many.", http.refused);
  out += "# HELP optiq:finished_total Generations that ended, by reason.\n# TYPE optiq:finished_total counter\n";
  for (const auto& [reason, n] : {std::pair<const char*, int64_t>{"stop", e.finished_stop},
                                  {"length", e.finished_length},
                                  {"cancelled", e.cancelled},
                                  {"failed", e.failed},
                                  {"rejected", e.rejected}}) {
    out += fmt::format("optiq:finished_total{{reason=\"{}\"}} {}\n", reason, n);
  }
  std::lock_guard lock(mutex_);
  out +=
      "# HELP optiq:cancelled_total Generations cancelled by the server, by reason.\n# TYPE optiq:cancelled_total "
      "counter\n";
  for (const auto& [reason, n] : cancelled_)
    out += fmt::format("optiq:cancelled_total{{reason=\"{}\"}} {}\n", Escape(reason), n);
  out += "# HELP optiq:requests_total HTTP requests.\n# TYPE optiq:requests_total counter\n";
  for (const auto& [key, n] : requests_) {
    out += fmt::format("optiq:requests_total{{endpoint=\"{}\",code=\"{}\"}} {}\n", Escape(key.first), key.second, n);
  }
  out += ttft_.Text("optiq:ttft_seconds", "From arrival to the first token.");
  out += tpot_.Text("optiq:tpot_seconds", "Per token after the first.");
  out += queue_.Text("optiq:queue_seconds", "In the queue.");
  out += latency_.Text("optiq:e2e_seconds", "From arrival to the end of the answer.");
  return out;
}

}  // namespace optiq
