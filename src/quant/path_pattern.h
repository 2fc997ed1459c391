// Regular expressions (ECMAScript syntax) that users give to pick module paths: "mlp\\.down_proj$|embed". Matching
// takes polynomial time on any pattern where the standard library offers it (libstdc++), and patterns are kept small
// everywhere.
#ifndef OPTIQ_QUANT_PATH_PATTERN_H_
#define OPTIQ_QUANT_PATH_PATTERN_H_

#include <memory>
#include <string>
#include <string_view>

#include "base/status.h"

namespace optiq {

class PathPattern {
 public:
  // kInvalidArgument for a pattern that is empty, longer than 256 bytes, not a valid expression, uses a back reference,
  // or repeats by counts ({n,m}) whose product is above 64.
  static StatusOr<PathPattern> Compile(std::string_view pattern);

  // True when the pattern matches anywhere in the path (at most limits::kTensorNameBytes of it are looked at).
  StatusOr<bool> Matches(std::string_view path) const;

 private:
  struct Impl;
  std::shared_ptr<const Impl> impl_;
};

}  // namespace optiq

#endif  // OPTIQ_QUANT_PATH_PATTERN_H_
