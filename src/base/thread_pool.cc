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

// Waits are bridged by spinning, as the gaps between the operations of a decoder step are short: by a worker for a job, then it
// sleeps; by the caller for the last tasks of a job, then it offers the processor to others. With more threads than processors,
// where whoever is waited for may need this processor, hardly at all.
constexpr int kWorkerPauses = 6000;
constexpr int kCallerPauses = 30000;
constexpr int kCrowdedPauses = 50;

// A job's state in one word, so that a late worker can never take a task of another job: tasks handed out, number of tasks, and a
// number that tells jobs apart.
constexpr int kTaskBits = 22;
constexpr uint64_t kTaskMask = (uint64_t{1} << kTaskBits) - 1;
uint64_t NextOf(uint64_t ticket) { return ticket & kTaskMask; }
uint64_t CountOf(uint64_t ticket) { return (ticket >> kTaskBits) & kTaskMask; }
uint64_t JobOf(uint64_t ticket) { return ticket >> (2 * kTaskBits); }

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
  int worker_pauses = kWorkerPauses, caller_pauses = kCallerPauses;
  std::vector<std::thread> workers;

  alignas(128) std::atomic<uint64_t> ticket{0};
  alignas(128) std::atomic<int64_t> done{0};  // tasks of the current job
  alignas(128) std::atomic<int> sleepers{0};
  std::atomic<bool> stop{false};
  const std::function<void(int64_t, int)>* fn = nullptr;  // valid while a task of the job is open
  std::mutex mutex;
  std::condition_variable wake;

  // Whoever holds a task keeps its job alive; a job whose tasks are all taken is not touched.
  void RunTasks(int thread) {
    uint64_t t = ticket.load(std::memory_order_acquire);
    while (NextOf(t) < CountOf(t)) {
      if (!ticket.compare_exchange_weak(t, t + 1, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
      (*fn)(static_cast<int64_t>(NextOf(t)), thread);
      done.fetch_add(1, std::memory_order_release);
      t = ticket.load(std::memory_order_acquire);
    }
  }

  void Worker(int thread) {
    uint64_t seen = 0;
    for (;;) {
      int waits = 0;
      while (JobOf(ticket.load(std::memory_order_acquire)) == seen && !stop.load(std::memory_order_relaxed)) {
        if (++waits < worker_pauses) {
          Pause();
        } else {
          std::unique_lock<std::mutex> lock(mutex);
          sleepers.fetch_add(1, std::memory_order_seq_cst);
          wake.wait(lock, [&] { return JobOf(ticket.load(std::memory_order_seq_cst)) != seen || stop.load(); });
          sleepers.fetch_sub(1, std::memory_order_relaxed);
        }
      }
      if (stop.load(std::memory_order_relaxed)) return;
      seen = JobOf(ticket.load(std::memory_order_acquire));
      RunTasks(thread);
    }
  }
};

ThreadPool::ThreadPool(int num_threads) : impl_(std::make_unique<Impl>()) {
  if (num_threads <= 0) num_threads = ThreadsFromEnvironment();
  if (num_threads <= 0) num_threads = AvailableCpus();
  impl_->num_threads = num_threads;
  if (num_threads > AvailableCpus()) impl_->worker_pauses = impl_->caller_pauses = kCrowdedPauses;
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
  // More tasks than a ticket can count are handed out several at a time.
  const int64_t stride = (num_tasks + static_cast<int64_t>(kTaskMask) - 1) / static_cast<int64_t>(kTaskMask);
  const int64_t count = (num_tasks + stride - 1) / stride;
  const std::function<void(int64_t, int)> strided = [&](int64_t task, int thread) {
    for (int64_t i = task * stride; i < std::min(num_tasks, (task + 1) * stride); ++i) fn(i, thread);
  };
  p.fn = stride == 1 ? &fn : &strided;
  p.done.store(0, std::memory_order_relaxed);
  const uint64_t job = (JobOf(p.ticket.load(std::memory_order_relaxed)) + 1) & (~uint64_t{0} >> (2 * kTaskBits));
  p.ticket.store((job << (2 * kTaskBits)) | (static_cast<uint64_t>(count) << kTaskBits), std::memory_order_seq_cst);
  if (p.sleepers.load(std::memory_order_seq_cst) > 0) {
    // The lock pairs with the wait: a worker that is about to sleep sees the new job.
    { std::lock_guard<std::mutex> lock(p.mutex); }
    p.wake.notify_all();
  }
  p.RunTasks(0);
  for (int waits = 0; p.done.load(std::memory_order_acquire) != count;) {
    if (++waits < p.caller_pauses) {
      Pause();
    } else {
      std::this_thread::yield();  // a worker was put off the processor in the middle of a task
    }
  }
}

}  // namespace optiq
