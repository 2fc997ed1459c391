#include "cli/template_options.h"

#include "base/file.h"
#include "base/limits.h"
#include "text/ordered_json.h"

namespace optiq {
namespace {

// Templates' names for the switch: Qwen, Gemma and SmolLM; DeepSeek and Granite.
constexpr const char* kThinkingNames[] = {"enable_thinking", "thinking"};

StatusOr<OrderedJson> ReadTools(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, limits::kConfigBytes));
  ASSIGN_OR_RETURN(OrderedJson tools, ParseOrderedJson(text, path));
  if (!tools.is_array()) return InvalidArgument("--tools {}: must be a JSON array of tool schemas", path);
  for (size_t i = 0; i < tools.size(); ++i) {
    if (!tools[i].is_object()) return InvalidArgument("--tools {}: tool {} is not an object", path, i);
    const OrderedJson* function = tools[i].contains("function") ? &tools[i]["function"] : &tools[i];
    if (!function->is_object() || !function->contains("name") || !(*function)["name"].is_string()) {
      return InvalidArgument("--tools {}: tool {} has no name; expected {{\"type\": \"function\", \"function\": {{\"name\": ...}}}}",
                             path, i);
    }
  }
  return tools;
}

}  // namespace

void TemplateOptions::AddTo(CLI::App* app) {
  app->add_option("--thinking", thinking, "Let the model think before it answers (default: as its chat template says)")
      ->check(CLI::IsMember({"on", "off"}))
      ->type_name("on|off");
  app->add_option("--tools", tools, "Tools that the model may call: a JSON array of function schemas")->type_name("FILE");
  app->add_option("--chat-template-args", args, "Further arguments of the chat template")->type_name("JSON");
}

StatusOr<RenderOptions> TemplateOptions::ToRender(const ChatTemplate& chat_template) const {
  RenderOptions render;
  if (!args.empty()) {
    ASSIGN_OR_RETURN(render.extra, ParseOrderedJson(args, "--chat-template-args"));
    if (!render.extra.is_object()) return InvalidArgument("--chat-template-args: must be a JSON object");
  }
  if (!thinking.empty()) {
    bool known = false;
    for (const char* name : kThinkingNames) {
      if (!chat_template.Uses(name)) continue;
      render.extra[name] = thinking == "on";
      known = true;
    }
    if (!known) return InvalidArgument("--thinking: the model's chat template has no such switch");
  }
  if (!tools.empty()) {
    if (!chat_template.Uses("tools")) return InvalidArgument("--tools: the model's chat template knows no tools");
    ASSIGN_OR_RETURN(render.tools, ReadTools(tools));
  }
  return render;
}

}  // namespace optiq
