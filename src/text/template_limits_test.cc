// Templates that would run, grow or recurse without end: each must end in an error in time, with the process alive.
#include <gtest/gtest.h>

#include <ctime>

#include "text/chat_template.h"

namespace optiq {
namespace {

std::string Repeat(std::string_view part, int n) {
  std::string out;
  for (int i = 0; i < n; ++i) out += part;
  return out;
}

const std::string kGrow =
    "{% set ns = namespace(s=[1], t=[1]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}";

const std::pair<const char*, std::string> kBombs[] = {
    {"range", "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"},
    {"output",
     "{% for i in range(99999) %}{% for j in range(99999) %}" + Repeat("a", 100) + "{% endfor %}{% endfor %}"},
    {"doubling",
     "{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}"},
    {"adding",
     "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}"},
    {"print tree", kGrow + "{{ ns.s }}"},
    {"json tree", kGrow + "{{ ns.s | tojson }}"},
    {"join tree", kGrow + "{{ ns.s | join }}"},
    {"concatenate tree", kGrow + "{{ ns.s ~ '' }}"},
    {"unrolled tree", "{% set x = [1] %}" + Repeat("{% set x = [x, x] %}", 60) + "{{ x ~ '' }}"},
    {"loop tree", Repeat("{% for x in [[x, x]] %}", 60) + "{{ x ~ '' }}" + Repeat("{% endfor %}", 60)},
    {"deep",
     "{% set ns = namespace(a=[]) %}{% for i in range(99999) %}{% set ns.a = [ns.a] %}{% endfor %}{{ ns.a ~ '' }}"},
    {"itself", "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns ~ '' }}"},
    {"itself in a list", "{% set ns = namespace() %}{% set ns.a = [ns] %}{{ ns.a == ns.a }}"},
    {"itself under another name", "{% set f = namespace %}{% set a = f() %}{% set a.a = a %}{{ a ~ '' }}"},
    {"itself from a loop", "{% for n in [namespace()] %}{% set n.a = n %}{{ n ~ '' }}{% endfor %}"},
    {"itself from a macro", "{% macro f(n) %}{% set n.a = n %}{{ n ~ '' }}{% endmacro %}{{ f(namespace()) }}"},
    {"macro", "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}"},
    {"macro tree",
     "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}" + Repeat("{{ f(14) }}", 40)},
    {"parentheses", "{{ " + Repeat("(", 5000) + "1" + Repeat(")", 5000) + " }}"},
    {"brackets", "{{ " + Repeat("[", 100'000) + Repeat("]", 100'000) + " }}"},
    {"minus", "{{ " + Repeat("-", 200'000) + "1 }}"},
    {"not", "{{ " + Repeat("not ", 100'000) + "1 }}"},
    {"plus", "{{ 1" + Repeat("+1", 200'000) + " }}"},
    {"filters", "{{ a" + Repeat("|trim", 100'000) + " }}"},
    {"attributes", "{{ a" + Repeat(".b", 100'000) + " }}"},
    {"elif", "{% if a %}" + Repeat("{% elif b %}", 50'000) + "{% endif %}"},
    {"nested if", Repeat("{% if a %}", 20'000) + Repeat("{% endif %}", 20'000)},
    {"indent", "{{ 'a\nb' | indent(1000000000) }}"},
    {"json indent", "{{ [1] | tojson(indent=10000000000) }}"},
    {"multiply", "{{ 'a' * 10**12 }}"},
    {"replace", "{% set s = 'a' * 1000000 %}{{ s.replace('a', 'b' * 1000000) }}"},
    {"format", "{{ '{:1000000000}'.format(1) }}"},
    {"many formats", "{{ ('{0:9999}' * 90000).format(1) }}"},
    {"percent", "{{ '%1000000000d' | format(1) }}"},
    {"center", "{{ 'a'.center(1000000000) }}"},
    {"zfill", "{{ 'a'.zfill(1000000000) }}"},
    {"join", "{{ ('a' * 100000).join(range(99999)) }}"},
    {"split", "{% for i in range(9999) %}{% set s = ('a' * 1000000).split('a') %}{% endfor %}"},
    {"batch", "{{ [1] | batch(1000000000, 1) | list | length }}"},
    {"strftime", "{{ strftime_now('%1000000000Y') }}"},
    {"too long", std::string(2 << 20, 'a')},
};

class BombTest : public testing::TestWithParam<std::pair<const char*, std::string>> {};

TEST_P(BombTest, EndsWithAnError) {
  std::clock_t start = std::clock();  // processor time: the machine may be busy with other things
  auto chat_template = ChatTemplate::FromSource(GetParam().second);
  Status status = chat_template.ok() ? chat_template->Render(OrderedJson::array()).status() : chat_template.status();
  double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  EXPECT_FALSE(status.ok());
  EXPECT_LT(Message(status).size(), 300u) << status;
  EXPECT_LT(seconds, 2.0);
}

INSTANTIATE_TEST_SUITE_P(Bombs, BombTest, testing::ValuesIn(kBombs), [](const auto& info) {
  std::string name = info.param.first;
  for (char& c : name) c = c == ' ' ? '_' : c;
  return name;
});

// The limits must not be in the way of long conversations.
TEST(TemplateLimitsTest, LongConversation) {
  auto chat_template = ChatTemplate::FromSource(
      "{% set ns = namespace(list=[]) %}{% for m in messages %}{% set ns.list = ns.list + [m] %}{% endfor %}"
      "{% for m in ns.list[1:] %}<|{{ m.role }}|>{{ m.content | trim }}{% if not loop.last %}\n{% endif %}{% endfor "
      "%}");
  OrderedJson messages = OrderedJson::array();
  for (int i = 0; i < 1000; ++i) messages.push_back({{"role", "user"}, {"content", std::string(500, 'x')}});
  auto text = chat_template->Render(messages);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(text->size(), 999u * 508);
  // One message of 8 MB.
  messages = OrderedJson::array(
      {{{"role", "user"}, {"content", "x"}}, {{"role", "user"}, {"content", std::string(8 << 20, 'x')}}});
  EXPECT_EQ(chat_template->Render(messages)->size(), (8u << 20) + 8);
}

}  // namespace
}  // namespace optiq
