// The engine's requests behind one HTTP request: submitted together, cancelled together when the client leaves.
#ifndef OPTIQ_SERVER_SUBMISSION_H_
#define OPTIQ_SERVER_SUBMISSION_H_

#include <memory>
#include <mutex>
#include <vector>

#include "server/app.h"

namespace optiq {

class Submission {
 public:
  explicit Submission(App* app) : app_(app) {}

  // From any thread. Nothing is submitted after Cancel.
  Status Add(EngineRequest request, std::shared_ptr<EngineSink> sink) {
    std::lock_guard lock(mutex_);
    if (cancelled_) return Cancelled("the client left");
    StatusOr<RequestId> id = app_->engine->Submit(std::move(request), std::move(sink));
    if (!id.ok()) return id.status();
    ids_.push_back(*id);
    return OkStatus();
  }
  void Cancel(const char* reason) {
    std::lock_guard lock(mutex_);
    if (cancelled_) return;
    cancelled_ = true;
    for (const RequestId id : ids_) app_->engine->Cancel(id);
    app_->metrics.CountCancelled(reason);
  }
  void CancelOne(size_t index) {
    std::lock_guard lock(mutex_);
    if (index < ids_.size()) app_->engine->Cancel(ids_[index]);
  }

 private:
  App* app_;
  std::mutex mutex_;
  std::vector<RequestId> ids_;
  bool cancelled_ = false;
};

}  // namespace optiq

#endif  // OPTIQ_SERVER_SUBMISSION_H_
