#include "engine/stop_matcher.h"

#include <algorithm>
#include <utility>

namespace optiq {

StatusOr<StopMatcher> StopMatcher::Create(std::vector<std::string> stops) {
  StopMatcher matcher;
  for (std::string& stop : stops) {
    if (stop.empty()) return InvalidArgument("stop: an empty stop string would end every text");
    Pattern pattern{std::move(stop), {}, 0};
    pattern.border.resize(pattern.text.size(), 0);
    for (size_t i = 1, k = 0; i < pattern.text.size(); ++i) {
      while (k > 0 && pattern.text[i] != pattern.text[k]) k = pattern.border[k - 1];
      if (pattern.text[i] == pattern.text[k]) ++k;
      pattern.border[i] = k;
    }
    matcher.patterns_.push_back(std::move(pattern));
  }
  return matcher;
}

std::string StopMatcher::Push(std::string_view piece) {
  if (matched()) return "";
  for (char c : piece) {
    held_.push_back(c);
    for (size_t p = 0; p < patterns_.size(); ++p) {
      Pattern& pattern = patterns_[p];
      while (pattern.state > 0 && pattern.text[pattern.state] != c) pattern.state = pattern.border[pattern.state - 1];
      if (pattern.text[pattern.state] == c) ++pattern.state;
      if (pattern.state < pattern.text.size()) continue;
      if (!matched() || pattern.text.size() > patterns_[match_].text.size()) match_ = static_cast<int>(p);
      pattern.state = 0;  // never read again: nothing is matched after a match
    }
    if (matched()) {
      std::string out = held_.substr(0, held_.size() - stop().size());
      held_.clear();
      return out;
    }
  }
  size_t hold = 0;
  for (const Pattern& pattern : patterns_) hold = std::max(hold, pattern.state);
  std::string out = held_.substr(0, held_.size() - hold);
  held_.erase(0, held_.size() - hold);
  return out;
}

std::string StopMatcher::Flush() {
  for (Pattern& pattern : patterns_) pattern.state = 0;
  return std::exchange(held_, "");
}

}  // namespace optiq
