// model.safetensors.index.json: which shard holds which tensor.
#ifndef OPTIQ_IO_SHARD_INDEX_H_
#define OPTIQ_IO_SHARD_INDEX_H_

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace optiq {

struct ShardIndex {
  std::map<std::string, std::string> weight_map;  // tensor -> shard
  std::vector<std::string> shards;                // file names, sorted, each once
};

// `what` names the file in errors. A shard must be a plain file name ending in .safetensors: no folders, no "..".
StatusOr<ShardIndex> ParseShardIndex(std::string_view text, std::string_view what);

}  // namespace optiq

#endif  // OPTIQ_IO_SHARD_INDEX_H_
