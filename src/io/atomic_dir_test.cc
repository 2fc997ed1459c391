#include "io/atomic_dir.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "base/file.h"
#include "io/atomic_file.h"
#include "io/test_util.h"

namespace optiq {
namespace {

using test::ExpectError;
using test::ScratchDir;
using test::Slurp;
using test::Spit;

TEST(AtomicFileTest, ReplacesInOneStep) {
  ScratchDir dir;
  const std::string path = dir / "f";
  ASSERT_TRUE(AtomicWriteFile(path, "one").ok());
  ASSERT_TRUE(AtomicWriteFile(path, "").ok());
  EXPECT_EQ(Slurp(path), "");
  ASSERT_TRUE(AtomicWriteFile(path, "two").ok());
  EXPECT_EQ(Slurp(path), "two");
  {
    auto file = OutputFile::Create(path, 1000);
    ASSERT_TRUE(file.ok());
    ASSERT_TRUE((*file)->WriteAt(0, test::Bytes("three")).ok());
    EXPECT_EQ(Slurp(path), "two");
  }  // not committed
  EXPECT_EQ(Slurp(path), "two");
  EXPECT_FALSE(FileExists(path + ".tmp"));
  ExpectError(AtomicWriteFile(dir / "no/f", "x"), absl::StatusCode::kNotFound, "no such directory");
}

TEST(AtomicFileTest, AFileSizeLimitIsAnError) {
  ScratchDir dir;
  const pid_t child = ::fork();
  if (child == 0) {
    ::signal(SIGXFSZ, SIG_IGN);
    struct rlimit limit = {1000, 1000};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    const bool at_create = OutputFile::Create(dir / "f", 2000).status().code() == absl::StatusCode::kResourceExhausted;
    const bool at_write =
        AtomicWriteFile(dir / "g", std::string(2000, 'x')).code() == absl::StatusCode::kResourceExhausted;
    ::_exit(at_create && at_write && !FileExists(dir / "g") ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

TEST(AtomicFileTest, FullDisk) {
  if (!FileExists("/dev/full") && ::access("/dev/full", W_OK) != 0) GTEST_SKIP() << "no /dev/full";
  ScratchDir dir;
  ASSERT_EQ(::symlink("/dev/full", (dir / "f.tmp").c_str()), 0);
  EXPECT_FALSE(AtomicWriteFile(dir / "f", "x").ok());  // a symlink under the temporary name is not followed
  ExpectError(CheckFreeSpace(dir.path(), uint64_t{1} << 62), absl::StatusCode::kResourceExhausted, "no space: need 46");
  EXPECT_TRUE(CheckFreeSpace(dir.path(), 1).ok());
  ExpectError(CheckFreeSpace(dir / "no", 1), absl::StatusCode::kNotFound, "no such directory");
}

TEST(AtomicDirTest, AppearsOnlyWhenComplete) {
  ScratchDir dir;
  const std::string final_path = dir / "a/out/";
  auto out = AtomicDir::Create(final_path);
  ASSERT_TRUE(out.ok()) << out.status();
  EXPECT_FALSE((*out)->resumed());
  EXPECT_EQ((*out)->path(), dir / "a/out.partial");
  auto work = (*out)->WorkPath();
  ASSERT_TRUE(work.ok());
  Spit(*work + "/state", "half done");
  ASSERT_TRUE((*out)->WriteFile("config.json", "{}").ok());
  ASSERT_TRUE((*out)->WriteFile("optiq/metadata.json", "[]").ok());
  Spit((*out)->path() + "/x.tmp", "a killed write");
  for (const char* name : {"../x", "/x", "a/../x", ".", "a//b/"}) {
    if (std::string(name) == "a//b/") continue;
    EXPECT_FALSE((*out)->WriteFile(name, "x").ok()) << name;
  }
  EXPECT_FALSE(DirExists(dir / "a/out"));
  ASSERT_TRUE((*out)->Commit().ok());
  EXPECT_EQ(Slurp(dir / "a/out/config.json"), "{}");
  EXPECT_EQ(Slurp(dir / "a/out/optiq/metadata.json"), "[]");
  int entries = 0;
  for ([[maybe_unused]] const auto& e : std::filesystem::directory_iterator(dir / "a/out")) ++entries;
  EXPECT_EQ(entries, 2);  // no work, no .tmp, no .owner
  EXPECT_FALSE(std::filesystem::exists(dir / "a/out.partial"));
}

TEST(AtomicDirTest, AKilledRunIsContinuedOrCleared) {
  ScratchDir dir;
  {
    auto out = AtomicDir::Create(dir / "out");
    Spit(*(*out)->WorkPath() + "/state", "s");
  }
  auto out = AtomicDir::Create(dir / "out");
  ASSERT_TRUE(out.ok()) << out.status();
  EXPECT_TRUE((*out)->resumed());
  EXPECT_EQ(Slurp(*(*out)->WorkPath() + "/state"), "s");
  ASSERT_TRUE((*out)->Clear().ok());
  EXPECT_FALSE((*out)->resumed());
  EXPECT_FALSE(FileExists(dir / "out.partial/work/state"));
  out->reset();
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));  // an attempt that wrote nothing leaves nothing
}

TEST(AtomicDirTest, TheSecondWriterIsRefused) {
  ScratchDir dir;
  auto first = AtomicDir::Create(dir / "out");
  ASSERT_TRUE(first.ok());
  ExpectError(AtomicDir::Create(dir / "out").status(), absl::StatusCode::kFailedPrecondition,
              fmt::format("out: is being written by another process (process {})", ::getpid()));
  ASSERT_TRUE((*first)->WriteFile("f", "1").ok());
  ASSERT_TRUE((*first)->Commit().ok());
  ExpectError(AtomicDir::Create(dir / "out").status(), absl::StatusCode::kAlreadyExists, "exists and is not empty");
}

TEST(AtomicDirTest, ExistingOutputs) {
  ScratchDir dir;
  std::filesystem::create_directory(dir / "out");
  auto out = AtomicDir::Create(dir / "out");  // empty: may be used
  ASSERT_TRUE(out.ok());
  ASSERT_TRUE((*out)->WriteFile("config.json", "1").ok());
  ASSERT_TRUE((*out)->Commit().ok());
  EXPECT_FALSE(AtomicDir::Create(dir / "out").ok());
  out = AtomicDir::Create(dir / "out", /*overwrite=*/true);
  ASSERT_TRUE(out.ok()) << out.status();
  ASSERT_TRUE((*out)->WriteFile("config.json", "2").ok());
  EXPECT_EQ(Slurp(dir / "out/config.json"), "1");
  ASSERT_TRUE((*out)->Commit().ok());
  EXPECT_EQ(Slurp(dir / "out/config.json"), "2");
  EXPECT_FALSE(std::filesystem::exists(dir / "out.old"));

  std::filesystem::create_directory(dir / "home");
  Spit(dir / "home/diary.txt", "x");
  ExpectError(AtomicDir::Create(dir / "home", true).status(), absl::StatusCode::kAlreadyExists, "not a model");
  ExpectError(AtomicDir::Create(dir / "home/diary.txt", true).status(), absl::StatusCode::kAlreadyExists,
              "not a directory");
  for (const char* name : {"", "/", ".", "..", "a/.."}) EXPECT_FALSE(AtomicDir::Create(name).ok()) << name;
  Spit(dir / "blocked.partial", "a file");
  EXPECT_FALSE(AtomicDir::Create(dir / "blocked").ok());
}

TEST(AtomicDirTest, AppearanceDuringTheRunIsNotOverwritten) {
  ScratchDir dir;
  auto out = AtomicDir::Create(dir / "out");
  ASSERT_TRUE((*out)->WriteFile("f", "new").ok());
  std::filesystem::create_directory(dir / "out");
  Spit(dir / "out/f", "somebody else's");
  ExpectError((*out)->Commit(), absl::StatusCode::kAlreadyExists, "exists and is not empty");
  EXPECT_EQ(Slurp(dir / "out/f"), "somebody else's");
  EXPECT_EQ(Slurp(dir / "out.partial/f"), "new");
}

TEST(CheckOutputPathTest, InputIsProtected) {
  ScratchDir dir;
  std::filesystem::create_directories(dir / "in/sub");
  ASSERT_EQ(::symlink("in", (dir / "link").c_str()), 0);
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  ExpectError(CheckOutputPath(dir / "in", dir / "in"), kInvalid, "is the input");
  ExpectError(CheckOutputPath(dir / "in", dir / "in/"), kInvalid, "the input");
  ExpectError(CheckOutputPath(dir / "link", dir / "in"), kInvalid, "is the input");
  ExpectError(CheckOutputPath(dir / "in/", dir / "link/new"), kInvalid, "lies inside the input");
  ExpectError(CheckOutputPath(dir / "in", dir / "x/../in/new/deep"), kInvalid, "lies inside the input");
  ExpectError(CheckOutputPath(dir / "in/sub", dir / "in"), kInvalid, "contains the input");
  EXPECT_TRUE(CheckOutputPath(dir / "in", dir / "out").ok());
  EXPECT_TRUE(CheckOutputPath(dir / "in", dir / "in2").ok());  // a common prefix is not a common folder
  EXPECT_TRUE(CheckOutputPath(dir / "in/sub", dir / "in/out").ok());
}

}  // namespace
}  // namespace optiq
