// A result directory that appears under its final name only when it is complete.
//
// All is written to `<final>.partial/`, which is renamed at the end. A killed run leaves it there, and the next run
// with the same output continues in it: what is worth keeping between runs lies in its `work` folder, which Commit
// removes.
#ifndef OPTIQ_IO_ATOMIC_DIR_H_
#define OPTIQ_IO_ATOMIC_DIR_H_

#include <memory>
#include <string>
#include <string_view>

#include "base/status.h"

namespace optiq {

class AtomicDir {
 public:
  // Makes or reopens `<final_path>.partial` and locks it until this object dies. kAlreadyExists when the final path
  // exists and is not an empty directory; with `overwrite` a directory that holds a config.json is replaced in Commit,
  // anything else is still refused. kFailedPrecondition when another process is writing the same output.
  static StatusOr<std::unique_ptr<AtomicDir>> Create(const std::string& final_path, bool overwrite = false);
  ~AtomicDir();  // without Commit: leaves the files for the next run, or nothing if there are none
  AtomicDir(const AtomicDir&) = delete;
  AtomicDir& operator=(const AtomicDir&) = delete;

  const std::string& final_path() const { return final_path_; }
  const std::string& path() const { return path_; }  // where to write: <final>.partial
  // <final>.partial/work, made on the first call.
  StatusOr<std::string> WorkPath();
  // True when Create found files of an earlier run.
  bool resumed() const { return resumed_; }

  // Writes one file at once, atomically. `name` is a plain name or "folder/name"; the folder is made.
  Status WriteFile(const std::string& name, std::string_view contents);

  // Deletes everything written so far, the work folder too (for --no-resume and for leftovers that do not fit the job).
  Status Clear();

  // Removes the work folder and *.tmp leftovers, fsyncs all, renames.
  Status Commit();

 private:
  AtomicDir() = default;
  std::string final_path_, path_;
  bool overwrite_ = false;
  bool resumed_ = false;
  int lock_fd_ = -1;
};

// Refuses (kInvalidArgument) an output path that is the input, lies inside it, or contains it, symlinks resolved.
Status CheckOutputPath(const std::string& input_path, const std::string& output_path);

}  // namespace optiq

#endif  // OPTIQ_IO_ATOMIC_DIR_H_
