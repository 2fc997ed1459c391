#include "server/output_parser.h"

#include <gtest/gtest.h>

#include <random>

namespace optiq {
namespace {

ChatFormat Format(ToolSyntax tools, bool think = true) {
  ChatFormat format;
  format.tools = tools;
  if (tools == ToolSyntax::kGemma4) {
    format.think_open = "<|channel>";
    format.think_close = "<channel|>";
    format.think_header = "thought";
    format.think_anywhere = true;
  } else if (think) {
    format.think_open = "<think>";
    format.think_close = "</think>";
  }
  return format;
}

OrderedJson Tools() {
  return OrderedJson::parse(R"([{"type":"function","function":{"name":"get_weather","parameters":{"type":"object",
      "properties":{"city":{"type":"string"},"days":{"type":"integer"}}}}},
      {"type":"function","function":{"name":"ping"}}])");
}

void Append(OutputEvents* all, const OutputEvents& more) {
  for (const OutputEvent& e : more) {
    const bool joins = !all->empty() && e.kind != OutputEvent::kToolCall &&
                       (all->back().kind == e.kind ||
                        (e.kind == OutputEvent::kToolArguments && all->back().kind == OutputEvent::kToolCall));
    if (joins) {
      all->back().text += e.text;
    } else {
      all->push_back(e);
    }
  }
}

OutputEvents ParseIn(const OutputParserOptions& options, const std::vector<std::string>& pieces) {
  OutputParser parser(options);
  OutputEvents all;
  for (const std::string& piece : pieces) {
    OutputEvents events;
    parser.Push(piece, &events);
    Append(&all, events);
  }
  OutputEvents events;
  parser.Finish(&events);
  Append(&all, events);
  return all;
}

std::string Show(const OutputEvents& events) {
  std::string out;
  for (const OutputEvent& e : events) {
    out += e.kind == OutputEvent::kReasoning ? "[T:" + e.text + "]"
           : e.kind == OutputEvent::kContent ? "[C:" + e.text + "]"
                                             : "[" + e.name + e.text + "]";
  }
  return out;
}

struct Case {
  ToolSyntax tools;
  const char* text;
  const char* expected;
  bool start_in_reasoning = false;
};

