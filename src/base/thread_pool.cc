#include "base/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace optiq {
namespace {

// CPUs of the cgroup v2 quota, rounded up; 0 when there is none.
int CgroupCpus() {
  std::ifstream in("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (!(in >> quota >> period) || quota == "max" || period <= 0) return 0;
  double value = 0;
  auto [end, error] = std::from_chars(quota.data(), quota.data() + quota.size(), value);
  if (error != std::errc() || value <= 0) return 0;
  return static_cast<int>((value + period - 1) / period);
}

int ThreadsFromEnvironment() {
  const char* text = std::getenv("OPTIQ_THREADS");
  if (text == nullptr) return 0;
  int value = 0;
  auto [end, error] = std::from_chars(text, text + std::strlen(text), value);
  if (error != std::errc() || *end != '\0' || value < 1 || value > 1024) {
    std::fprintf(stderr, "optiq: warning: OPTIQ_THREADS='%s' is not a number from 1 to 1024; ignored\n", text);
    return 0;
  }
  return value;
}

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Spins before sleeping: long enough to bridge the serial gaps between the operations of a decoder step.
constexpr int kSpins = 4000;

}  // namespace

int AvailableCpus() {
  int cpus = 0;
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) cpus = CPU_COUNT(&set);
  if (cpus <= 0) cpus = static_cast<int>(std::thread::hardware_concurrency());
  const int quota = CgroupCpus();
  if (quota > 0) cpus = std::min(cpus, quota);
  return std::max(1, cpus);
}

struct ThreadPool::Impl {
  int num_threads = 1;
  std::vector<std::thread> workers;

  std::mutex mutex;
  std::condition_variable wake;
  std::atomic<uint64_t> generation{0};  // one more for each job
  std::atomic<bool> stop{false};
  std::atomic<int64_t> next{0};
  std::atomic<int> running{0};  // workers inside the current job
  int64_t num_tasks = 0;
  const std::function<void(int64_t, int)>* fn = nullptr;

  void RunTasks(int thread) {
    for (;;) {
      const int64_t task = next.fetch_add(1, std::memory_order_relaxed);
      if (task >= num_tasks) return;
      (*fn)(task, thread);
    }
  }

  void Worker(int thread) {
    uint64_t seen = 0;
    for (;;) {
      int spins = 0;
      while (generation.load(std::memory_order_acquire) == seen && !stop.load(std::memory_order_relaxed)) {
        if (++spins < kSpins) {
          Pause();
          continue;
        }
        std::unique_lock<std::mutex> lock(mutex);
        wake.wait(lock, [&] { return generation.load(std::memory_order_relaxed) != seen || stop.load(); });
      }
      if (stop.load(std::memory_order_relaxed)) return;
      seen = generation.load(std::memory_order_acquire);
      RunTasks(thread);
      running.fetch_sub(1, std::memory_order_release);
    }
  }
};

ThreadPool::ThreadPool(int num_threads) : impl_(std::make_unique<Impl>()) {
  if (num_threads <= 0) num_threads = ThreadsFromEnvironment();
  if (num_threads <= 0) num_threads = AvailableCpus();
  impl_->num_threads = num_threads;
  for (int i = 1; i < num_threads; ++i) impl_->workers.emplace_back([this, i] { impl_->Worker(i); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard<std::mutex> lock(impl_->mutex);
    impl_->stop = true;
  }
  impl_->wake.notify_all();
  for (std::thread& t : impl_->workers) t.join();
}

int ThreadPool::num_threads() const { return impl_->num_threads; }

void ThreadPool::ParallelFor(int64_t num_tasks, const std::function<void(int64_t, int)>& fn) {
  if (num_tasks <= 0) return;
  if (num_tasks == 1 || impl_->num_threads == 1) {
    for (int64_t i = 0; i < num_tasks; ++i) fn(i, 0);
    return;
  }
  Impl& p = *impl_;
  {
    // The lock pairs with the wait above: a worker that is about to sleep sees the new generation.
    std::lock_guard<std::mutex> lock(p.mutex);
    p.fn = &fn;
    p.num_tasks = num_tasks;
    p.next.store(0, std::memory_order_relaxed);
    p.running.store(p.num_threads - 1, std::memory_order_relaxed);
    p.generation.fetch_add(1, std::memory_order_release);
  }
  p.wake.notify_all();
  p.RunTasks(0);
  while (p.running.load(std::memory_order_acquire) != 0) Pause();
}

}  // namespace optiq
