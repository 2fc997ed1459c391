#include "io/shard_index.h"

#include <algorithm>
#include <set>

#include "base/json.h"
#include "base/limits.h"
#include "io/safetensors.h"

namespace optiq {
namespace {

bool IsPlainShardName(std::string_view name) {
  return name.size() <= 255 && name.size() > 12 && name.ends_with(".safetensors") && name.front() != '.' &&
         std::none_of(name.begin(), name.end(),
                      [](unsigned char c) { return c == '/' || c == '\\' || c == ':' || c < 0x20 || c == 0x7f; });
}

}  // namespace

StatusOr<ShardIndex> ParseShardIndex(std::string_view text, std::string_view what) {
  ASSIGN_OR_RETURN(Json json, ParseJson(text, what));
  if (!json.is_object() || !json.contains("weight_map") || !json["weight_map"].is_object()) {
    return DataLoss("{}: no object 'weight_map'", what);
  }
  ShardIndex index;
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : json["weight_map"].items()) {
    if (!shard.is_string()) return DataLoss("{}: weight_map['{}']: must be a string", what, PrintableName(tensor));
    const std::string& file = shard.get_ref<const std::string&>();
    if (!IsPlainShardName(file)) {
      return DataLoss("{}: weight_map['{}']: '{}' is not the name of a .safetensors file in this folder", what,
                      PrintableName(tensor), PrintableName(file));
    }
    shards.insert(file);
    if (shards.size() > limits::kShards) return ResourceExhausted("{}: more than {} shards", what, limits::kShards);
    index.weight_map.emplace(tensor, file);
  }
  if (index.weight_map.empty()) return DataLoss("{}: weight_map is empty", what);
  index.shards.assign(shards.begin(), shards.end());
  return index;
}

}  // namespace optiq
