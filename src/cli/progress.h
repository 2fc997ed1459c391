// Progress on stderr: a bar on a terminal, a plain line every ten seconds elsewhere. Nothing is shown for work that is
// done within two seconds.
#ifndef OPTIQ_CLI_PROGRESS_H_
#define OPTIQ_CLI_PROGRESS_H_

#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "base/progress.h"

namespace optiq {

enum class ProgressMode { kOff, kPlain, kBar };

struct ProgressOptions {
  ProgressMode mode = ProgressMode::kOff;
  std::FILE* out = stderr;
  int width = 80;                 // columns of the terminal (kBar)
  std::function<double()> clock;  // seconds, monotonic; empty: the steady clock
};

// kBar when stderr is a terminal that takes escapes, kPlain elsewhere, kOff when `hidden`.
ProgressOptions DefaultProgressOptions(bool hidden);

// What there is to say at one moment.
struct ProgressState {
  std::string label, unit, note;
  int64_t done = 0, total = 0;  // total 0: unknown
  int64_t base = 0;             // done when the clock started (work taken over from an earlier run)
  double elapsed = 0;           // seconds
};
// Units per second since the start; 0 when not known yet.
double ProgressRate(const ProgressState& state);
// "label: 42% (88/210 probes), 1.9 probes/s, 1:05 left, note". Pure.
std::string FormatProgressPlain(const ProgressState& state);
// "label  42% [#######.........] 88/210  1.9 probes/s  1:05 left  note", cut to width - 1 columns. Pure.
std::string FormatProgressBar(const ProgressState& state, int width);

// One phase. Thread-safe; shows at most ten updates a second (kBar), one per ten seconds (kPlain).
class Progress {
 public:
  Progress(std::string label, int64_t total, std::string unit, ProgressOptions options);
  ~Progress() { Finish(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void Set(int64_t done, std::string_view note = "");
  // Takes the bar away (kBar) or writes a last line with the time taken (kPlain, when lines were written before).
  void Finish();

 private:
  void Show();

  std::mutex mutex_;
  ProgressOptions options_;
  ProgressState state_;
  double start_ = 0, next_ = 0;
  bool shown_ = false, finished_ = false, any_update_ = false;
};

// The command line's listener for the layers below.
class CliProgress : public ProgressSink {
 public:
  explicit CliProgress(ProgressOptions options) : options_(std::move(options)) {}
  void Begin(const std::string& label, int64_t total, const std::string& unit) override;
  void Update(int64_t done, std::string_view note) override;
  void End() override;

 private:
  std::mutex mutex_;
  ProgressOptions options_;
  std::unique_ptr<Progress> progress_;
};

}  // namespace optiq

#endif  // OPTIQ_CLI_PROGRESS_H_
