// What generate and chat tell the chat template.
#ifndef OPTIQ_CLI_TEMPLATE_OPTIONS_H_
#define OPTIQ_CLI_TEMPLATE_OPTIONS_H_

#include <CLI/CLI.hpp>
#include <string>

#include "base/status.h"
#include "text/chat_template.h"

namespace optiq {

struct TemplateOptions {
  std::string args;      // --chat-template-args: a JSON object
  std::string thinking;  // --thinking: on, off, or empty: the template's own default
  std::string tools;     // --tools: a file

  void AddTo(CLI::App* app);
  bool any() const { return !args.empty() || !thinking.empty() || !tools.empty(); }
  // What the template does not read is refused: kInvalidArgument naming the option.
  StatusOr<RenderOptions> ToRender(const ChatTemplate& chat_template) const;
};

}  // namespace optiq

#endif  // OPTIQ_CLI_TEMPLATE_OPTIONS_H_
