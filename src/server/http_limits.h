// Limits and deadlines of the HTTP edge (docs/limits.md). Deadlines are absolute: a byte now and then does not extend
// them.
#ifndef OPTIQ_SERVER_HTTP_LIMITS_H_
#define OPTIQ_SERVER_HTTP_LIMITS_H_

#include <chrono>
#include <cstddef>
#include <cstdint>

namespace optiq {

struct HttpLimits {
  size_t target_bytes = 8 << 10;
  uint32_t header_bytes = 16 << 10;
  size_t header_count = 100;
  uint64_t body_bytes = 32 << 20;
  size_t connections = 4096;
  std::chrono::milliseconds header_time{10'000};
  std::chrono::milliseconds body_idle_time{15'000};
  std::chrono::milliseconds body_time{120'000};
  std::chrono::milliseconds keep_alive_time{60'000};
  std::chrono::milliseconds write_stall_time{30'000};
  std::chrono::milliseconds heartbeat_time{10'000};
};

}  // namespace optiq

#endif  // OPTIQ_SERVER_HTTP_LIMITS_H_
