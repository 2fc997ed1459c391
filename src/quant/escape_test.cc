#include "quant/escape.h"

#include <gtest/gtest.h>

#include "base/json.h"

namespace optiq {
namespace {

TEST(Escape, ValidUtf8) {
  EXPECT_EQ(ValidUtf8("plain ä 漢 🙂"), "plain ä 漢 🙂");
  EXPECT_EQ(ValidUtf8("a\xFF"
                      "b"),
            "a\xEF\xBF\xBD"
            "b");
  EXPECT_EQ(ValidUtf8("\xC0\x80"), "\xEF\xBF\xBD\xEF\xBF\xBD");              // overlong NUL
  EXPECT_EQ(ValidUtf8("\xED\xA0\x80").find("\xED"), std::string::npos);      // surrogate
  EXPECT_EQ(ValidUtf8("\xF4\x90\x80\x80").find("\xF4"), std::string::npos);  // above U+10FFFF
  EXPECT_EQ(ValidUtf8("\xE6\xBC"), "\xEF\xBF\xBD\xEF\xBF\xBD");              // cut short
  // Whatever the bytes, JSON takes the result.
  std::string all;
  for (int i = 0; i < 256; ++i) all += static_cast<char>(i), all += static_cast<char>(255 - i);
  EXPECT_NO_THROW(Json(ValidUtf8(all)).dump());
}

TEST(Escape, Html) {
  EXPECT_EQ(EscapeHtml("<script>\"a\" & 'b'</script>"), "&lt;script&gt;&quot;a&quot; &amp; &#39;b&#39;&lt;/script&gt;");
  EXPECT_EQ(EscapeHtml(std::string_view("a\0b\x1b", 4)),
            "a\xEF\xBF\xBD"
            "b\xEF\xBF\xBD");
}

TEST(Escape, Markdown) {
  EXPECT_EQ(EscapeMarkdown("[x](javascript:1) *b* | `c`\n# <b>"),
            "\\[x\\]\\(javascript:1\\) \\*b\\* \\| \\`c\\` \\# \\<b\\>");
  EXPECT_EQ(EscapeMarkdown("SmolLM2-135M (4.50)"), "SmolLM2-135M \\(4.50\\)");
}

TEST(Escape, MarkdownCode) {
  EXPECT_EQ(MarkdownCode("q"), "`q`");
  EXPECT_EQ(MarkdownCode("a`b"), "``a`b``");
  EXPECT_EQ(MarkdownCode("`"), "`` ` ``");
  EXPECT_EQ(MarkdownCode("a|b\nc"), "`a\\|b c`");
  EXPECT_EQ(MarkdownCodeBlock("x\n```\ny", "sh"), "````sh\nx\n```\ny\n````\n");
}

TEST(Escape, Yaml) {
  EXPECT_EQ(YamlString("a: \"b\"\n- c"), "\"a: \\\"b\\\"\\n- c\"");
  EXPECT_EQ(YamlString("ä\xFF"), "\"\\u00e4\\ufffd\"");
}

}  // namespace
}  // namespace optiq
