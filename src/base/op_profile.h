// Wall time per kind of operation, for `optiq bench --profile`.
#ifndef OPTIQ_BASE_OP_PROFILE_H_
#define OPTIQ_BASE_OP_PROFILE_H_

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace optiq {

struct OpProfile {
  struct Entry {
    double seconds = 0;
    int64_t calls = 0;
  };
  std::map<std::string, Entry, std::less<>> ops;

  void Add(std::string_view name, double seconds) {
    auto it = ops.find(name);
    if (it == ops.end()) it = ops.emplace(std::string(name), Entry()).first;
    it->second.seconds += seconds;
    ++it->second.calls;
  }
};

// Adds the time of its scope to a profile; nothing when profile is nullptr.
class OpTimer {
 public:
  OpTimer(OpProfile* profile, std::string_view name) : profile_(profile), name_(name) {
    if (profile_ != nullptr) start_ = Clock::now();
  }
  ~OpTimer() {
    if (profile_ != nullptr) profile_->Add(name_, std::chrono::duration<double>(Clock::now() - start_).count());
  }
  OpTimer(const OpTimer&) = delete;
  OpTimer& operator=(const OpTimer&) = delete;

 private:
  using Clock = std::chrono::steady_clock;
  OpProfile* profile_;
  std::string_view name_;
  Clock::time_point start_;
};

}  // namespace optiq

#endif  // OPTIQ_BASE_OP_PROFILE_H_
