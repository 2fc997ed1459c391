// What the commands share. One file per command; each has RegisterX, which adds a CLI11 subcommand whose callback sets
// CommandContext::run, and Status RunX, which does the work. main runs `run` and turns its status into the exit code.
//
// stdout carries the result and nothing else; everything for people goes to stderr (Note, Detail, progress).
#ifndef OPTIQ_CLI_COMMAND_H_
#define OPTIQ_CLI_COMMAND_H_

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "base/json.h"
#include "base/progress.h"
#include "base/status.h"

namespace optiq {

struct CommandContext {
  // The common flags.
  int threads = 0;  // 0: OPTIQ_THREADS, else the CPUs this process may use
  bool json = false, quiet = false, verbose = false, no_progress = false;

  std::function<Status()> run;  // set by the subcommand that was given

  // A listener for long work; shows nothing with --quiet or --no-progress.
  std::unique_ptr<ProgressSink> MakeProgress() const;

  // A line on stderr, unless --quiet.
  template <typename... Args>
  void Note(fmt::format_string<Args...> format, Args&&... args) const {
    if (!quiet) WriteLine(fmt::format(format, std::forward<Args>(args)...));
  }
  // A line on stderr with --verbose.
  template <typename... Args>
  void Detail(fmt::format_string<Args...> format, Args&&... args) const {
    if (verbose) WriteLine(fmt::format(format, std::forward<Args>(args)...));
  }

 private:
  static void WriteLine(const std::string& line);  // control characters are escaped
};

// Common flags that a command makes use of; the others are refused for it.
enum CommonFlag : unsigned {
  kThreadsFlag = 1,
  kJsonFlag = 2,
  kProgressFlag = 4,  // --no-progress
  kQuietFlag = 8,
  kVerboseFlag = 16,
};

struct Command {
  const char* name;
  const char* summary;  // for the list of commands
  void (*add)(CLI::App& app, CommandContext* context);
  unsigned flags;  // of CommonFlag
};

// All commands, in the order of the help (commands.cc).
std::span<const Command> Commands();

void RegisterConvert(CLI::App& app, CommandContext* context);
void RegisterSensitivity(CLI::App& app, CommandContext* context);
void RegisterInspect(CLI::App& app, CommandContext* context);
void RegisterGenerate(CLI::App& app, CommandContext* context);
void RegisterChat(CLI::App& app, CommandContext* context);
void RegisterKvCache(CLI::App& app, CommandContext* context);
void RegisterLogits(CLI::App& app, CommandContext* context);
void RegisterEval(CLI::App& app, CommandContext* context);
void RegisterBench(CLI::App& app, CommandContext* context);
void RegisterServe(CLI::App& app, CommandContext* context);

// Adds the subcommand with the layout of help that all share: description, positionals, options, then `examples` (lines
// without indent) as the footer.
CLI::App* AddCommand(CLI::App& app, const std::string& name, const std::string& description,
                     const std::string& examples);

// stdout, checked: kResourceExhausted when the text cannot be written (disk full, closed).
Status WriteStdout(std::string_view text);
// One JSON value and a line break. Invalid UTF-8 in strings becomes U+FFFD.
Status WriteJson(const Json& value);

}  // namespace optiq

#endif  // OPTIQ_CLI_COMMAND_H_
