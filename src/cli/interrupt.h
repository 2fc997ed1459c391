// Ctrl-C. Without a scope SIGINT ends the program as usual. Inside one the first SIGINT only sets a flag that the work
// looks at, a second one ends the program at once.
#ifndef OPTIQ_CLI_INTERRUPT_H_
#define OPTIQ_CLI_INTERRUPT_H_

#include <signal.h>

#include <atomic>

namespace optiq {

// At most one at a time.
class InterruptScope {
 public:
  InterruptScope();
  ~InterruptScope();
  InterruptScope(const InterruptScope&) = delete;
  InterruptScope& operator=(const InterruptScope&) = delete;

  // True once SIGINT came.
  static const std::atomic<bool>& flag();
  // Forgets a SIGINT, so that the next one counts as the first again.
  static void Clear();

 private:
  struct sigaction previous_;
};

}  // namespace optiq

#endif  // OPTIQ_CLI_INTERRUPT_H_
