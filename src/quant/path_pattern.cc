#include "quant/path_pattern.h"

#include <cctype>
#include <regex>

#include "base/limits.h"

namespace optiq {
namespace {

constexpr size_t kMaxPatternBytes = 256;
constexpr int kMaxRepeats =
    64;  // the automaton copies a counted group; its size bounds the recursion inside std::regex

// libstdc++'s breadth-first matcher: no exponential backtracking. Others have only the backtracking one.
constexpr std::regex::flag_type Flags() {
#ifdef __GLIBCXX__
  return std::regex::ECMAScript | std::regex_constants::__polynomial;
#else
  return std::regex::ECMAScript;
#endif
}

// The product of every number inside {n,m}, cut off above kMaxRepeats.
int RepeatProduct(std::string_view pattern) {
  int product = 1;
  bool in_braces = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    char c = pattern[i];
    if (c == '\\') {
      ++i;
    } else if (c == '{') {
      in_braces = true;
    } else if (c == '}') {
      in_braces = false;
    } else if (in_braces && std::isdigit(static_cast<unsigned char>(c))) {
      int n = 0;
      for (; i < pattern.size() && std::isdigit(static_cast<unsigned char>(pattern[i])); ++i) {
        n = std::min(n * 10 + (pattern[i] - '0'), kMaxRepeats + 1);
      }
      --i;
      product = std::min(product * std::max(n, 1), kMaxRepeats + 1);
    }
  }
  return product;
}

}  // namespace

struct PathPattern::Impl {
  std::string text;
  std::regex regex;
};

StatusOr<PathPattern> PathPattern::Compile(std::string_view pattern) {
  if (pattern.empty())
    return InvalidArgument("override: the pattern is empty; give a regular expression such as 'v_proj$'");
  if (pattern.size() > kMaxPatternBytes) {
    return InvalidArgument("override: the pattern is {} bytes long; at most {} are taken", pattern.size(),
                           kMaxPatternBytes);
  }
  if (RepeatProduct(pattern) > kMaxRepeats) {
    return InvalidArgument("override '{}': repeat counts multiply to more than {}; write a simpler pattern", pattern,
                           kMaxRepeats);
  }
  auto impl = std::make_shared<Impl>();
  impl->text = pattern;
  try {
    impl->regex.assign(impl->text, Flags());
  } catch (const std::exception& e) {
    return InvalidArgument("override '{}': not a valid regular expression ({})", pattern, e.what());
  }
  PathPattern out;
  out.impl_ = std::move(impl);
  return out;
}

StatusOr<bool> PathPattern::Matches(std::string_view path) const {
  path = path.substr(0, limits::kTensorNameBytes);
  try {
    return std::regex_search(path.begin(), path.end(), impl_->regex);
  } catch (const std::exception& e) {
    return InvalidArgument("override '{}': too complex to match ({}); write a simpler pattern", impl_->text, e.what());
  }
}

}  // namespace optiq
