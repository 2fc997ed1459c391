#include "io/atomic_dir.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <vector>

#include "base/file.h"
#include "io/atomic_file.h"

namespace optiq {
namespace {

namespace fs = std::filesystem;

constexpr const char* kOwnerName = "/.owner";  // the process id of the writer, only for the message to a second one

bool IsEmptyDir(const std::string& path) {
  std::error_code error;
  return fs::is_empty(path, error) && !error;
}

Status CheckFinalPath(const std::string& path, bool overwrite) {
  std::error_code error;
  const fs::file_status status = fs::symlink_status(path, error);
  if (!fs::exists(status)) return OkStatus();
  if (!fs::is_directory(status)) {
    return AlreadyExists("{}: exists and is not a directory; choose another output", path);
  }
  if (IsEmptyDir(path)) return OkStatus();
  if (!overwrite) return AlreadyExists("{}: exists and is not empty; choose another output, or replace it with --overwrite", path);
  if (!FileExists(path + "/config.json")) {
    return AlreadyExists("{}: holds no config.json, so it is not a model; it will not be overwritten", path);
  }
  return OkStatus();
}

// The lock lies on the directory itself, so that it survives the rename and leaves no file behind.
StatusOr<int> LockDirectory(const std::string& dir, const std::string& final_path) {
  const int fd = ::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return FailedPrecondition("{}: cannot open: {}", dir, std::strerror(errno));
  if (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
    const int error = errno;
    ::close(fd);
    if (error != EWOULDBLOCK) return FailedPrecondition("{}: cannot lock: {}", dir, std::strerror(error));
    auto owner = ReadTextFile(dir + kOwnerName, 64);
    return FailedPrecondition("{}: is being written by another process{}; wait for it or choose another output",
                              final_path, owner.ok() ? " (" + *owner + ")" : "");
  }
  // Between open and lock the other process may have finished and renamed the directory away.
  struct stat locked, named;
  if (::fstat(fd, &locked) != 0 || ::lstat(dir.c_str(), &named) != 0 || locked.st_ino != named.st_ino ||
      locked.st_dev != named.st_dev) {
    ::close(fd);
    return FailedPrecondition("{}: another process has just finished writing it", final_path);
  }
  return fd;
}

Status SyncFile(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) return Internal("{}: cannot open: {}", path, std::strerror(errno));
  const int error = ::fsync(fd) != 0 ? errno : 0;
  ::close(fd);
  if (error == ENOSPC || error == EDQUOT) return ResourceExhausted("{}: {}", path, std::strerror(error));
  return error == 0 ? OkStatus() : Internal("{}: fsync: {}", path, std::strerror(error));
}

// Removes *.tmp leftovers and syncs every file, every folder, and the directory itself last.
Status SyncTree(const std::string& root) {
  std::vector<std::string> files, dirs = {root}, leftovers;
  std::error_code error;
  for (auto it = fs::recursive_directory_iterator(root, error); !error && it != fs::recursive_directory_iterator();
       it.increment(error)) {
    const std::string path = it->path().string();
    std::error_code ignored;
    const fs::file_type type = it->symlink_status(ignored).type();
    if (type == fs::file_type::directory) {
      dirs.push_back(path);
    } else if (path.ends_with(".tmp")) {
      leftovers.push_back(path);
    } else if (type == fs::file_type::regular) {
      files.push_back(path);
    }
  }
  if (error) return Internal("{}: {}", root, error.message());
  for (const std::string& path : leftovers) ::unlink(path.c_str());
  for (const std::string& path : files) RETURN_IF_ERROR(SyncFile(path));
  for (size_t i = dirs.size(); i-- > 0;) RETURN_IF_ERROR(SyncDirectory(dirs[i]));
  return OkStatus();
}

bool IsInside(const fs::path& inner, const fs::path& outer) {
  auto a = outer.begin();
  auto b = inner.begin();
  for (; a != outer.end() && b != inner.end(); ++a, ++b) {
    if (a->empty()) break;  // a trailing slash
    if (*a != *b) return false;
  }
  return a == outer.end() || a->empty();
}

}  // namespace

StatusOr<std::unique_ptr<AtomicDir>> AtomicDir::Create(const std::string& final_path, bool overwrite) {
  std::string path = final_path;
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  const std::string name = path.substr(path.find_last_of('/') + 1);
  if (name.empty() || name == "." || name == "..") {
    return InvalidArgument("output '{}': give the name of a directory to make", final_path);
  }
  RETURN_IF_ERROR(CheckFinalPath(path, overwrite));
  std::unique_ptr<AtomicDir> dir(new AtomicDir());
  dir->final_path_ = path;
  dir->path_ = path + ".partial";
  dir->overwrite_ = overwrite;
  std::error_code error;
  fs::create_directories(ParentDirectory(path), error);
  if (error) return FailedPrecondition("{}: cannot make the directory: {}", ParentDirectory(path), error.message());
  if (::mkdir(dir->path_.c_str(), 0777) != 0 && errno != EEXIST) {
    return FailedPrecondition("{}: cannot make the directory: {}", dir->path_, std::strerror(errno));
  }
  ASSIGN_OR_RETURN(dir->lock_fd_, LockDirectory(dir->path_, path));
  RETURN_IF_ERROR(CheckFinalPath(path, overwrite));  // it may have appeared while we waited
  ::unlink((dir->path_ + kOwnerName).c_str());
  dir->resumed_ = !IsEmptyDir(dir->path_);
  RETURN_IF_ERROR(AtomicWriteFile(dir->path_ + kOwnerName, fmt::format("process {}", ::getpid())));
  return dir;
}

