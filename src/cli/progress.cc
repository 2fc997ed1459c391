#include "cli/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>

#include "base/clock.h"
#include "cli/format.h"
#include "cli/table.h"
#include "cli/terminal.h"

namespace optiq {
namespace {

constexpr double kQuietSeconds = 2;  // work that takes no longer shows nothing
constexpr double kBarInterval = 0.1;
constexpr double kPlainInterval = 10;
constexpr double kResumeSeconds = 0.5;  // a first update this early tells what an earlier run had done

std::string Amount(const ProgressState& s, int64_t value) {
  return s.unit == "B" ? FormatBytes(value) : fmt::format("{}", value);
}

std::string Rate(const ProgressState& s) {
  const double rate = ProgressRate(s);
  if (rate <= 0) return "";
  if (s.unit == "B") return FormatBytes(rate) + "/s";
  if (rate < 0.1) return fmt::format("{:.3g} s/{}", 1 / rate, s.unit);
  return fmt::format("{:.{}f} {}/s", rate, rate < 10 ? 2 : rate < 100 ? 1 : 0, s.unit);
}

std::string Left(const ProgressState& s) {
  const double rate = ProgressRate(s);
  if (rate <= 0 || s.total <= 0 || s.done >= s.total) return "";
  return FormatDuration((s.total - s.done) / rate) + " left";
}

int Percent(const ProgressState& s) {
  return static_cast<int>(100.0 * std::clamp<int64_t>(s.done, 0, s.total) / s.total);
}

std::string DoneOfTotal(const ProgressState& s) {
  return s.total > 0 ? fmt::format("{}/{}", Amount(s, s.done), Amount(s, s.total)) : Amount(s, s.done);
}

// The first characters that fit `columns`.
std::string Cut(std::string_view text, int columns) {
  size_t end = 0;
  int width = 0;
  while (end < text.size()) {
    size_t next = end + 1;
    while (next < text.size() && (static_cast<unsigned char>(text[next]) & 0xC0) == 0x80) ++next;
    width += DisplayWidth(text.substr(end, next - end));
    if (width > columns) break;
    end = next;
  }
  return std::string(text.substr(0, end));
}

}  // namespace

ProgressOptions DefaultProgressOptions(bool hidden) {
  ProgressOptions options;
  if (hidden) return options;
  options.mode = EscapesAllowed(STDERR_FILENO) ? ProgressMode::kBar : ProgressMode::kPlain;
  options.width = TerminalWidth(STDERR_FILENO);
  return options;
}

double ProgressRate(const ProgressState& s) {
  return s.elapsed > 0 && s.done > s.base ? (s.done - s.base) / s.elapsed : 0;
}

std::string FormatProgressPlain(const ProgressState& s) {
  const std::string unit = s.unit == "B" ? "" : " " + s.unit;
  std::string out = s.label + ": ";
  out += s.total > 0 ? fmt::format("{}% ({}{})", Percent(s), DoneOfTotal(s), unit) : DoneOfTotal(s) + unit;
  for (const std::string& part : {Rate(s), Left(s), s.note}) {
    if (!part.empty()) out += ", " + part;
  }
  return out;
}

std::string FormatProgressBar(const ProgressState& s, int width) {
  std::string out = s.label;
  if (s.total > 0) {
    const int cells = std::clamp(width / 4, 8, 30);
    const int full = cells * Percent(s) / 100;
    out += fmt::format(" {:3}% [{}{}]", Percent(s), std::string(full, '#'), std::string(cells - full, '.'));
  }
  out += " " + DoneOfTotal(s);
  if (s.total <= 0 && s.unit != "B") out += " " + s.unit;
  for (const std::string& part : {Rate(s), Left(s), s.note}) {
    if (!part.empty()) out += "  " + part;
  }
  return Cut(out, std::max(0, width - 1));
}

Progress::Progress(std::string label, int64_t total, std::string unit, ProgressOptions options)
    : options_(std::move(options)) {
  if (!options_.clock) options_.clock = SteadySeconds;
  state_.label = std::move(label);
  state_.unit = std::move(unit);
  state_.total = total;
  start_ = options_.clock();
  next_ = start_ + (options_.mode == ProgressMode::kBar ? kQuietSeconds : kPlainInterval);
}

void Progress::Set(int64_t done, std::string_view note) {
  if (options_.mode == ProgressMode::kOff) return;
  std::lock_guard lock(mutex_);
  if (finished_) return;
  const double now = options_.clock();
  state_.done = done;
  state_.note = Printable(note);
  state_.elapsed = now - start_;
  if (!any_update_ && state_.elapsed < kResumeSeconds) state_.base = done;
  any_update_ = true;
  if (now < next_) return;
  next_ = now + (options_.mode == ProgressMode::kBar ? kBarInterval : kPlainInterval);
  Show();
}

void Progress::Show() {
  shown_ = true;
  if (options_.mode == ProgressMode::kBar) {
    fmt::print(options_.out, "\r{}\x1b[K", FormatProgressBar(state_, options_.width));
  } else {
    fmt::print(options_.out, "{}\n", FormatProgressPlain(state_));
  }
  std::fflush(options_.out);
}

void Progress::Finish() {
  std::lock_guard lock(mutex_);
  if (finished_) return;
  finished_ = true;
  if (!shown_) return;
  if (options_.mode == ProgressMode::kBar) {
    fmt::print(options_.out, "\r\x1b[K");
  } else {
    fmt::print(options_.out, "{}: {}{}, took {}\n", state_.label, DoneOfTotal(state_),
               state_.unit == "B" ? "" : " " + state_.unit, FormatDuration(options_.clock() - start_));
  }
  std::fflush(options_.out);
}

void CliProgress::Begin(const std::string& label, int64_t total, const std::string& unit) {
  std::lock_guard lock(mutex_);
  progress_ = nullptr;  // ends an open phase
  progress_ = std::make_unique<Progress>(label, total, unit, options_);
}

void CliProgress::Update(int64_t done, std::string_view note) {
  std::lock_guard lock(mutex_);
  if (progress_) progress_->Set(done, note);
}

void CliProgress::End() {
  std::lock_guard lock(mutex_);
  progress_ = nullptr;
}

}  // namespace optiq
