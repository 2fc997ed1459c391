#include "engine/kv_budget.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

#include "kv/kv_cache.h"

namespace optiq {
namespace {

constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

// MemAvailable: counts pages of mapped weights, which can be read again, as free.
int64_t AvailableMemory() {
  std::ifstream in("/proc/meminfo");
  std::string key, unit;
  for (int64_t kilobytes = 0; in >> key >> kilobytes; std::getline(in, unit)) {
    if (key == "MemAvailable:") return kilobytes << 10;
  }
  return kNoLimit;
}

int64_t NumberIn(const std::string& path, int64_t otherwise) {
  std::ifstream in(path);
  int64_t value = 0;
  return in >> value ? value : otherwise;  // "max" is no number
}

// What is left below the limit of a cgroup v2. Cached file pages count as used there; they give way.
int64_t CgroupMemory() {
  const std::string root = "/sys/fs/cgroup/";
  const int64_t limit = NumberIn(root + "memory.max", kNoLimit);
  if (limit == kNoLimit) return kNoLimit;
  int64_t used = NumberIn(root + "memory.current", 0);
  std::ifstream in(root + "memory.stat");
  std::string key;
  for (int64_t value = 0; in >> key >> value;) {
    if (key == "inactive_file" || key == "active_file") used -= value;
  }
  return std::max<int64_t>(0, limit - std::max<int64_t>(0, used));
}

}  // namespace

int64_t DefaultKvBytes() {
  const int64_t free = std::min(AvailableMemory(), CgroupMemory());
  constexpr int64_t kLeast = int64_t{64} << 20, kUnknown = int64_t{1} << 30;
  return free == kNoLimit ? kUnknown : std::max(kLeast, free / 5 * 3);
}

int64_t PositionsThatFit(const KvGeometry& geometry, const KvPlan& plan, int64_t bytes, int64_t most) {
  int64_t fits = 0, beyond = most + 1;
  while (beyond - fits > 1) {
    const int64_t middle = fits + (beyond - fits) / 2;
    (KvAllocatedBytes(geometry, plan, middle) <= bytes ? fits : beyond) = middle;
  }
  return fits;
}

}  // namespace optiq