AtomicDir::~AtomicDir() {
  if (lock_fd_ < 0) return;
  ::unlink((path_ + kOwnerName).c_str());
  ::rmdir((path_ + "/work").c_str());
  ::rmdir(path_.c_str());  // succeeds only on an empty directory
  ::close(lock_fd_);
}

StatusOr<std::string> AtomicDir::WorkPath() {
  std::string work = path_ + "/work";
  if (::mkdir(work.c_str(), 0777) != 0 && errno != EEXIST) {
    return FailedPrecondition("{}: cannot make the directory: {}", work, std::strerror(errno));
  }
  return work;
}

Status AtomicDir::WriteFile(const std::string& name, std::string_view contents) {
  const fs::path relative(name);
  for (const fs::path& part : relative) {
    if (part == ".." || part == "." || part.empty() || relative.is_absolute()) {
      return InvalidArgument("'{}': not a name inside the output directory", name);
    }
  }
  const std::string path = path_ + "/" + name;
  std::error_code error;
  fs::create_directories(ParentDirectory(path), error);
  if (error) return FailedPrecondition("{}: cannot make the directory: {}", ParentDirectory(path), error.message());
  return AtomicWriteFile(path, contents);
}

Status AtomicDir::Clear() {
  std::error_code error;
  std::vector<fs::path> entries;
  for (auto it = fs::directory_iterator(path_, error); !error && it != fs::directory_iterator(); it.increment(error)) {
    entries.push_back(it->path());
  }
  if (error) return Internal("{}: {}", path_, error.message());
  for (const fs::path& entry : entries) {
    fs::remove_all(entry, error);
    if (error) return FailedPrecondition("{}: cannot remove: {}", entry.string(), error.message());
  }
  resumed_ = false;
  return AtomicWriteFile(path_ + kOwnerName, fmt::format("process {}", ::getpid()));
}

Status AtomicDir::Commit() {
  OPTIQ_CHECK(lock_fd_ >= 0);
  RETURN_IF_ERROR(CheckFinalPath(final_path_, overwrite_));
  std::error_code error;
  fs::remove_all(path_ + "/work", error);
  if (error) return FailedPrecondition("{}/work: cannot remove: {}", path_, error.message());
  ::unlink((path_ + kOwnerName).c_str());
  RETURN_IF_ERROR(SyncTree(path_));

  std::string old;
  if (overwrite_ && DirExists(final_path_) && !IsEmptyDir(final_path_)) {
    old = final_path_ + ".old";
    fs::remove_all(old, error);
    if (error || ::rename(final_path_.c_str(), old.c_str()) != 0) {
      return FailedPrecondition("{}: cannot move the old directory away; is {} in use?", final_path_, old);
    }
  }
  if (::rename(path_.c_str(), final_path_.c_str()) != 0) {
    const int rename_error = errno;
    if (!old.empty() && ::rename(old.c_str(), final_path_.c_str()) != 0) {
      return FailedPrecondition("{}: cannot rename: {}; the old directory is now {}", path_,
                                std::strerror(rename_error), old);
    }
    if (rename_error == ENOTEMPTY || rename_error == EEXIST) {
      return AlreadyExists("{}: appeared while it was being written; the result is in {}", final_path_, path_);
    }
    return FailedPrecondition("{}: cannot rename to {}: {}", path_, final_path_, std::strerror(rename_error));
  }
  ::close(lock_fd_);
  lock_fd_ = -1;
  RETURN_IF_ERROR(SyncDirectory(ParentDirectory(final_path_)));
  if (!old.empty()) {
    fs::remove_all(old, error);
    if (error)
      return FailedPrecondition("{}: written, but the old directory {} could not be removed", final_path_, old);
  }
  return OkStatus();
}

Status CheckOutputPath(const std::string& input_path, const std::string& output_path) {
  std::error_code error;
  const fs::path input = fs::weakly_canonical(fs::absolute(input_path, error), error);
  if (error) return InvalidArgument("{}: {}", input_path, error.message());
  const fs::path output = fs::weakly_canonical(fs::absolute(output_path, error), error);
  if (error) return InvalidArgument("{}: {}", output_path, error.message());
  // The second test sees through bind mounts and file systems that ignore case.
  if (input == output || (fs::exists(output, error) && fs::equivalent(input, output, error))) {
    return InvalidArgument("{}: the output is the input; choose another output", output_path);
  }
  if (IsInside(output, input))
    return InvalidArgument("{}: the output lies inside the input {}", output_path, input_path);
  if (IsInside(input, output)) return InvalidArgument("{}: the output contains the input {}", output_path, input_path);
  return OkStatus();
}

}  // namespace optiq