const Case kCases[] = {
    {ToolSyntax::kHermes, "Hello, world.", "[C:Hello, world.]"},
    {ToolSyntax::kHermes, "", ""},
    {ToolSyntax::kHermes, " a <b> & </think> <", "[C: a <b> & </think> <]"},
    {ToolSyntax::kHermes, "<think>\nHm, <tool_call>?\n</think>\n\nYes.", "[T:Hm, <tool_call>?][C:Yes.]"},
    {ToolSyntax::kHermes, "<think>\n\n</think>\n\nYes.", "[C:Yes.]"},
    {ToolSyntax::kHermes, "so\n</think>\nYes", "[T:so][C:Yes]", true},
    {ToolSyntax::kHermes, "cut off in the mid", "[T:cut off in the mid]", true},
    {ToolSyntax::kHermes,
     "Let me see.\n<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"a </tool_call> }\\\" "
     "b\"}}\n</tool_call>",
     "[C:Let me see.\n][get_weather{\"city\":\"a </tool_call> }\\\" b\"}]"},
    {ToolSyntax::kHermes,
     "<tool_call>{\"name\":\"ping\"}</"
     "tool_call>\n<tool_call>\n{\"arguments\":{\"days\":2},\"name\":\"get_weather\"}\n</tool_call>\n",
     "[ping{}][get_weather{\"days\":2}]"},
    {ToolSyntax::kHermes, "<tool_call>{\"name\":\"ping\",\"arguments\":\"{}\"}", "[ping{}]"},
    {ToolSyntax::kHermes, "<tool_call>{\"name\":\"unknown\"}</tool_call>",
     "[C:<tool_call>{\"name\":\"unknown\"}</tool_call>]"},
    {ToolSyntax::kHermes, "<tool_call>{\"name\": \"ping\", ", "[C:<tool_call>{\"name\": \"ping\", ]"},
    {ToolSyntax::kHermes, "<tool_call>not json</tool_call> more", "[C:<tool_call>not json</tool_call> more]"},
    {ToolSyntax::kHermes,
     "<tool_call>\n<function=get_weather>\n<parameter=city>\n12\n</parameter>\n<parameter=days>\n3\n</parameter>\n</"
     "function>\n</tool_call>",
     "[get_weather{\"city\":\"12\",\"days\":3}]"},
    {ToolSyntax::kHermes, "{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Oslo\"}}\n",
     "[get_weather{\"city\":\"Oslo\"}]"},
    {ToolSyntax::kHermes, "{\"name\": \"Oslo\"}", "[C:{\"name\": \"Oslo\"}]"},
    {ToolSyntax::kLlama3, "{\"name\": \"get_weather\", \"parameters\": {\"city\": \"Oslo\"}}",
     "[get_weather{\"city\":\"Oslo\"}]"},
    {ToolSyntax::kLlama3, "<|python_tag|>{\"name\":\"ping\",\"parameters\":{}}; {\"name\":\"ping\",\"parameters\":{}}",
     "[ping{}][ping{}]"},
    {ToolSyntax::kLlama3, "{\"answer\": 42}", "[C:{\"answer\": 42}]"},
    {ToolSyntax::kLlama3, "Use {\"name\": \"ping\"} then", "[C:Use {\"name\": \"ping\"} then]"},
    {ToolSyntax::kMistral,
     "[TOOL_CALLS][{\"name\": \"ping\", \"arguments\": {}}, {\"name\": \"get_weather\", \"arguments\": {\"city\": "
     "\"]\"}}]",
     "[ping{}][get_weather{\"city\":\"]\"}]"},
    {ToolSyntax::kMistral, "Well.[TOOL_CALLS]get_weather[ARGS]{\"days\": 1}[TOOL_CALLS]ping[CALL_ID]abc[ARGS]{}",
     "[C:Well.][get_weather{\"days\":1}][ping{}]"},
    {ToolSyntax::kGemma4, "<|channel>thought\nI think.\n<channel|>It is.", "[T:I think.][C:It is.]"},
    {ToolSyntax::kGemma4,
     "<|tool_call>call:get_weather{city:<|\"|>a } \" <tool_call|> "
     "b<|\"|>,days:3}<tool_call|><|tool_call>call:ping{}<tool_call|>",
     "[get_weather{\"city\":\"a } \\\" <tool_call|> b\",\"days\":3}][ping{}]"},
    {ToolSyntax::kGemma4, "<|tool_call>call:get_weather{o:{l:[true,null,1.5,<|\"|>x<|\"|>]}}call:ping{}<tool_call|>",
     "[get_weather{\"o\":{\"l\":[true,null,1.5,\"x\"]}}][ping{}]"},
    {ToolSyntax::kLfm2,
     "Well. <|tool_call_start|>[get_weather(city=\"a ')] \\\"b\\\"\", days=3), ping()]<|tool_call_end|>Done.",
     "[C:Well. ][get_weather{\"city\":\"a ')] \\\"b\\\"\",\"days\":3}][ping{}][C:Done.]"},
    {ToolSyntax::kLfm2, "<|tool_call_start|>get_weather(city='Troms\\u00f8', days=-1.5)<|tool_call_end|>",
     "[get_weather{\"city\":\"Troms\u00f8\",\"days\":-1.5}]"},
    {ToolSyntax::kLfm2, "<|tool_call_start|>[get_weather(city={'a': [True, None, (1, 2)], \"b\": False,}, )]<|tool_call_end|>",
     "[get_weather{\"city\":{\"a\":[true,null,[1,2]],\"b\":false}}]"},
    {ToolSyntax::kLfm2, "<|tool_call_start|>[{\"name\": \"ping\", \"arguments\": {}}]<|tool_call_end|>", "[ping{}]"},
    {ToolSyntax::kLfm2, "<|tool_call_start|>[ping(1)]<|tool_call_end|>",
     "[C:<|tool_call_start|>[ping(1)]<|tool_call_end|>]"},
    {ToolSyntax::kLfm2, "<|tool_call_start|>[ping(x=open('f'))]<|tool_call_end|>",
     "[C:<|tool_call_start|>[ping(x=open('f'))]<|tool_call_end|>]"},
    {ToolSyntax::kLfm2, "<|tool_call_start|>[ping(x=", "[C:<|tool_call_start|>[ping(x=]"},
    {ToolSyntax::kGemma4, "<|tool_call>nonsense", "[C:<|tool_call>nonsense]"},
    {ToolSyntax::kGemma4, "One<|channel>thought\ntwo<channel|>three", "[C:One][T:two][C:three]"},
};

