// Threads for what a request costs before the model runs: JSON, templates, tokens, grammars.
#ifndef OPTIQ_SERVER_WORK_POOL_H_
#define OPTIQ_SERVER_WORK_POOL_H_

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace optiq {

class WorkPool {
 public:
  WorkPool(int threads, size_t most_waiting);
  ~WorkPool();

  // False when too much is waiting.
  bool Run(std::function<void()> task);
  // Drops what waits and joins.
  void Stop();

 private:
  void Loop();

  const size_t most_waiting_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace optiq

#endif  // OPTIQ_SERVER_WORK_POOL_H_
