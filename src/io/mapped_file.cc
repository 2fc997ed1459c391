#include "io/mapped_file.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>

namespace optiq {
namespace {

// What the fault handler may look at: plain atomics, no locks, no allocation. Maps beyond the table are still valid; a
// fault in one of them is only reported without its name.
struct Slot {
  std::atomic<const std::byte*> begin{nullptr};
  std::atomic<size_t> size{0};
  std::atomic<const char*> path{nullptr};
};
constexpr int kSlots = 1024;
Slot g_slots[kSlots];

void Register(const std::byte* begin, size_t size, const char* path) {
  for (Slot& slot : g_slots) {
    const std::byte* expected = nullptr;
    if (slot.begin.compare_exchange_strong(expected, begin)) {
      slot.path.store(path);
      slot.size.store(size);
      return;
    }
  }
}

void Unregister(const std::byte* begin) {
  for (Slot& slot : g_slots) {
    if (slot.begin.load() == begin) {
      slot.size.store(0);
      slot.path.store(nullptr);
      slot.begin.store(nullptr);
      return;
    }
  }
}

void Say(const char* text) {
  if (::write(STDERR_FILENO, text, std::strlen(text)) < 0) return;
}

void OnBusError(int, siginfo_t* info, void*) {
  const auto* address = static_cast<const std::byte*>(info->si_addr);
  for (const Slot& slot : g_slots) {
    const std::byte* begin = slot.begin.load();
    if (begin == nullptr || address < begin || address >= begin + slot.size.load()) continue;
    const char* path = slot.path.load();
    Say("optiq: ");
    Say(path != nullptr ? path : "a model file");
    Say(": the file became shorter or unreadable while it was in use; do not change a model that is loaded\n");
    ::_exit(4);
  }
  ::signal(SIGBUS, SIG_DFL);  // not ours: returning runs the instruction again and dies the ordinary way
}

// Rounded inwards (shrink) or outwards to page borders; empty when no whole page is left.
std::span<const std::byte> WholePages(std::span<const std::byte> range, bool shrink) {
  static const uintptr_t page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const uintptr_t begin = reinterpret_cast<uintptr_t>(range.data());
  const uintptr_t end = begin + range.size();
  const uintptr_t up = shrink ? page - 1 : 0;
  const uintptr_t from = (begin + up) / page * page;
  const uintptr_t to = shrink ? end / page * page : end;
  if (range.empty() || from >= to) return {};
  return {reinterpret_cast<const std::byte*>(from), to - from};
}

}  // namespace

StatusOr<std::unique_ptr<MappedFile>> MappedFile::Open(const std::string& path) {
  // O_NONBLOCK: opening a FIFO must not wait for a writer.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    const int error = errno;
    if (error == ENOENT || error == ENOTDIR) return NotFound("{}: no such file", path);
    return InvalidArgument("{}: cannot open: {}", path, std::strerror(error));
  }
  struct stat st;
  if (::fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
    ::close(fd);
    return InvalidArgument("{}: not a regular file", path);
  }
  if (st.st_size == 0) {
    ::close(fd);
    return DataLoss("{}: the file is empty; is the download complete?", path);
  }
  void* data = ::mmap(nullptr, st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
  const int error = errno;
  ::close(fd);
  if (data == MAP_FAILED) {
    return ResourceExhausted("{}: cannot map {} bytes: {}", path, st.st_size, std::strerror(error));
  }
  // Weights are read in large pieces: where the file system has large pages in its cache, they are mapped as such.
  ::madvise(data, st.st_size, MADV_HUGEPAGE);
  std::unique_ptr<MappedFile> file(new MappedFile());
  file->path_ = path;
  file->data_ = static_cast<const std::byte*>(data);
  file->size_ = st.st_size;
  Register(file->data_, file->size_, file->path_.c_str());
  return file;
}

MappedFile::~MappedFile() {
  if (data_ == nullptr) return;
  Unregister(data_);
  ::munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::Prefetch(std::span<const std::byte> range) const {
  const auto pages = WholePages(range, /*shrink=*/false);
  if (!pages.empty()) ::madvise(const_cast<std::byte*>(pages.data()), pages.size(), MADV_WILLNEED);
}

void MappedFile::Release(std::span<const std::byte> range) const {
  const auto pages = WholePages(range, /*shrink=*/true);
  if (!pages.empty()) ::madvise(const_cast<std::byte*>(pages.data()), pages.size(), MADV_DONTNEED);
}

void InstallMappedFileFaultHandler() {
  struct sigaction action = {};
  action.sa_sigaction = OnBusError;
  action.sa_flags = SA_SIGINFO;
  ::sigemptyset(&action.sa_mask);
  ::sigaction(SIGBUS, &action, nullptr);
}

}  // namespace optiq
