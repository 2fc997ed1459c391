#include "cli/interrupt.h"

#include <unistd.h>

namespace optiq {
namespace {

std::atomic<bool> interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free);  // the handler may touch it

void OnInterrupt(int) {
  if (interrupted.exchange(true)) ::_exit(130);
}

}  // namespace

InterruptScope::InterruptScope() {
  Clear();
  struct sigaction action {};
  action.sa_handler = OnInterrupt;  // no SA_RESTART: a read from the terminal returns
  sigemptyset(&action.sa_mask);
  ::sigaction(SIGINT, &action, &previous_);
}

InterruptScope::~InterruptScope() { ::sigaction(SIGINT, &previous_, nullptr); }

const std::atomic<bool>& InterruptScope::flag() { return interrupted; }
void InterruptScope::Clear() { interrupted = false; }

}  // namespace optiq
