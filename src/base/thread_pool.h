// A fork-join pool. Work is split over output rows, never over a sum, so results do not depend on the number of threads.
#ifndef OPTIQ_BASE_THREAD_POOL_H_
#define OPTIQ_BASE_THREAD_POOL_H_

#include <cstdint>
#include <functional>
#include <memory>

namespace optiq {

class ThreadPool {
 public:
  // num_threads includes the calling thread; 0 means OPTIQ_THREADS, else the CPUs this process may use.
  explicit ThreadPool(int num_threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const;

  // Calls fn(task, thread) for task in [0, num_tasks), handed out dynamically; returns when all are done. The caller takes part
  // as thread 0. Not reentrant, one caller at a time. fn must not throw.
  void ParallelFor(int64_t num_tasks, const std::function<void(int64_t task, int thread)>& fn);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// CPUs available to this process (affinity mask and cgroup quota), at least 1.
int AvailableCpus();

}  // namespace optiq

#endif  // OPTIQ_BASE_THREAD_POOL_H_
