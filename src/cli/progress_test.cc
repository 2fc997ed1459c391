#include "cli/progress.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <thread>
#include <vector>

namespace optiq {
namespace {

ProgressState State(int64_t done, int64_t total, double elapsed, std::string note = "") {
  return {
      .label = "probing", .unit = "probes", .note = std::move(note), .done = done, .total = total, .elapsed = elapsed};
}

// A memory stream with a clock that the test moves.
class Screen {
 public:
  explicit Screen(ProgressMode mode) {
    file_ = open_memstream(&text_, &size_);
    options_.mode = mode;
    options_.out = file_;
    options_.clock = [this] { return now; };
  }
  ~Screen() {
    std::fclose(file_);
    std::free(text_);
  }
  std::string Text() {
    std::fflush(file_);
    return std::string(text_, size_);
  }
  ProgressOptions options() const { return options_; }
  double now = 100;

 private:
  char* text_ = nullptr;
  size_t size_ = 0;
  std::FILE* file_;
  ProgressOptions options_;
};

TEST(ProgressFormat, Plain) {
  EXPECT_EQ(FormatProgressPlain(State(88, 210, 44)), "probing: 41% (88/210 probes), 2.00 probes/s, 1:01 left");
  EXPECT_EQ(FormatProgressPlain(State(0, 210, 3, "block 0")), "probing: 0% (0/210 probes), block 0");
  EXPECT_EQ(FormatProgressPlain(State(5, 0, 100)), "probing: 5 probes, 20 s/probes");
  EXPECT_EQ(FormatProgressPlain(State(210, 210, 10)), "probing: 100% (210/210 probes), 21.0 probes/s");
}

TEST(ProgressFormat, BytesHaveUnits) {
  ProgressState s{.label = "writing", .unit = "B", .done = 1'500'000'000, .total = 3'000'000'000, .elapsed = 10};
  EXPECT_EQ(FormatProgressPlain(s), "writing: 50% (1.5 GB/3 GB), 150 MB/s, 10 s left");
}

TEST(ProgressFormat, WorkTakenOverDoesNotCountForTheRate) {
  ProgressState s = State(110, 210, 10);
  s.base = 100;
  EXPECT_DOUBLE_EQ(ProgressRate(s), 1);
  EXPECT_EQ(FormatProgressPlain(s), "probing: 52% (110/210 probes), 1.00 probes/s, 1:40 left");
}

TEST(ProgressFormat, BarFitsTheWidth) {
  EXPECT_EQ(FormatProgressBar(State(50, 100, 50, "note"), 80),
            "probing  50% [##########..........] 50/100  1.00 probes/s  50 s left  note");
  for (int width : {0, 1, 2, 10, 20, 40, 79}) {
    EXPECT_LE(FormatProgressBar(State(50, 100, 50, "a long note with 日本"), width).size(),
              static_cast<size_t>(width) + 4);
  }
  EXPECT_EQ(FormatProgressBar(State(300, 100, 50), 20), "probing 100% [#####");  // more than all: no overrun
}

TEST(Progress, PlainIsThrottledAndHasNoEscapes) {
  Screen screen(ProgressMode::kPlain);
  {
    Progress progress("probing", 100, "probes", screen.options());
    for (int i = 0; i < 25; ++i) {
      screen.now += 1;
      progress.Set(i + 1);
    }
  }
  EXPECT_EQ(screen.Text(),
            "probing: 10% (10/100 probes), 1.00 probes/s, 1:30 left\n"
            "probing: 20% (20/100 probes), 1.00 probes/s, 1:20 left\n"
            "probing: 25/100 probes, took 25 s\n");
}

TEST(Progress, ShortWorkShowsNothing) {
  for (ProgressMode mode : {ProgressMode::kPlain, ProgressMode::kBar, ProgressMode::kOff}) {
    Screen screen(mode);
    {
      Progress progress("probing", 10, "probes", screen.options());
      screen.now += 1.9;
      progress.Set(10);
    }
    EXPECT_EQ(screen.Text(), "");
  }
}

TEST(Progress, BarIsDrawnAndTakenAway) {
  Screen screen(ProgressMode::kBar);
  {
    Progress progress("probing", 10, "probes", screen.options());
    screen.now += 2.5;
    progress.Set(5, "bad\x1b[2Jname");
    screen.now += 0.05;
    progress.Set(6);  // too soon
  }
  EXPECT_EQ(screen.Text(),
            "\rprobing  50% [##########..........] 5/10  2.00 probes/s  2.5 s left  bad\\x1b[2J\x1b[K\r\x1b[K");
}

TEST(Progress, OffShowsNothing) {
  Screen screen(ProgressMode::kOff);
  CliProgress sink(screen.options());
  sink.Begin("a", 10, "x");
  screen.now += 100;
  sink.Update(5, "");
  sink.End();
  EXPECT_EQ(screen.Text(), "");
}

TEST(CliProgress, PhasesFollowOneAnother) {
  Screen screen(ProgressMode::kPlain);
  CliProgress sink(screen.options());
  sink.Update(1, "before any phase");
  sink.Begin("one", 2, "x");
  screen.now += 20;
  sink.Update(1, "");
  sink.Begin("two", 2, "x");  // ends "one"
  screen.now += 20;
  sink.Update(1, "");
  sink.End();
  sink.End();
  EXPECT_EQ(screen.Text(),
            "one: 50% (1/2 x), 20 s/x, 20 s left\none: 1/2 x, took 20 s\n"
            "two: 50% (1/2 x), 20 s/x, 20 s left\ntwo: 1/2 x, took 20 s\n");
}

TEST(CliProgress, ManyThreads) {
  Screen screen(ProgressMode::kBar);
  CliProgress sink(screen.options());
  sink.Begin("probing", 4000, "x");
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 1000; ++i) sink.Update(i, "note");
    });
  }
  for (std::thread& t : threads) t.join();
  sink.End();
  EXPECT_EQ(screen.Text(), "");  // the clock stood still
}

}  // namespace
}  // namespace optiq
