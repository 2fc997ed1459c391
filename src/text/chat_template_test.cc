#include "text/chat_template.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <thread>

#include "text/test_models.h"

namespace optiq {
namespace {

using Ids = std::vector<int32_t>;

OrderedJson Parse(std::string_view text) {
  auto json = ParseOrderedJson(text, "test");
  EXPECT_TRUE(json.ok()) << json.status();
  return *json;
}

class GoldenChatTest : public testing::TestWithParam<const char*> {
 protected:
  Ids Control(const Ids& ids) const {
    Ids out;
    std::copy_if(ids.begin(), ids.end(), std::back_inserter(out),
                 [&](int32_t id) { return model_.tokenizer->IsControl(id); });
    return out;
  }
  TestModel model_ = LoadTestModel(GetParam());
};

TEST_P(GoldenChatTest, TextAndIdsOfTransformers) {
  ASSERT_TRUE(model_.chat_template);
  int rendered = 0;
  for (const OrderedJson& chat : model_.expected["chats"]) {
    RenderOptions options;
    options.add_generation_prompt = chat["add_generation_prompt"];
    options.extra = chat["kwargs"];
    auto text = model_.chat_template->Render(chat["messages"], options);
    ASSERT_TRUE(text.ok()) << text.status();
    EXPECT_EQ(*text, chat["text"].get<std::string>());
    auto ids = EncodeChat(*model_.chat_template, *model_.tokenizer, chat["messages"], options);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(*ids, chat["ids"].get<Ids>());
    ++rendered;
  }
  EXPECT_GT(rendered, 10);
}

TEST_P(GoldenChatTest, ControlTokensInMessagesStayText) {
  std::vector<std::string> control = ControlTokens(*model_.tokenizer);
  std::mt19937 random(6);
  for (int i = 0; i < 300; ++i) {
    std::string system = RandomText(random, control), user = RandomText(random, control);
    auto chat = [](const std::string& a, const std::string& b) {
      return OrderedJson::array({{{"role", "system"}, {"content", a}}, {{"role", "user"}, {"content", b}}});
    };
    Ids ids = *EncodeChat(*model_.chat_template, *model_.tokenizer, chat(system, user));
    Ids harmless = *EncodeChat(*model_.chat_template, *model_.tokenizer, chat("x", "x"));
    EXPECT_EQ(Control(ids), Control(harmless)) << system << " / " << user;
    std::string prompt = *model_.chat_template->Render(chat(system, user));
    Ids unguarded = *model_.tokenizer->Encode(prompt, EncodeMode::kPlain);
    EXPECT_EQ(*model_.tokenizer->Decode(ids, false), *model_.tokenizer->Decode(unguarded, false));
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, GoldenChatTest, testing::ValuesIn(kTestKinds),
                         [](const auto& info) { return std::string(info.param); });

StatusOr<std::string> Render(std::string_view source, std::string_view messages, const RenderOptions& options = {}) {
  ASSIGN_OR_RETURN(ChatTemplate chat_template, ChatTemplate::FromSource(source));
  return chat_template.Render(Parse(messages), options);
}

TEST(GuardTest, ToolsArgumentsAndKeysAreGuardedAssistantTextIsNot) {
  TestModel model = LoadTestModel("qwen");
  auto chat_template = ChatTemplate::FromSource("{{ tools | tojson }}{{ messages | tojson }}{{ note }}{{ eos_token }}");
  const char* mark = "<\uFDD0|im_end|>";
  RenderOptions options;
  options.guard = model.tokenizer.get();
  options.tools = Parse(R"([{"<|im_end|>":["<|im_end|>"]}])");
  options.extra = Parse(R"({"note":"<|im_end|>"})");
  OrderedJson messages = Parse(R"([{"role":"assistant","content":"<|im_end|>","tool_calls":[{"a":"<|im_end|>"}]},
                                   {"role":"tool","content":"<|im_end|>\uFDD0"},{"role":"<|im_end|>","content":[{"text":"<|im_end|>"}]}])");
  std::string text = *chat_template->Render(messages, options);
  EXPECT_EQ(
      text,
      fmt::format(
          R"([{{"{0}": ["{0}"]}}][{{"role": "assistant", "content": "<|im_end|>", "tool_calls": [{{"a": "{0}"}}]}}, )"
          R"({{"role": "tool", "content": "{0}{1}"}}, {{"role": "{0}", "content": [{{"text": "{0}"}}]}}]{0})",
          mark, "\uFFFD"));
}

TEST(ChatTemplateTest, NamedTokensAndArguments) {
  SpecialTokens special;
  special.named = {{"bos_token", "<s>"}, {"eos_token", "</s>"}};
  auto chat_template =
      ChatTemplate::FromSource("{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ thinking }}{{ tools }}", special);
  ASSERT_TRUE(chat_template.ok());
  RenderOptions options;
  options.extra = Parse(R"({"eos_token":"E","thinking":true})");
  EXPECT_EQ(*chat_template->Render(OrderedJson::array(), options), "<s>ETrueNone");
  EXPECT_TRUE(chat_template->Uses("thinking"));
  EXPECT_FALSE(chat_template->Uses("enable_thinking"));
  options.extra = Parse(R"({"messages":1})");
  EXPECT_EQ(chat_template->Render(OrderedJson::array(), options).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ChatTemplateTest, KeyOrderIsKept) {
  EXPECT_EQ(*Render("{{ messages[0] | tojson }}", R"([{"zeta":1,"alpha":{"y":2,"x":3}}])"),
            R"({"zeta": 1, "alpha": {"y": 2, "x": 3}})");
}

TEST(ChatTemplateTest, RaisedTextIsTheMessage) {
  auto text = Render("{{ raise_exception('Roles must alternate <\"ü\">') }}", "[]");
  EXPECT_EQ(text.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Message(text.status()), "chat template: Roles must alternate <\"ü\">");
  // Also from inside a macro and a loop.
  text = Render("{% macro f() %}{{ raise_exception('no') }}{% endmacro %}{% for i in range(3) %}{{ f() }}{% endfor %}",
                "[]");
  EXPECT_EQ(Message(text.status()), "chat template: no");
}

TEST(ChatTemplateTest, ErrorsNameTheLine) {
  auto broken = ChatTemplate::FromSource("a\nb\n{% if x %}\n{{ y +* }}\n", {}, "chat_template.jinja");
  EXPECT_EQ(broken.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(Message(broken.status()).find("chat_template.jinja: line 4: syntax error"), 0u) << broken.status();
  auto unclosed = ChatTemplate::FromSource("a\n{% for x in y %}\n");
  EXPECT_NE(Message(unclosed.status()).find("line "), std::string::npos) << unclosed.status();
  auto failing = Render("a\n\n{{ messages[0].content.x.y }}", R"([{"content":"a"}])");
  EXPECT_EQ(failing.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Message(failing.status()).find("chat template: line 3: "), 0u) << failing.status();
  auto space = ChatTemplate::FromSource("{% set ns = namespace(a=1) %}\n{{ ns }}");
  EXPECT_EQ(Message(space.status()), "chat template: line 2: 'ns' is a namespace: it may only be used as ns.name");
}

TEST(ChatTemplateTest, ContinueFinalMessage) {
  const char* source = "{% for m in messages %}<{{ m.role }}>{{ m.content TRIM }}</>{% endfor %}";
  std::string plain(source), trimming(source);
  plain.erase(plain.find("TRIM"), 4);
  trimming.replace(trimming.find("TRIM"), 4, "| trim");
  RenderOptions options;
  options.add_generation_prompt = false;
  options.continue_final_message = true;
  const char* messages = R"([{"role":"user","content":"a"},{"role":"assistant","content":" Sure, "}])";
  EXPECT_EQ(*Render(plain, messages, options), "<user>a</><assistant> Sure, ");
  EXPECT_EQ(*Render(trimming, messages, options), "<user>a</><assistant>Sure,");
  EXPECT_FALSE(Render(plain, R"([{"role":"user"}])", options).ok());
  EXPECT_FALSE(Render("nothing", messages, options).ok());
  options.add_generation_prompt = true;
  EXPECT_FALSE(Render(plain, messages, options).ok());
}

TEST(ChatTemplateTest, StrftimeNow) {
  RenderOptions options;
  options.unix_time = 1'700'000'000;  // 14 November 2023, 22:13:20 UTC
  std::string text = *Render("{{ strftime_now('%Y %b') }}", "[]", options);
  EXPECT_EQ(text, "2023 Nov");
}

TEST(ChatTemplateTest, BadInput) {
  auto chat_template = ChatTemplate::FromSource("{{ messages }}");
  EXPECT_FALSE(chat_template->Render(Parse("{}")).ok());
  RenderOptions options;
  options.tools = Parse("{}");
  EXPECT_FALSE(chat_template->Render(Parse("[]"), options).ok());
  OrderedJson deep = OrderedJson::array();
  for (int i = 0; i < 200; ++i) deep = OrderedJson::array({deep});
  EXPECT_EQ(chat_template->Render(deep).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(*chat_template->Render(OrderedJson::array({{{"content", "a\xff"}}})), "[{'content': 'a\uFFFD'}]");
  EXPECT_FALSE(ChatTemplate::FromSource("a\xff").ok());
}

TEST(ChatTemplateTest, SharedByThreads) {
  auto chat_template = ChatTemplate::FromSource("{% for m in messages %}{{ m.content }}{% endfor %}");
  std::vector<std::thread> threads;
  std::vector<int> good(4);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 50; ++i)
        good[t] += *chat_template->Render(OrderedJson::array({{{"content", t}}})) == std::to_string(t);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(good, std::vector<int>(4, 50));
}

}  // namespace
}  // namespace optiq
