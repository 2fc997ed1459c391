#include "engine/scoped_stops.h"

#include <utility>

namespace optiq {

StatusOr<ScopedStops> ScopedStops::Create(std::vector<std::string> stops, StopScope scope) {
  const bool none = stops.empty();
  ASSIGN_OR_RETURN(StopMatcher matcher, StopMatcher::Create(std::move(stops)));
  if (none || scope.open.empty() || scope.close.empty()) scope = {};  // text is not even looked at
  return ScopedStops(std::move(matcher), std::move(scope));
}

ScopedStops::ScopedStops(StopMatcher stops, StopScope scope)
    : stops_(std::move(stops)), scope_(std::move(scope)), inside_(scope_.inside) {}

void ScopedStops::PassOne(std::string* out) {
  const char c = held_[0];
  held_.erase(0, 1);
  if (c != ' ' && c != '\n' && c != '\t' && c != '\r') may_open_ = scope_.anywhere;
  *out += stops_.Push({&c, 1});
}

std::string ScopedStops::Push(std::string_view piece) {
  if (scope_.open.empty()) return stops_.Push(piece);
  std::string out;
  for (const char c : piece) {
    if (matched()) break;
    held_ += c;
    if (inside_) {
      out += c;
      if (held_.ends_with(scope_.close)) {
        inside_ = false;
        may_open_ = true;
        held_.clear();
      } else if (held_.size() >= scope_.close.size()) {
        held_.erase(0, 1);
      }
      continue;
    }
    while (!held_.empty() && !matched() && !(may_open_ && scope_.open.starts_with(held_))) PassOne(&out);
    if (held_ == scope_.open) {
      out += stops_.Flush() + held_;
      held_.clear();
      inside_ = true;
    }
  }
  return out;
}

std::string ScopedStops::Finish(std::string_view piece) {
  std::string out = Push(piece);
  while (!inside_ && !held_.empty() && !matched()) PassOne(&out);
  if (!matched()) out += stops_.Flush();
  return out;
}

}  // namespace optiq
