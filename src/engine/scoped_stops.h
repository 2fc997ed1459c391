// Stop strings that do not apply to thoughts.
#ifndef OPTIQ_ENGINE_SCOPED_STOPS_H_
#define OPTIQ_ENGINE_SCOPED_STOPS_H_

#include <string>
#include <string_view>
#include <vector>

#include "engine/stop_matcher.h"

namespace optiq {

// Where stop strings do not apply: between `open` and `close`.
struct StopScope {
  std::string open, close;  // empty: they apply everywhere
  bool inside = false;      // the text begins between them
  bool anywhere = false;    // `open` may come anywhere; otherwise only with nothing but spaces since the start or the last `close`
};

// As StopMatcher: what comes out does not depend on where the pieces are cut. The markers themselves are passed on, and no
// stop string is found in them or across them.
class ScopedStops {
 public:
  static StatusOr<ScopedStops> Create(std::vector<std::string> stops, StopScope scope);

  std::string Push(std::string_view piece);
  // The end of the text: a last piece and what was held back. May still match.
  std::string Finish(std::string_view piece);

  bool matched() const { return stops_.matched(); }
  const std::string& stop() const { return stops_.stop(); }

 private:
  ScopedStops(StopMatcher stops, StopScope scope);
  // Takes the first byte of held_, which begins no marker.
  void PassOne(std::string* out);

  StopMatcher stops_;
  StopScope scope_;
  bool inside_, may_open_ = true;
  std::string held_;  // may become `open`; inside: the last bytes, which may become `close`
};

}  // namespace optiq

#endif  // OPTIQ_ENGINE_SCOPED_STOPS_H_
