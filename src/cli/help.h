// Texts of `optiq --help`, `--version` and `optiq help TOPIC`.
#ifndef OPTIQ_CLI_HELP_H_
#define OPTIQ_CLI_HELP_H_

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

namespace optiq {

struct CommandContext;

extern const char kProgramDescription[];
extern const char kProgramFooter[];

// "optiq 0.1.0 (release, gcc 12.2.0)\nx86-64: avx2 fma ...\n"
std::string VersionText();

// The layout of all help: option arguments by name only (no type checks spelled out), a one-line summary per command.
std::shared_ptr<CLI::FormatterBase> HelpFormatter();

// `optiq help [TOPIC]`: a command's help, or a topic such as exit-codes.
void AddHelpCommand(CLI::App& app, CommandContext* context);

}  // namespace optiq

#endif  // OPTIQ_CLI_HELP_H_
