#include "cli/command.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "cli/progress.h"
#include "cli/terminal.h"

namespace optiq {

std::unique_ptr<ProgressSink> CommandContext::MakeProgress() const {
  return std::make_unique<CliProgress>(DefaultProgressOptions(quiet || no_progress));
}

void CommandContext::WriteLine(const std::string& line) {
  fmt::print(stderr, "{}\n", Printable(line));
  std::fflush(stderr);
}

CLI::App* AddCommand(CLI::App& app, const std::string& name, const std::string& description,
                     const std::string& examples) {
  CLI::App* sub = app.add_subcommand(name, description);
  sub->fallthrough();  // common flags may stand after the command
  std::string footer = "Examples:\n";
  for (size_t begin = 0; begin < examples.size();) {
    size_t end = examples.find('\n', begin);
    if (end == std::string::npos) end = examples.size();
    footer += "  " + examples.substr(begin, end - begin) + "\n";
    begin = end + 1;
  }
  sub->footer(footer);
  return sub;
}

Status WriteStdout(std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(STDOUT_FILENO, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return ResourceExhausted("standard output: cannot write: {}", std::strerror(errno));
    text.remove_prefix(n);
  }
  return OkStatus();
}

Status WriteJson(const Json& value) {
  return WriteStdout(value.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

}  // namespace optiq
