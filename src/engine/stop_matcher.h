// Finds stop strings in text that arrives in pieces, and holds back whatever may still become one.
#ifndef OPTIQ_ENGINE_STOP_MATCHER_H_
#define OPTIQ_ENGINE_STOP_MATCHER_H_

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace optiq {

// What comes out does not depend on where the pieces are cut: the first stop string to be complete ends the text, and
// of those complete at the same byte the longest. No byte of it is ever passed on.
class StopMatcher {
 public:
  // kInvalidArgument for an empty stop string.
  static StatusOr<StopMatcher> Create(std::vector<std::string> stops);

  // Takes a piece, returns the text that is now safe to show. Empty once matched().
  std::string Push(std::string_view piece);
  // What was held back. Nothing is found across this point.
  std::string Flush();

  bool matched() const { return match_ >= 0; }
  // The stop string found; only when matched().
  const std::string& stop() const { return patterns_[match_].text; }

 private:
  // Knuth-Morris-Pratt: `state` bytes of `text` are a suffix of what came in.
  struct Pattern {
    std::string text;
    std::vector<size_t> border;  // border[i]: length of the longest proper prefix of text[0..i] that is its suffix
    size_t state = 0;
  };
  std::vector<Pattern> patterns_;
  std::string held_;
  int match_ = -1;
};

}  // namespace optiq

#endif  // OPTIQ_ENGINE_STOP_MATCHER_H_
