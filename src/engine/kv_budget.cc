#include "engine/kv_budget.h"

#include <algorithm>
#include <limits>

#include "base/memory.h"
#include "kv/kv_cache.h"

namespace optiq {
namespace {

constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

}  // namespace

int64_t DefaultKvBytes() {
  const int64_t free = AvailableMemory();
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
