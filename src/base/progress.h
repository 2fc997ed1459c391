// How long work reports where it is, without knowing who listens (a terminal, a log, nobody).
#ifndef OPTIQ_BASE_PROGRESS_H_
#define OPTIQ_BASE_PROGRESS_H_

#include <cstdint>
#include <string>
#include <string_view>

namespace optiq {

// Phases follow one another: Begin, any number of Updates, End. Calls may come from any thread; they are cheap (the
// listener decides how often to show something).
class ProgressSink {
 public:
  virtual ~ProgressSink() = default;

  // A phase of `total` units starts ("measuring sensitivity", 210, "probes"). total 0: unknown. The unit "B" is bytes
  // and is shown as KB, MB or GB. Begin ends a phase that is still open.
  virtual void Begin(const std::string& label, int64_t total, const std::string& unit) = 0;
  // `done` units are finished, counted from the start of the phase. The note is a short free text ("model.layers.3").
  virtual void Update(int64_t done, std::string_view note) = 0;
  virtual void End() = 0;
};

// Shows nothing.
class NullProgress : public ProgressSink {
 public:
  void Begin(const std::string&, int64_t, const std::string&) override {}
  void Update(int64_t, std::string_view) override {}
  void End() override {}
};

}  // namespace optiq

#endif  // OPTIQ_BASE_PROGRESS_H_
