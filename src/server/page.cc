// The page at / and its files, compiled in from web/.
#include "embedded_web.h"
#include "server/api.h"

namespace optiq {
namespace {

// Nothing from elsewhere, nothing inline but the widths of bars.
constexpr char kPolicy[] =
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri "
    "'none'; form-action 'none'; "
    "frame-ancestors 'none'";

void Reply(const Call& call, const char* begin, const char* end, const char* type) {
  HttpResponse response;
  response.content_type = type;
  response.body.assign(begin, end);
  response.headers = {
      {"Content-Security-Policy", kPolicy}, {"Referrer-Policy", "no-referrer"}, {"Cache-Control", "no-cache"}};
  call.Reply(std::move(response));
}

}  // namespace

void HandlePage(const Call& call) {
  using namespace embedded;
  constexpr char kScript[] = "text/javascript; charset=utf-8";
  const std::string& file = call.path_rest;
  if (file.empty())
    return Reply(call, optiq_embedded_index_html, optiq_embedded_index_html_end, "text/html; charset=utf-8");
  if (file == "style.css")
    return Reply(call, optiq_embedded_style_css, optiq_embedded_style_css_end, "text/css; charset=utf-8");
  if (file == "app.js") return Reply(call, optiq_embedded_app_js, optiq_embedded_app_js_end, kScript);
  if (file == "api.js") return Reply(call, optiq_embedded_api_js, optiq_embedded_api_js_end, kScript);
  if (file == "markdown.js") return Reply(call, optiq_embedded_markdown_js, optiq_embedded_markdown_js_end, kScript);
  if (file == "model.js") return Reply(call, optiq_embedded_model_js, optiq_embedded_model_js_end, kScript);
  call.Fail({404, "there is no such file", "", "not_found"});
}

}  // namespace optiq
