#include "io/mapped_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "io/test_util.h"

namespace optiq {
namespace {

using test::ExpectError;
using test::ScratchDir;
using test::Spit;

TEST(MappedFileTest, MapsAndAdvises) {
  ScratchDir dir;
  const std::string text(20000, 'q');
  Spit(dir / "a", text);
  auto file = MappedFile::Open(dir / "a");
  ASSERT_TRUE(file.ok()) << file.status();
  auto bytes = (*file)->bytes();
  ASSERT_EQ(bytes.size(), text.size());
  (*file)->Prefetch(bytes.subspan(5000, 10));
  (*file)->Release(bytes.subspan(1, 3));  // no whole page: nothing to do
  (*file)->Release(bytes);
  (*file)->Release({});
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()), text);
}

TEST(MappedFileTest, RefusesWhatIsNoFile) {
  ScratchDir dir;
  ExpectError(MappedFile::Open(dir / "none").status(), absl::StatusCode::kNotFound, "none: no such file");
  ExpectError(MappedFile::Open(dir.path()).status(), absl::StatusCode::kInvalidArgument, "not a regular file");
  ASSERT_EQ(::mkfifo((dir / "fifo").c_str(), 0600), 0);
  ExpectError(MappedFile::Open(dir / "fifo").status(), absl::StatusCode::kInvalidArgument, "not a regular file");
  Spit(dir / "empty", "");
  ExpectError(MappedFile::Open(dir / "empty").status(), absl::StatusCode::kDataLoss, "empty");
  ASSERT_EQ(::symlink("loop", (dir / "loop").c_str()), 0);
  ExpectError(MappedFile::Open(dir / "loop").status(), absl::StatusCode::kInvalidArgument, "cannot open");
  Spit(dir / "real", "x");
  ASSERT_EQ(::symlink("real", (dir / "link").c_str()), 0);
  EXPECT_TRUE(MappedFile::Open(dir / "link").ok());
}

TEST(MappedFileDeathTest, TruncationWhileMappedEndsWithAMessage) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  ScratchDir dir;
  Spit(dir / "weights", std::string(100000, 'x'));
  auto touch_after_truncation = [&] {
    InstallMappedFileFaultHandler();
    auto file = MappedFile::Open(dir / "weights");
    if (::truncate((dir / "weights").c_str(), 0) != 0) return;
    volatile std::byte b = (*file)->bytes()[50000];
    (void)b;
  };
  EXPECT_EXIT(touch_after_truncation(), ::testing::ExitedWithCode(4), "weights: the file became shorter");
}

}  // namespace
}  // namespace optiq