TEST(OutputParserTest, Formats) {
  for (const Case& c : kCases) {
    EXPECT_EQ(Show(ParseIn({Format(c.tools), Tools(), c.start_in_reasoning}, {c.text})), c.expected) << c.text;
  }
}

TEST(OutputParserTest, HowTheTextIsCutDoesNotMatter) {
  std::mt19937 random(7);
  for (const Case& c : kCases) {
    const std::string text = c.text;
    for (size_t cut = 0; cut <= text.size(); ++cut) {
      EXPECT_EQ(
          Show(ParseIn({Format(c.tools), Tools(), c.start_in_reasoning}, {text.substr(0, cut), text.substr(cut)})),
          c.expected)
          << text << " cut at " << cut;
    }
    for (int round = 0; round < 30; ++round) {
      std::vector<std::string> pieces;
      for (size_t at = 0; at < text.size();) {
        const size_t n = 1 + random() % (round < 10 ? 1 : 6);
        pieces.push_back(text.substr(at, n));
        at += n;
      }
      EXPECT_EQ(Show(ParseIn({Format(c.tools), Tools(), c.start_in_reasoning}, pieces)), c.expected);
    }
  }
}

// Cut off anywhere: never a crash, and arguments that come out are whole JSON objects.
TEST(OutputParserTest, Truncated) {
  for (const Case& c : kCases) {
    const std::string text = c.text;
    for (size_t n = 0; n < text.size(); ++n) {
      std::vector<std::string> letters;
      for (const char x : text.substr(0, n)) letters.emplace_back(1, x);
      const OutputEvents whole = ParseIn({Format(c.tools), Tools(), c.start_in_reasoning}, {text.substr(0, n)});
      EXPECT_EQ(Show(whole), Show(ParseIn({Format(c.tools), Tools(), c.start_in_reasoning}, letters)))
          << text.substr(0, n);
      for (const OutputEvent& e : whole) {
        if (e.kind == OutputEvent::kToolCall) {
          EXPECT_TRUE(OrderedJson::parse(e.text).is_object());
        }
      }
    }
  }
}

TEST(OutputParserTest, RandomMarkup) {
  const char* const kPieces[] = {"<tool_call>",
                                 "</tool_call>",
                                 "{\"name\":\"ping\"}",
                                 "<think>",
                                 "</think>",
                                 "<|tool_call>",
                                 "call:ping{",
                                 "}",
                                 "<|\"|>",
                                 "<tool_call|>",
                                 "[TOOL_CALLS]",
                                 "ping[ARGS]",
                                 "[",
                                 "]",
                                 "<|channel>",
                                 "thought\n",
                                 "<channel|>",
                                 " ",
                                 "\n",
                                 "a",
                                 "{",
                                 "\"",
                                 ";",
                                 "<|python_tag|>",
                                 "<function=ping>",
                                 "<|tool_call_start|>",
                                 "[ping(a=",
                                 ")]",
                                 "'",
                                 ",\"arguments\": {",
                                 "{\"name\":\"ping\"",
                                 ":",
                                 "</function>",
                                 "<"};
  std::mt19937 random(11);
  for (int round = 0; round < 4000; ++round) {
    std::string text;
    for (int n = random() % 14; n > 0; --n) text += kPieces[random() % std::size(kPieces)];
    const OutputParserOptions options{Format(static_cast<ToolSyntax>(random() % 6)), Tools(), random() % 4 == 0,
                                      random() % 4 != 0};
    std::vector<std::string> letters;
    for (const char x : text) letters.emplace_back(1, x);
    ASSERT_EQ(Show(ParseIn(options, {text})), Show(ParseIn(options, letters))) << text;
    OutputParserOptions streamed = options;
    streamed.stream_arguments = true;
    ASSERT_EQ(Show(ParseIn(streamed, {text})), Show(ParseIn(streamed, letters))) << text;
  }
}

