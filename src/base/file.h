// Plain reading of small files. Large files are mapped (io/mapped_file.h); output is written by io/atomic_file.h.
#ifndef OPTIQ_BASE_FILE_H_
#define OPTIQ_BASE_FILE_H_

#include <cstdint>
#include <string>

#include "base/status.h"

namespace optiq {

// The whole file as bytes. Regular files only (a FIFO or directory is an error); kResourceExhausted above max_bytes.
StatusOr<std::string> ReadTextFile(const std::string& path, uint64_t max_bytes);

bool FileExists(const std::string& path);  // a regular file, after symlinks
bool DirExists(const std::string& path);

}  // namespace optiq

#endif  // OPTIQ_BASE_FILE_H_
