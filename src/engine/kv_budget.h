// How much memory live caches may take, and how much a sequence needs.
#ifndef OPTIQ_ENGINE_KV_BUDGET_H_
#define OPTIQ_ENGINE_KV_BUDGET_H_

#include <cstdint>

#include "kv/kv_plan.h"

namespace optiq {

// 60 % of what the machine, or this process's cgroup, has left; at least 64 MiB. For servers that are told nothing.
int64_t DefaultKvBytes();

// The most positions, up to `most`, of one sequence that fit into `bytes`; 0 when not even one does.
int64_t PositionsThatFit(const KvGeometry& geometry, const KvPlan& plan, int64_t bytes, int64_t most);

}  // namespace optiq

#endif  // OPTIQ_ENGINE_KV_BUDGET_H_
