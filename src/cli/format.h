// Numbers for people.
#ifndef OPTIQ_CLI_FORMAT_H_
#define OPTIQ_CLI_FORMAT_H_

#include <cstdint>
#include <string>

namespace optiq {

std::string FormatBytes(double bytes);       // "512 B", "1.5 KB", "2.34 GB": powers of 1000, three digits
std::string FormatCount(double count);       // "999", "1.5K", "135M", "1.02B"
std::string FormatInteger(int64_t value);    // "1,234,567"
std::string FormatDuration(double seconds);  // "0.4 s", "12 s", "3:05", "1:02:03"

}  // namespace optiq

#endif  // OPTIQ_CLI_FORMAT_H_
