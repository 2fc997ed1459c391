// How much memory is free, and memory in large pages.
#ifndef OPTIQ_BASE_MEMORY_H_
#define OPTIQ_BASE_MEMORY_H_

#include <cstddef>
#include <cstdint>

namespace optiq {

// Bytes that this process may still take: the machine's MemAvailable (pages of mapped files, which can be read again, count as
// free) and what is left below the limit of a cgroup v2. INT64_MAX where neither is known.
int64_t AvailableMemory();

// Zeroed pages from the kernel, large ones where it has them: reading through them misses fewer address translations.
class LargePages {
 public:
  LargePages() = default;
  ~LargePages() { Free(); }
  LargePages(const LargePages&) = delete;
  LargePages& operator=(const LargePages&) = delete;

  // nullptr when there is no memory. What was held is freed.
  std::byte* Allocate(size_t bytes);
  void Free();
  std::byte* data() { return data_; }
  size_t size() const { return size_; }

 private:
  void* map_ = nullptr;
  size_t map_size_ = 0;
  std::byte* data_ = nullptr;  // on a large page's border
  size_t size_ = 0;
};

}  // namespace optiq

#endif  // OPTIQ_BASE_MEMORY_H_
