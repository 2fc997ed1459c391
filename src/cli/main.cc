// optiq: the command line. Parses, runs one command, turns its status into the exit code (docs/exit-codes.md).
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <exception>
#include <new>
#include <string>

#include "base/status.h"
#include "cli/command.h"
#include "cli/help.h"
#include "cli/terminal.h"
#include "io/mapped_file.h"
#include "kernels/isa.h"

namespace optiq {
namespace {

// One line, whatever the message holds.
int Fail(const Status& status) {
  fmt::print(stderr, "optiq: error: {}\n", Printable(Message(status)));
  return ExitCodeFor(status);
}

int UsageError(const CLI::App& app, std::string message) {
  for (char& c : message) {
    if (c == '\n') c = ' ';
  }
  while (!message.empty() && (message.back() == ' ' || message.back() == '.')) message.pop_back();
  const auto given = app.get_subcommands();
  const std::string command = given.empty() ? "optiq" : "optiq " + given.front()->get_name();
  return Fail(InvalidArgument("{}; see `{} --help`", message, command));
}

// A common flag that the command does not use is an error, not silence.
std::string UnusedFlag(const CommandContext& context, const CLI::App& app) {
  const auto given = app.get_subcommands();
  if (given.empty()) return "";
  for (const Command& command : Commands()) {
    if (given.front()->get_name() != command.name) continue;
    const std::pair<const char*, bool> used[] = {
        {"--threads", context.threads == 0 || (command.flags & kThreadsFlag)},
        {"--json", !context.json || (command.flags & kJsonFlag)},
        {"--no-progress", !context.no_progress || (command.flags & kProgressFlag)},
        {"--quiet", !context.quiet || (command.flags & kQuietFlag)},
        {"--verbose", !context.verbose || (command.flags & kVerboseFlag)},
    };
    for (const auto& [flag, fine] : used) {
      if (!fine) return fmt::format("{} does not take {}", command.name, flag);
    }
  }
  return "";
}

int Run(int argc, char** argv) {
  if (const Status isa = InitIsa(); !isa.ok()) return Fail(isa);
  CommandContext context;
  CLI::App app(kProgramDescription, "optiq");
  app.require_subcommand(0, 1);
  app.formatter(HelpFormatter());
  app.footer(kProgramFooter);
  bool version = false;
  app.add_flag("--version", version, "Version, build and the instruction sets of this machine");
  app.add_option("--threads", context.threads, "Threads (default: OPTIQ_THREADS, else the CPUs available)")
      ->check(CLI::Range(1, 4096))
      ->type_name("N");
  app.add_flag("--json", context.json, "The result as one JSON value on standard output");
  CLI::Option* quiet = app.add_flag("--quiet", context.quiet, "Only errors on standard error");
  app.add_flag("--verbose", context.verbose, "More on standard error")->excludes(quiet);
  app.add_flag("--no-progress", context.no_progress, "No progress display");
  for (const Command& command : Commands()) command.add(app, &context);
  AddHelpCommand(app, &context);

  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    const auto given = app.get_subcommands();
    const Status status = WriteStdout(given.empty() ? app.help() : given.front()->help());
    return status.ok() ? 0 : Fail(status);
  } catch (const CLI::ParseError& error) {
    return UsageError(app, error.what());
  }
  if (version) {
    const Status status = WriteStdout(VersionText());
    return status.ok() ? 0 : Fail(status);
  }
  if (std::string unused = UnusedFlag(context, app); !unused.empty()) return UsageError(app, unused);
  if (!context.run) return UsageError(app, "a command is missing");
  const Status status = context.run();
  return status.ok() ? 0 : Fail(status);
}

}  // namespace
}  // namespace optiq

int main(int argc, char** argv) {
  optiq::PrepareStandardStreams();
  optiq::InstallMappedFileFaultHandler();
  try {
    return optiq::Run(argc, argv);
  } catch (const std::bad_alloc&) {
    std::fputs("optiq: error: out of memory\n", stderr);
    return 5;
  } catch (const std::exception& error) {
    fmt::print(stderr, "optiq: error: internal: {}; please report this\n", optiq::Printable(error.what()));
  } catch (...) {
    std::fputs("optiq: error: internal: an unknown exception; please report this\n", stderr);
  }
  return 1;
}
