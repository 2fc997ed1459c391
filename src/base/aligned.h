// Growable buffers on cache-line borders, not initialized.
#ifndef OPTIQ_BASE_ALIGNED_H_
#define OPTIQ_BASE_ALIGNED_H_

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>

namespace optiq {

// A 64-byte aligned array of trivially copyable T, contents undefined. Grow() keeps nothing.
template <typename T>
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(size_t n) { Grow(n); }

  // Makes room for n elements; throws std::bad_alloc.
  T* Grow(size_t n) {
    if (n > capacity_) {
      if (n > (SIZE_MAX - 64) / sizeof(T)) throw std::bad_alloc();
      data_.reset(static_cast<T*>(std::aligned_alloc(64, (n * sizeof(T) + 63) / 64 * 64)));
      if (data_ == nullptr) {
        capacity_ = 0;
        throw std::bad_alloc();
      }
      capacity_ = n;
    }
    return data_.get();
  }
  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  size_t capacity() const { return capacity_; }
  void Free() {
    data_.reset();
    capacity_ = 0;
  }

 private:
  struct FreeDeleter {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T, FreeDeleter> data_;
  size_t capacity_ = 0;
};

}  // namespace optiq

#endif  // OPTIQ_BASE_ALIGNED_H_