// What is whole is the same call, written piece by piece.
TEST(OutputParserTest, ArgumentsInPieces) {
  int in_pieces = 0;
  for (const Case& c : kCases) {
    OutputParserOptions options{Format(c.tools), Tools(), c.start_in_reasoning};
    options.stream_arguments = true;
    const std::string text = c.text;
    std::vector<std::string> letters;
    for (const char x : text) letters.emplace_back(1, x);
    EXPECT_EQ(Show(ParseIn(options, letters)), c.expected) << text;
    EXPECT_EQ(Show(ParseIn(options, {text})), c.expected) << text;
    OutputParser parser(options);
    for (const std::string& letter : letters) {
      OutputEvents events;
      parser.Push(letter, &events);
      for (const OutputEvent& e : events) in_pieces += e.kind == OutputEvent::kToolArguments;
    }
  }
  EXPECT_GT(in_pieces, 50);
}

// A stream cannot take back what it has said.
TEST(OutputParserTest, BrokenArgumentsInPieces) {
  OutputParserOptions options{Format(ToolSyntax::kHermes), Tools()};
  options.stream_arguments = true;
  EXPECT_EQ(Show(ParseIn(options, {R"(<tool_call>{"name": "ping", "arguments": {"a": "b c)"})), R"([ping{"a":"b c])");
  EXPECT_EQ(Show(ParseIn(options, {R"(<tool_call>{"name": "ping", "arguments": {"a": tru}}</tool_call> x)"})),
            R"([ping{"a":tru}][C:x])");
  EXPECT_EQ(Show(ParseIn(options, {R"(<tool_call>{"name": "other", "arguments": {"a": 1}}</tool_call>)"})),
            R"([C:<tool_call>{"name": "other", "arguments": {"a": 1}}</tool_call>])");
  options.parallel_tool_calls = false;
  EXPECT_EQ(Show(ParseIn(options, {R"({"name": "ping", "arguments": {"a": 1}}{"name": "ping", "arguments": {}} y)"})),
            R"([ping{"a":1}])");
}

TEST(OutputParserTest, WithoutToolsMarkupIsText) {
  EXPECT_EQ(Show(ParseIn({Format(ToolSyntax::kHermes), nullptr}, {"<tool_call>{\"name\":\"ping\"}</tool_call>"})),
            "[C:<tool_call>{\"name\":\"ping\"}</tool_call>]");
}

TEST(OutputParserTest, OneCallOnly) {
  OutputParserOptions options{Format(ToolSyntax::kHermes), Tools()};
  options.parallel_tool_calls = false;
  EXPECT_EQ(Show(ParseIn(options,
                         {"<tool_call>{\"name\":\"ping\"}</tool_call><tool_call>{\"name\":\"ping\"}</tool_call> x"})),
            "[ping{}]");
}

TEST(ChatFormatTest, FoundFromTheTemplate) {
  EXPECT_EQ(DetectChatFormat("..<tool_call>..<think>", nullptr).tools, ToolSyntax::kHermes);
  EXPECT_EQ(DetectChatFormat("..<tool_call>..<think>", nullptr).think_close, "</think>");
  EXPECT_EQ(DetectChatFormat("[INST] [TOOL_CALLS]", nullptr).tools, ToolSyntax::kMistral);
  EXPECT_EQ(DetectChatFormat("<|start_header_id|> {% if tools %}", nullptr).tools, ToolSyntax::kLlama3);
  EXPECT_EQ(DetectChatFormat("<|tool_call>call: <|channel>thought", nullptr).tools, ToolSyntax::kGemma4);
  EXPECT_EQ(DetectChatFormat("<|tool_call>call: <|channel>thought", nullptr).think_open, "<|channel>");
  EXPECT_EQ(DetectChatFormat("<|im_start|> <|tool_call_start|>", nullptr).tools, ToolSyntax::kLfm2);
  EXPECT_EQ(DetectChatFormat("", nullptr).tools, ToolSyntax::kNone);
}

}  // namespace
}  // namespace optiq
