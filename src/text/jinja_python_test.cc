// Jinja2 as transformers sets it up, expression by expression. Left: a template; right: what Python's
// transformers.utils.chat_template_utils rendered (transformers 5.12.1, Jinja2 3.1.6) with the variables below.
#include <gtest/gtest.h>

#include "text/chat_template.h"
#include "text/ordered_json.h"

namespace optiq {
namespace {

constexpr const char* kVariables =
    R"_({"s": "Hello, wörld", "e": "", "n": null, "t": true, "i": 7, "neg": -3, "f": 0.5, "big": 1e+20, "small": 1e-07, "one": 1.0, "l": [3, 1, 2], "ls": ["b", "a", "c"], "m": {"zeta": 1, "alpha": [1, 2.5, null, false], "q": "it's \"x\" <b>&"}, "msgs": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo", "tool_calls": [{"function": {"name": "f", "arguments": {"b": 1, "a": "x"}}}]}, {"role": "user", "content": "  bye \n"}], "think": "<think>why</think>answer", "words": "a b  c\td"})_";

struct Case {
  const char* source;
  const char* expected;
};

// clang-format off
const Case kCases[] = {
    {R"_({{ n }}|{{ t }}|{{ f }}|{{ big }}|{{ small }}|{{ one }}|{{ i }}|{{ neg }})_",
     R"_(None|True|0.5|1e+20|1e-07|1.0|7|-3)_"},
    {R"_({{ l }} {{ ls }} {{ m }})_",
     R"_([3, 1, 2] ['b', 'a', 'c'] {'zeta': 1, 'alpha': [1, 2.5, None, False], 'q': 'it\'s "x" <b>&'})_"},
    {R"_({{ msgs[1] }})_",
     R"_({'role': 'assistant', 'content': 'yo', 'tool_calls': [{'function': {'name': 'f', 'arguments': {'b': 1, 'a': 'x'}}}]})_"},
    {R"_({{ (1, 'a', none) }} {{ (1,) }} {{ () }} {{ [] }} {{ {} }})_",
     R"_((1, 'a', None) (1,) () [] {})_"},
    {R"_({{ "it's" }} {{ ["it's", 'say "x"', 'both \' and "', 'a\nb\t\\'] }})_",
     R"_(it's ["it's", 'say "x"', 'both \' and "', 'a\nb\t\\'])_"},
    {R"_({{ ['é', '\u00a0', '中', '\x07'] }})_",
     R"_(['é', '\xa0', '中', '\x07'])_"},
    {R"_({{ n | string }}|{{ t | string }}|{{ big | string }}|{{ l | string | length }})_",
     R"_(None|True|1e+20|9)_"},
    {R"_({{ undefined_thing }}|{{ undefined_thing is defined }}|{{ undefined_thing | default('d') }})_",
     R"_(|False|d)_"},
    {R"_({{ m | tojson }})_",
     R"_({"zeta": 1, "alpha": [1, 2.5, null, false], "q": "it's \"x\" <b>&"})_"},
    {R"_({{ m | tojson(indent=2) }})_",
     R"_({
  "zeta": 1,
  "alpha": [
    1,
    2.5,
    null,
    false
  ],
  "q": "it's \"x\" <b>&"
})_"},
    {R"_({{ m | tojson(indent=4, sort_keys=true) }})_",
     R"_({
    "alpha": [
        1,
        2.5,
        null,
        false
    ],
    "q": "it's \"x\" <b>&",
    "zeta": 1
})_"},
    {R"_({{ m | tojson(separators=(',', ':')) }})_",
     R"_({"zeta":1,"alpha":[1,2.5,null,false],"q":"it's \"x\" <b>&"})_"},
    {R"_({{ s | tojson }} {{ s | tojson(ensure_ascii=true) }} {{ '😀' | tojson(ensure_ascii=true) }})_",
     R"_("Hello, wörld" "Hello, w\u00f6rld" "\ud83d\ude00")_"},
    {R"_({{ [] | tojson(indent=2) }} {{ {} | tojson(indent=2) }} {{ [[], {}] | tojson(indent=2) }})_",
     R"_([] {} [
  [],
  {}
])_"},
    {R"_({{ [1.0, 1e16, 1e15, 0.0001, 0.00001, 123456789.123, -0.0] | tojson }})_",
     R"_([1.0, 1e+16, 1000000000000000.0, 0.0001, 1e-05, 123456789.123, -0.0])_"},
    {R"_({{ {1: 'a', true: 'b', none: 'c', 2.5: 'd'} | tojson }})_",
     R"_({"1": "b", "null": "c", "2.5": "d"})_"},
    {R"_({{ 'a\u0000\u001f\u007f\b\f\r' | tojson }})_",
     "\"a\\u0000\\u001f\177\\b\\f\\r\""},
    {R"_({{ n is iterable }} {{ s is iterable }} {{ m is iterable }} {{ i is iterable }} {{ l is iterable }} {{ nope is iterable }})_",
     R"_(False True True False True True)_"},
    {R"_({{ n is sequence }} {{ s is sequence }} {{ m is sequence }} {{ i is sequence }} {{ l[1:] is sequence }} {{ (l + l) is sequence }})_",
     R"_(False True True False True True)_"},
    {R"_({{ m is mapping }} {{ l is mapping }} {{ s is string }} {{ t is boolean }} {{ i is integer }} {{ t is integer }} {{ f is float }} {{ i is number }})_",
     R"_(True False True True True False True True)_"},
    {R"_({{ n is none }} {{ t is true }} {{ 1 is true }} {{ 0 is false }} {{ 3 is odd }} {{ 4 is divisibleby 2 }} {{ 'a' is in ls }})_",
     R"_(True True False False True True True)_"},
    {R"_({{ 'x' | int }} {{ '12' | int }} {{ ' 12 ' | int }} {{ '1.9' | int }} {{ n | int }} {{ 'x' | int(5) }} {{ 3.99 | int }} {{ t | int }} {{ 'x' | int(default=-1) }})_",
     R"_(0 12 12 1 0 5 3 1 -1)_"},
    {R"_({{ 'x' | float }} {{ '1.5' | float }} {{ 3 | float }} {{ 'x' | float(2.5) }})_",
     R"_(0.0 1.5 3.0 2.5)_"},
    {R"_({{ s.upper() }} {{ s | lower }} {{ 'ab cd' | title }} {{ 'ab' | capitalize }} {{ 'aXb'.swapcase() }} {{ 'Straße'.casefold() }})_",
     R"_(HELLO, WÖRLD hello, wörld Ab Cd Ab AxB strasse)_"},
    {R"_([{{ '  a '.strip() }}][{{ '  a '.lstrip() }}][{{ '  a '.rstrip() }}][{{ 'xxaxx'.strip('x') }}][{{ '\x1c a\x1f'.strip() }}][{{ '\n a' | trim }}][{{ 'xax' | trim('x') }}])_",
     R"_([a][a ][  a][a][a][a][a])_"},
    {R"_({{ think.split('</think>') }} {{ think.split('</think>')[-1].lstrip('\n') }} {{ words.split() }} {{ words.split(' ') }} {{ words.split(' ', 1) }})_",
     R"_(['<think>why', 'answer'] answer ['a', 'b', 'c', 'd'] ['a', 'b', '', 'c\td'] ['a', 'b  c\td'])_"},
    {R"_({{ words.rsplit() }} {{ words.rsplit(' ', 1) }} {{ words.rsplit(none, 1) }} {{ 'a,b,c'.rsplit(',', 1) }})_",
     R"_(['a', 'b', 'c', 'd'] ['a b ', 'c\td'] ['a b  c', 'd'] ['a,b', 'c'])_"},
    {R"_({{ 'a-b-c'.partition('-') }} {{ 'a-b-c'.rpartition('-') }} {{ 'abc'.partition('-') }} {{ 'abc'.rpartition('-') }})_",
     R"_(('a', '-', 'b-c') ('a-b', '-', 'c') ('abc', '', '') ('', '', 'abc'))_"},
    {R"_({{ 'abc'.removeprefix('a') }} {{ 'abc'.removesuffix('c') }} {{ 'abc'.removeprefix('z') }})_",
     R"_(bc ab abc)_"},
    {R"_({{ 'abcb'.index('b') }} {{ 'abcb'.rindex('b') }} {{ 'abcb'.find('z') }} {{ 'wörld'.find('l') }} {{ 'abcb'.count('b') }} {{ [1,2,3].index(2) }})_",
     R"_(1 3 -1 3 2 1)_"},
    {R"_([{{ '7'.zfill(3) }}][{{ '-7'.zfill(4) }}][{{ 'a'.center(4) }}][{{ 'a'.center(5) }}][{{ 'ab'.center(5) }}][{{ 'ab'.center(4, '*') }}][{{ 'a'.ljust(3, '.') }}][{{ 'a'.rjust(3) }}])_",
     R"_([007][-007][ a  ][  a  ][  ab ][*ab*][a..][  a])_"},
    {R"_({{ 'a\nb\r\nc\rd\u2028e\n'.splitlines() }} {{ 'a\nb\n'.splitlines(true) }} {{ ''.splitlines() }})_",
     R"_(['a', 'b', 'c', 'd', 'e'] ['a\n', 'b\n'] [])_"},
    {R"_({{ s.startswith('Hell') }} {{ s.endswith(('x', 'ld')) }} {{ 'abc'.replace('b', 'X') }} {{ 'aaa'.replace('a', 'b', 2) }} {{ '{} {}'.format('a', 1) }})_",
     R"_(True True aXc bba a 1)_"},
    {R"_({{ '%s-%d' | format('a', 3) }} {{ 'a'.isdigit() }} {{ '12'.isdigit() }} {{ 'ab'.isalpha() }} {{ ' '.isspace() }} {{ 'a1'.isalnum() }})_",
     R"_(a-3 False True True True True)_"},
    {R"_({{ ', '.join(ls) }} {{ ls | join('-') }} {{ l | join }} {{ l | sort }} {{ ls | sort(reverse=true) }} {{ l | sum }} {{ l | max }} {{ l | min }})_",
     R"_(b, a, c b-a-c 312 [1, 2, 3] ['c', 'b', 'a'] 6 3 1)_"},
    {R"_({{ m.keys() | list }} {{ m.items() | list | length }} {{ m.get('zeta') }} {{ m.get('no') }} {{ m.get('no', 5) }} {{ m['alpha'][1] }} {{ m.copy().zeta }})_",
     R"_(['zeta', 'alpha', 'q'] 3 1 None 5 2.5 1)_"},
    {R"_({{ m | dictsort }} {{ m | items | list | first }} {{ m | length }} {{ 'zeta' in m }} {{ 'no' not in m }})_",
     R"_([('alpha', [1, 2.5, None, False]), ('q', 'it\'s "x" <b>&'), ('zeta', 1)] ('zeta', 1) 3 True True)_"},
    {R"_({{ l[::-1] }} {{ l[1:] }} {{ l[-1] }} {{ s[::-1] }} {{ s[1:4] }} {{ s[-1] }} {{ l | first }} {{ l | last }} {{ l | reverse | list }})_",
     R"_([2, 1, 3] [1, 2] 2 dlröw ,olleH ell d 3 2 [2, 1, 3])_"},
    {R"_({{ msgs | selectattr('role', 'equalto', 'user') | list | length }} {{ msgs | map(attribute='role') | list }} {{ msgs | rejectattr('tool_calls', 'defined') | map(attribute='content') | join('|') }})_",
     R"_(2 ['user', 'assistant', 'user'] hi|  bye 
)_"},
    {R"_({{ ls | map('upper') | join }} {{ [1,1,2] | unique | list }} {{ [1,2,3,4] | batch(2) | list }} {{ l | select('gt', 1) | list }} {{ msgs | groupby('role') | map('first') | list }})_",
     R"_(BAC [1, 2] [[1, 2], [3, 4]] [3, 2] ['assistant', 'user'])_"},
    {R"_({{ 1 + 2 * 3 }} {{ 7 // 2 }} {{ 7 / 2 }} {{ 7 % 3 }} {{ 2 ** 10 }} {{ -7 // 2 }} {{ 1 == 1.0 }} {{ 'a' ~ 1 ~ none ~ true }} {{ 3 > 2 > 1 }} {{ 5 / 5 }})_",
     R"_(7 3 3.5 1 1024 -4 True a1NoneTrue True 1.0)_"},
    {R"_({{ 'yes' if t else 'no' }} {{ 'x' if false }} {{ not t }} {{ e or 'empty' }} {{ t and n }})_",
     R"_(yes  False empty None)_"},
    {R"_({{ range(3) | list }} {{ range(1, 7, 2) | list }} {{ dict(a=1, b=2) }} {{ 10 | abs }} {{ 2.567 | round(2) }} {{ 2.5 | round }})_",
     R"_([0, 1, 2] [1, 3, 5] {'a': 1, 'b': 2} 10 2.57 2.0)_"},
    {R"_({% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{{ '' if loop.last else ',' }}{% endfor %})_",
     R"_(10TrueFalse33,21FalseFalse32,32FalseTrue31)_"},
    {R"_({% for x in l if x > 1 %}{{ x }}{{ loop.length }}{% else %}none{% endfor %}{% for x in [] %}{% else %}empty{% endfor %})_",
     R"_(3222empty)_"},
    {R"_({% for k, v in m.items() %}{{ k }}={{ v }};{% endfor %}{% for a, b in [(1, 2), (3, 4)] %}{{ a + b }} {% endfor %})_",
     R"_(zeta=1;alpha=[1, 2.5, None, False];q=it's "x" <b>&;3 7 )_"},
    {R"_({% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% endfor %})_",
     R"_(3)_"},
    {R"_({% for m in msgs %}{{ loop.previtem.role if loop.previtem else 'start' }}>{{ loop.nextitem.role if loop.nextitem is defined else 'end' }} {{ loop.cycle('a', 'b') }} {{ loop.changed(m.role) }};{% endfor %})_",
     R"_(start>assistant a True;user>user b True;assistant>end a True;)_"},
    {R"_({% set ns = namespace(found=false, list=[]) %}{% for x in l %}{% set ns.found = true %}{% set ns.list = ns.list + [x * 2] %}{% endfor %}{{ ns.found }} {{ ns.list }} {{ ns.list is sequence }} {{ ns.list[1] }})_",
     R"_(True [6, 2, 4] True 2)_"},
    {R"_({% set a, b = 1, 2 %}{{ a }}{{ b }}{% set x = l if t else [] %}{{ x }}{% set y = 1, 2 %}{{ y }})_",
     R"_(12[3, 1, 2](1, 2))_"},
    {R"_({% set block %}in {{ s }}{% endset %}[{{ block }}]{% set up | upper %}abc{% endset %}{{ up }})_",
     R"_([in Hello, wörld]ABC)_"},
    {R"_({% macro f(a, b='d', c=none) %}({{ a }},{{ b }},{{ c }}){% endmacro %}{{ f(1) }}{{ f(1, c=2) }}{{ f(b=1, a=2) }})_",
     R"_((1,d,None)(1,d,2)(2,1,None))_"},
    {R"_({% macro rec(n) %}{{ n }}{% if n > 0 %}{{ rec(n - 1) }}{% endif %}{% endmacro %}{{ rec(5) }})_",
     R"_(543210)_"},
    {R"_({% macro w() %}<{{ caller() }}>{% endmacro %}{% call w() %}x{% endcall %})_",
     R"_(<x>)_"},
    {R"_({% filter upper %}abc{% endfilter %}{% raw %}{{ not }} {% set x %}{% endraw %}{# comment {% if %} #}done)_",
     R"_(ABC{{ not }} {% set x %}done)_"},
    {R"_({% with a = 1, b = 2 %}{{ a + b }}{% endwith %})_",
     R"_(3)_"},
    {R"_({% if msgs[0].role == 'user' and msgs[0]['content'] is not none %}ok{% elif x %}no{% else %}no{% endif %})_",
     R"_(ok)_"},
    {R"_({% generation %}trained {{ s }}{% endgeneration %}{%- generation -%}  tight  {%- endgeneration -%}  .)_",
     R"_(trained Hello, wörldtight.)_"},
    {R"_(  {% if t %}  
  kept
  {% endif %}  
tail)_",
     R"_(  
  kept
  
tail)_"},
    {R"_({%- for m in msgs -%}
  {{ m.role }}
{%- endfor %}  x)_",
     R"_(userassistantuser  x)_"},
    {R"_({% set msgs2 = msgs[1:] %}{{ msgs2 | length }}{{ msgs2[0].role }}{% for m in msgs2[::-1] %}{{ m.role }},{% endfor %}{% for m in msgs[1:] if m.role == 'user' %}{{ m.content | trim }}{% endfor %})_",
     R"_(2assistantuser,assistant,bye)_"},
    {R"_({{ msgs[1].tool_calls[0].function.arguments | tojson }} {{ msgs[1].tool_calls[0]['function'].name }} {{ msgs[0].tool_calls is defined }} {{ msgs[0].tool_calls }})_",
     R"_({"b": 1, "a": "x"} f False )_"},
    {R"_({% set j = joiner(', ') %}{% for x in l %}{{ j() }}{{ x }}{% endfor %})_",
     R"_(3, 1, 2)_"},
    {R"_({{ '</think>' in think }} {{ (think.split('<think>') | last).split('</think>')[0] }} {{ [] is defined and not [] }})_",
     R"_(True why True)_"},
    {R"_({{ strftime_now('%d %b %Y') | length > 5 }} {{ msgs | length }} {{ "a" "b" }} {{ 1_000 }} {{ 1.5e3 }} {{ 'a' * 3 }} {{ [0] * 2 }} {{ -1 | abs }})_",
     R"_(True 3 ab 1000 1500.0 aaa [0, 0] 1)_"},
    {R"_({{ [[1, 2], [3]] | sum(start=[]) }} {{ 'abc' | list }} {{ 'a\nb' | indent(2) }} {{ 'a\nb' | indent(2, true) }})_",
     R"_([1, 2, 3] ['a', 'b', 'c'] a
  b   a
  b)_"},
};
// clang-format on

TEST(JinjaPythonTest, SameTextAsPython) {
  auto variables = ParseOrderedJson(kVariables, "variables");
  ASSERT_TRUE(variables.ok()) << variables.status();
  RenderOptions options;
  options.extra = *variables;
  options.add_generation_prompt = false;
  for (const Case& c : kCases) {
    auto chat_template = ChatTemplate::FromSource(c.source);
    ASSERT_TRUE(chat_template.ok()) << chat_template.status() << "\n" << c.source;
    auto text = chat_template->Render(OrderedJson::array(), options);
    ASSERT_TRUE(text.ok()) << text.status() << "\n" << c.source;
    EXPECT_EQ(*text, c.expected) << c.source;
  }
}

}  // namespace
}  // namespace optiq
