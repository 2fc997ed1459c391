#include "base/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

namespace optiq {
namespace {

constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();
constexpr size_t kLargePage = size_t{2} << 20;

int64_t MachineMemory() {
  std::ifstream in("/proc/meminfo");
  std::string key, unit;
  for (int64_t kilobytes = 0; in >> key >> kilobytes; std::getline(in, unit)) {
    if (key == "MemAvailable:") return kilobytes << 10;
  }
  return kNoLimit;
}

int64_t NumberIn(const std::string& path, int64_t otherwise) {
  std::ifstream in(path);
  int64_t value = 0;
  return in >> value ? value : otherwise;  // "max" is no number
}

// Cached file pages count as used in a cgroup; they give way.
int64_t CgroupMemory() {
  const std::string root = "/sys/fs/cgroup/";
  const int64_t limit = NumberIn(root + "memory.max", kNoLimit);
  if (limit == kNoLimit) return kNoLimit;
  int64_t used = NumberIn(root + "memory.current", 0);
  std::ifstream in(root + "memory.stat");
  std::string key;
  for (int64_t value = 0; in >> key >> value;) {
    if (key == "inactive_file" || key == "active_file") used -= value;
  }
  return std::max<int64_t>(0, limit - std::max<int64_t>(0, used));
}

}  // namespace

int64_t AvailableMemory() { return std::min(MachineMemory(), CgroupMemory()); }

std::byte* LargePages::Allocate(size_t bytes) {
  Free();
  if (bytes == 0 || bytes > std::numeric_limits<size_t>::max() - 2 * kLargePage) return nullptr;
  const size_t size = bytes + kLargePage;
  void* map = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (map == MAP_FAILED) return nullptr;
  map_ = map;
  map_size_ = size;
  const uintptr_t at = (reinterpret_cast<uintptr_t>(map) + kLargePage - 1) / kLargePage * kLargePage;
  data_ = reinterpret_cast<std::byte*>(at);
  size_ = bytes;
  ::madvise(data_, bytes, MADV_HUGEPAGE);
  return data_;
}

void LargePages::Free() {
  if (map_ != nullptr) ::munmap(map_, map_size_);
  map_ = nullptr;
  data_ = nullptr;
  map_size_ = size_ = 0;
}

}  // namespace optiq
