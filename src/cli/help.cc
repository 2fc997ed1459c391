#include "cli/help.h"

#include <fmt/format.h>

#include <memory>

#include "cli/command.h"

namespace optiq {

const char kProgramDescription[] = "Quantizes language models to mixed-precision MLX models and runs them on any CPU.";
const char kProgramFooter[] =
    "`optiq COMMAND --help` explains a command, `optiq help exit-codes` the exit codes.\n"
    "Results go to standard output, everything else to standard error.";

namespace {

constexpr char kExitCodes[] =
    R"(Exit codes

    0  done
    1  internal error: a fault of this program, please report it
    2  usage: an option, field or request is wrong
    3  not found: a file, model or tensor is missing
    4  corrupt input: a file is damaged or contradicts itself
    5  out of memory or disk space, or above a limit
    6  network error
    7  the output is there already, or the state does not allow it
    8  not supported: an architecture, format or feature
  130  interrupted (Ctrl-C)
  141  the reader of standard output went away (SIGPIPE)

Every error is one line on standard error: `optiq: error: MESSAGE`.
)";

std::string Simd() {
  std::string out;
#if defined(__x86_64__)
  out = "x86-64:";
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2")) out += " avx2";
  if (__builtin_cpu_supports("fma")) out += " fma";
  if (__builtin_cpu_supports("f16c")) out += " f16c";
  if (__builtin_cpu_supports("avx512f")) out += " avx512f";
  if (__builtin_cpu_supports("avx512bw")) out += " avx512bw";
  if (__builtin_cpu_supports("avx512vnni")) out += " avx512_vnni";
  if (__builtin_cpu_supports("avx512bf16")) out += " avx512_bf16";
#elif defined(__aarch64__)
  out = "aarch64: neon";
#else
  out = "unknown instruction set";
#endif
  return out;
}

class Formatter : public CLI::Formatter {
 public:
  Formatter() { column_width(32); }

  std::string make_option_opts(const CLI::Option* option) const override {
    if (option->get_positional() || option->get_type_size() == 0) return "";
    const std::string type = option->get_type_name();  // "N", or "N:INT in [1 - 8]" with the checks
    std::string out = " " + type.substr(0, type.find(':'));
    if (!option->get_default_str().empty()) out += " [" + option->get_default_str() + "]";
    if (option->get_required()) out += " (required)";
    return out;
  }

  std::string make_subcommand(const CLI::App* sub) const override {
    for (const Command& command : Commands()) {
      if (sub->get_name() == command.name)
        return fmt::format("  {:<{}}{}\n", command.name, get_column_width() - 2, command.summary);
    }
    return fmt::format("  {:<{}}{}\n", sub->get_name(), get_column_width() - 2, sub->get_description());
  }
};

}  // namespace

std::shared_ptr<CLI::FormatterBase> HelpFormatter() { return std::make_shared<Formatter>(); }

std::string VersionText() {
#if defined(__clang__)
  const std::string compiler = fmt::format("clang {}.{}.{}", __clang_major__, __clang_minor__, __clang_patchlevel__);
#else
  const std::string compiler = fmt::format("gcc {}.{}.{}", __GNUC__, __GNUC_MINOR__, __GNUC_PATCHLEVEL__);
#endif
#if defined(__OPTIMIZE__)
  const char* build = "optimized";
#else
  const char* build = "not optimized";
#endif
  return fmt::format("optiq {}\nbuild: {}, {}\n{}\n", OPTIQ_VERSION, compiler, build, Simd());
}

void AddHelpCommand(CLI::App& app, CommandContext* context) {
  CLI::App* sub = app.add_subcommand("help", "Help on a command or on: exit-codes");
  auto topic = std::make_shared<std::string>();
  sub->add_option("TOPIC", *topic, "A command, or exit-codes");
  sub->callback([&app, context, topic] {
    context->run = [&app, topic]() -> Status {
      if (topic->empty()) return WriteStdout(app.help());
      if (*topic == "exit-codes") return WriteStdout(kExitCodes);
      for (const Command& command : Commands()) {
        if (*topic == command.name) return WriteStdout(app.get_subcommand(*topic)->help());
      }
      return InvalidArgument("help: no topic '{}'; there are the commands and exit-codes", *topic);
    };
  });
}

}  // namespace optiq
