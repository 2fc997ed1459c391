// Growable buffers on cache-line borders, not initialized.
#ifndef OPTIQ_BASE_ALIGNED_H_
#define OPTIQ_BASE_ALIGNED_H_

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>
#include <utility>
#include <vector>

namespace optiq {

// A 64-byte aligned array of trivially copyable T, contents undefined. Grow() keeps nothing.
template <typename T>
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  AlignedBuffer(AlignedBuffer&& other) noexcept
      : data_(std::move(other.data_)), capacity_(std::exchange(other.capacity_, 0)) {}
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    data_ = std::move(other.data_);
    capacity_ = std::exchange(other.capacity_, 0);
    return *this;
  }
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

// Buffers kept for reuse: fresh pages cost more than the arithmetic on them. Not thread-safe.
template <typename T>
class BufferPool {
 public:
  // The smallest kept buffer of at least n elements, or a new one.
  AlignedBuffer<T> Take(size_t n) {
    size_t best = kept_.size();
    for (size_t i = 0; i < kept_.size(); ++i) {
      const size_t capacity = kept_[i].capacity();
      if (capacity >= n && (best == kept_.size() || capacity < kept_[best].capacity())) best = i;
    }
    if (best == kept_.size()) return AlignedBuffer<T>(n);
    AlignedBuffer<T> out = std::move(kept_[best]);
    kept_.erase(kept_.begin() + static_cast<std::ptrdiff_t>(best));
    return out;
  }
  void Give(AlignedBuffer<T> buffer) {
    if (buffer.capacity() > 0) kept_.push_back(std::move(buffer));
  }

 private:
  std::vector<AlignedBuffer<T>> kept_;
};

}  // namespace optiq

#endif  // OPTIQ_BASE_ALIGNED_H_
