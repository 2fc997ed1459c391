#include "quant/calibration.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <filesystem>
#include <fstream>
#include <optional>
#include <set>

#include "base/sha256.h"
#include "quant/calibration_documents.h"
#include "quant/calibration_render.h"

namespace optiq {
namespace {

// Tokenizer and template of a golden model.
struct Model {
  std::unique_ptr<Checkpoint> checkpoint;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::optional<ChatTemplate> chat_template;

  const ChatTemplate* chat() const { return chat_template ? &*chat_template : nullptr; }
};

Model LoadModel(const std::string& name) {
  Model out;
  auto checkpoint = Checkpoint::Open(std::string(OPTIQ_TEST_DATA) + "/goldens/models/" + name);
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  if (!checkpoint.ok()) return out;
  out.checkpoint = std::move(*checkpoint);
  auto tokenizer = Tokenizer::Load(*out.checkpoint);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  auto chat_template = ChatTemplate::Load(*out.checkpoint);
  EXPECT_TRUE(chat_template.ok()) << chat_template.status();
  if (tokenizer.ok()) out.tokenizer = *tokenizer;
  if (chat_template.ok()) out.chat_template = *chat_template;
  return out;
}

class CalibrationTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = std::filesystem::temp_directory_path() / fmt::format("optiq_calibration_{}", ::getpid());
    std::filesystem::create_directories(dir_);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  std::string Write(const std::string& name, const std::string& content) {
    std::string path = dir_ / name;
    std::ofstream(path, std::ios::binary) << content;
    return path;
  }

  std::filesystem::path dir_;
};

std::vector<int32_t> Sequence(const TokenBatch& batch, int64_t i) {
  return {batch.ids.begin() + i * batch.length, batch.ids.begin() + (i + 1) * batch.length};
}

class CalibrationModels : public ::testing::TestWithParam<const char*> {};

TEST_P(CalibrationModels, EmbeddedTextCoversEveryDomain) {
  Model model = LoadModel(GetParam());
  for (bool heldout : {false, true}) {
    CalibrationOptions options;
    options.heldout = heldout;
    auto batch = LoadCalibration(*model.tokenizer, model.chat(), options);
    ASSERT_TRUE(batch.ok()) << batch.status();
    EXPECT_EQ(batch->sequences, 8);
    EXPECT_EQ(batch->length, 256);
    ASSERT_EQ(batch->ids.size(), 8u * 256);
    ASSERT_EQ(batch->domains.size(), 6u);
    int64_t tokens = 0;
    std::set<std::string> names;
    for (const DomainTokens& d : batch->domains) {
      EXPECT_GE(d.sequences, 1) << d.domain;
      EXPECT_EQ(d.tokens, d.sequences * 256) << d.domain;
      tokens += d.tokens;
      names.insert(d.domain);
    }
    EXPECT_EQ(tokens, 8 * 256);
    EXPECT_EQ(names, (std::set<std::string>{"prose", "chat", "code", "reasoning", "tool", "structured"}));
    EXPECT_EQ(batch->refused_conversations, 0);
    for (int32_t id : batch->ids) {
      ASSERT_GE(id, 0);
      ASSERT_LT(id, model.tokenizer->vocab_limit());
    }
    std::set<std::vector<int32_t>> distinct;
    for (int64_t i = 0; i < 8; ++i) distinct.insert(Sequence(*batch, i));
    EXPECT_EQ(distinct.size(), 8u);
  }
}

TEST_P(CalibrationModels, SameOptionsGiveTheSameIdsAndOthersDoNot) {
  Model model = LoadModel(GetParam());
  CalibrationOptions options;
  auto a = LoadCalibration(*model.tokenizer, model.chat(), options);
  auto b = LoadCalibration(*model.tokenizer, model.chat(), options);
  options.seed = 1;
  auto seeded = LoadCalibration(*model.tokenizer, model.chat(), options);
  options.seed = 0;
  options.heldout = true;
  auto heldout = LoadCalibration(*model.tokenizer, model.chat(), options);
  ASSERT_TRUE(a.ok() && b.ok() && seeded.ok() && heldout.ok());
  EXPECT_EQ(a->ids, b->ids);
  EXPECT_EQ(a->sha256, b->sha256);
  EXPECT_NE(a->sha256, seeded->sha256);
  EXPECT_NE(a->sha256, heldout->sha256);
  static_assert(std::endian::native == std::endian::little);
  EXPECT_EQ(a->sha256, Sha256Hex({reinterpret_cast<const char*>(a->ids.data()), a->ids.size() * 4}));
}

TEST_P(CalibrationModels, EverySequenceStartsWithBosWhereTheTokenizerAddsOne) {
  Model model = LoadModel(GetParam());
  auto hello = model.tokenizer->Encode("Hello", EncodeMode::kWithSpecial);
  auto plain = model.tokenizer->Encode("Hello", EncodeMode::kPlain);
  ASSERT_TRUE(hello.ok() && plain.ok());
  bool adds_bos = hello->size() > plain->size();
  EXPECT_EQ(adds_bos, std::string(GetParam()) != "qwen2");
  CalibrationOptions options;
  options.sequences = 24;
  auto batch = LoadCalibration(*model.tokenizer, model.chat(), options);
  ASSERT_TRUE(batch.ok()) << batch.status();
  if (!adds_bos) return;
  for (int64_t i = 0; i < batch->sequences; ++i) {
    std::vector<int32_t> ids = Sequence(*batch, i);
    EXPECT_EQ(ids[0], hello->front());
    EXPECT_NE(ids[1], hello->front()) << "BOS twice in sequence " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Goldens, CalibrationModels, ::testing::Values("qwen2", "llama", "gemma3_text"));

TEST_F(CalibrationTest, AWholeEmbeddedSetCanBeUsed) {
  Model model = LoadModel("qwen2");
  CalibrationOptions options;
  options.sequences = 300;
  auto batch = LoadCalibration(*model.tokenizer, model.chat(), options);
  ASSERT_TRUE(batch.ok()) << batch.status();
  std::set<std::vector<int32_t>> distinct;
  for (int64_t i = 0; i < batch->sequences; ++i) distinct.insert(Sequence(*batch, i));
  EXPECT_EQ(distinct.size(), 300u);
}

TEST_F(CalibrationTest, LongDocumentGivesWindowsThatDoNotOverlap) {
  Model model = LoadModel("llama");
  std::string text;
  for (int i = 0; i < 600; ++i) text += fmt::format("{} ", i);
  CalibrationOptions options{.sequences = 5, .length = 64, .file = Write("long.txt", text)};
  auto batch = LoadCalibration(*model.tokenizer, model.chat(), options);
  ASSERT_TRUE(batch.ok()) << batch.status();
  auto body = *model.tokenizer->Encode(text, EncodeMode::kPlain);
  std::vector<int64_t> starts;
  for (int64_t i = 0; i < 5; ++i) {
    std::vector<int32_t> ids = Sequence(*batch, i);
    auto at = std::search(body.begin(), body.end(), ids.begin() + 1, ids.end());
    ASSERT_NE(at, body.end()) << i;
    starts.push_back(at - body.begin());
  }
  std::sort(starts.begin(), starts.end());
  for (size_t i = 1; i < starts.size(); ++i) EXPECT_GE(starts[i] - starts[i - 1], 63);
}

TEST_F(CalibrationTest, ShortDocumentsAreJoinedEachWithItsBos) {
  Model model = LoadModel("llama");
  std::string text;
  for (int i = 0; i < 40; ++i) text += fmt::format("Document number {} of many.\r\n\r\n", i);
  CalibrationOptions options{.sequences = 2, .length = 64, .file = Write("short.txt", text)};
  auto batch = LoadCalibration(*model.tokenizer, model.chat(), options);
  ASSERT_TRUE(batch.ok()) << batch.status();
  int32_t bos = *model.tokenizer->TokenId(*model.tokenizer->bos_token());
  EXPECT_GE(std::count(batch->ids.begin(), batch->ids.end(), bos), 4);
  EXPECT_TRUE(model.tokenizer->Decode(batch->ids, true)->starts_with("Document number "));
  EXPECT_EQ(model.tokenizer->Decode(batch->ids, true)->find('\r'), std::string::npos);
}

TEST_F(CalibrationTest, DomainsTakeTurns) {
  Model model = LoadModel("qwen2");
  std::string jsonl;
  for (int i = 0; i < 400; ++i) {
    jsonl += fmt::format("{{\"domain\": \"{}\", \"text\": \"line {} of the file\"}}\n", i < 300 ? "big" : "small", i);
  }
  CalibrationOptions options{.sequences = 5, .length = 32, .file = Write("two.jsonl", jsonl)};
  auto batch = LoadCalibration(*model.tokenizer, nullptr, options);
  ASSERT_TRUE(batch.ok()) << batch.status();
  EXPECT_EQ(batch->sequence_domain, (std::vector<int32_t>{0, 1, 0, 1, 0}));
  EXPECT_EQ(batch->domains[0].domain, "big");
  EXPECT_EQ(batch->domains[1].tokens, 64);
}

TEST_F(CalibrationTest, TooLittleTextSaysHowMuchThereIs) {
  Model model = LoadModel("llama");
  std::string path = Write("one.txt", "A single line.");
  auto batch = LoadCalibration(*model.tokenizer, model.chat(), {.file = path});
  ASSERT_FALSE(batch.ok());
  size_t tokens = model.tokenizer->Encode("A single line.", EncodeMode::kWithSpecial)->size();
  EXPECT_EQ(Message(batch.status()),
            fmt::format("{}: {} tokens, enough for 0 sequences of 256; 8 sequences (2048 tokens) are needed: "
                        "give more text, or ask for fewer or shorter sequences",
                        path, tokens));
  auto small = LoadCalibration(*model.tokenizer, model.chat(),
                               {.sequences = 1, .length = static_cast<int64_t>(tokens), .file = path});
  ASSERT_TRUE(small.ok()) << small.status();
  EXPECT_EQ(small->ids, *model.tokenizer->Encode("A single line.", EncodeMode::kWithSpecial));
}

TEST_F(CalibrationTest, OptionsAreChecked) {
  Model model = LoadModel("llama");
  auto code = [&](CalibrationOptions options) {
    return LoadCalibration(*model.tokenizer, model.chat(), options).status().code();
  };
  EXPECT_EQ(code({.sequences = 0}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.sequences = -1}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.length = 1}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.sequences = 1 << 20, .length = 1 << 20}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.file = "x", .heldout = true}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.file = dir_ / "missing.txt"}), absl::StatusCode::kNotFound);
  EXPECT_EQ(code({.file = dir_}), absl::StatusCode::kInvalidArgument);
}

TEST_F(CalibrationTest, ConversationsUseTheTemplateWithoutGenerationPrompt) {
  Model model = LoadModel("qwen2");
  auto documents = ParseCalibrationJsonl(
      R"({"messages": [{"role": "user", "content": "Hi <|im_end|>"}, {"role": "assistant", "content": "Hello!"}]})",
      "x.jsonl");
  ASSERT_TRUE(documents.ok()) << documents.status();
  auto renderer = CalibrationRenderer::Create(*model.tokenizer, model.chat(), false);
  ASSERT_TRUE(renderer.ok());
  auto ids = renderer->Body(documents->at(0));
  ASSERT_TRUE(ids.ok()) << ids.status();
  EXPECT_EQ(*model.tokenizer->Decode(*ids, false),
            "<|im_start|>user\nHi <|im_end|><|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n");
  int32_t end = *model.tokenizer->TokenId("<|im_end|>");
  EXPECT_EQ(std::count(ids->begin(), ids->end(), end), 2);  // the one in the message is text

  auto base = CalibrationRenderer::Create(*model.tokenizer, nullptr, false);
  EXPECT_EQ(*model.tokenizer->Decode(*base->Body(documents->at(0)), true), "User: Hi \n\nAssistant: Hello!");
}

TEST_F(CalibrationTest, TemplatesThatRefuseToolsGetTheFoldedConversation) {
  Model model = LoadModel("qwen2");
  auto strict = ChatTemplate::FromSource(
      "{%- for m in messages %}{%- if m.role != ('user' if loop.index0 % 2 == 0 else 'assistant') %}"
      "{{- raise_exception('roles must alternate') }}{%- endif %}{{- '[' + m.role + ']' + m.content }}{%- endfor %}");
  ASSERT_TRUE(strict.ok()) << strict.status();
  auto documents =
      ParseCalibrationJsonl(R"j({"tools": [{"name": "f"}], "messages": [{"role": "system", "content": "Be brief."},)j"
                            R"j({"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "f()"},)j"
                            R"j({"role": "tool", "content": "4"}, {"role": "assistant", "content": "Four."}]})j",
                            "x.jsonl");
  ASSERT_TRUE(documents.ok()) << documents.status();
  auto renderer = CalibrationRenderer::Create(*model.tokenizer, &*strict, false);
  auto ids = renderer->Body(documents->at(0));
  ASSERT_TRUE(ids.ok()) << ids.status();
  EXPECT_EQ(*model.tokenizer->Decode(*ids, false),
            "[user]Functions that can be called, one a line:\n{\"name\":\"f\"}\n\nBe "
            "brief.\n\n2+2?[assistant]f()[user]Result: "
            "4[assistant]Four.");
  EXPECT_EQ(renderer->refused(), 0);

  auto never = ChatTemplate::FromSource("{{ raise_exception('no') }}");
  auto refusing = CalibrationRenderer::Create(*model.tokenizer, &*never, false);
  ids = refusing->Body(documents->at(0));
  ASSERT_TRUE(ids.ok()) << ids.status();
  EXPECT_EQ(refusing->refused(), 1);
  EXPECT_NE(refusing->refusal().find("no"), std::string::npos);
  EXPECT_TRUE(
      model.tokenizer->Decode(*ids, false)->ends_with("User: 2+2?\n\nAssistant: f()\n\nTool: 4\n\nAssistant: Four."));
}

TEST_F(CalibrationTest, TemplateWithoutToolsStillShowsTheirDeclarations) {
  Model model = LoadModel("qwen2");
  auto documents = ParseCalibrationJsonl(
      R"({"tools": [{"name": "dial"}], "messages": [{"role": "user", "content": "Call home."}]})", "x.jsonl");
  auto renderer = CalibrationRenderer::Create(*model.tokenizer, model.chat(), false);
  auto ids = renderer->Body(documents->at(0));
  ASSERT_TRUE(ids.ok()) << ids.status();
  EXPECT_NE(model.tokenizer->Decode(*ids, false)->find("<|im_start|>system\nFunctions that can be called"),
            std::string::npos);
}

TEST_F(CalibrationTest, AlwaysBos) {
  Model llama = LoadModel("llama"), qwen = LoadModel("qwen2");
  EXPECT_EQ(CalibrationRenderer::Create(*llama.tokenizer, nullptr, true)->prefix().size(), 1u);
  EXPECT_EQ(CalibrationRenderer::Create(*qwen.tokenizer, nullptr, false)->prefix().size(), 0u);
  EXPECT_EQ(CalibrationRenderer::Create(*qwen.tokenizer, nullptr, true).status().code(),
            absl::StatusCode::kInvalidArgument);
}

struct BadFile {
  const char* content;
  const char* error;
};

TEST(CalibrationDocumentsTest, BadJsonlNamesTheLine) {
  const std::string good = "{\"text\": \"a\"}\r\n\r\n";
  for (const BadFile& bad : std::vector<BadFile>{
           {"[1]", "must be an object"},
           {"{\"text\": 3}", "'text' must be a string"},
           {"{\"text\": \"  \"}", "not blank"},
           {"{}", "either 'text' or 'messages'"},
           {"{\"text\": \"a\", \"messages\": []}", "either 'text' or 'messages'"},
           {"{\"messages\": []}", "at least one message"},
           {"{\"messages\": [7]}", "message 1 must be an object"},
           {"{\"messages\": [{\"content\": \"a\"}]}", "string 'role'"},
           {"{\"messages\": [{\"role\": \"user\"}]}", "'content'"},
           {"{\"messages\": [{\"role\": \"user\", \"content\": 1}]}", "'content'"},
           {"{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}], \"tools\": {}}", "'tools' must be a list"},
           {"{\"domain\": 1, \"text\": \"a\"}", "'domain'"},
           {"{\"text\": \"\xC3\x28\"}", "UTF-8"},
           {"{\"text\": \"cut off", "JSON"},
       }) {
    auto parsed = ParseCalibrationJsonl(good + bad.content, "file.jsonl");
    ASSERT_FALSE(parsed.ok()) << bad.content;
    EXPECT_TRUE(Message(parsed.status()).starts_with("file.jsonl: line 3")) << parsed.status();
    EXPECT_NE(Message(parsed.status()).find(bad.error), std::string::npos) << parsed.status();
  }
}

TEST(CalibrationDocumentsTest, JsonlAcceptsBomCrlfBlankLinesAndAMissingLastNewline) {
  auto parsed =
      ParseCalibrationJsonl("\xEF\xBB\xBF{\"text\": \"a\"}\r\n  \r\n{\"domain\": \"d\", \"text\": \"ä\"}", "x");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  ASSERT_EQ(parsed->size(), 2u);
  EXPECT_EQ(parsed->at(0).domain, "text");
  EXPECT_EQ(parsed->at(1).domain, "d");
  EXPECT_EQ(parsed->at(1).line, 3);
}

TEST(CalibrationDocumentsTest, LineLimit) {
  std::string line = "{\"text\": \"" + std::string(17 << 20, 'a') + "\"}";
  auto parsed = ParseCalibrationJsonl("\n" + line, "x.jsonl");
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(Message(parsed.status()).starts_with("x.jsonl: line 2: ")) << parsed.status();
}

TEST(CalibrationDocumentsTest, PlainTextIsSplitOnBlankLines) {
  auto parsed = ParseCalibrationText("\r\nfirst\r\nline two\r\n \t\r\n\nsecond", "x.txt");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  ASSERT_EQ(parsed->size(), 2u);
  EXPECT_EQ(parsed->at(0).text, "first\nline two");
  EXPECT_EQ(parsed->at(0).line, 2);
  EXPECT_EQ(parsed->at(1).text, "second");
}

TEST(CalibrationDocumentsTest, HugeParagraphIsCutBetweenCharacters) {
  std::string text;
  while (text.size() < (3u << 20)) text += "äöü€";
  auto parsed = ParseCalibrationText(text, "x.txt");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->size(), 4u);
  std::string joined;
  for (const CalibrationDocument& d : *parsed) {
    EXPECT_LE(d.text.size(), 1u << 20);
    EXPECT_TRUE(ParseCalibrationText(d.text, "part").ok());
    joined += d.text;
  }
  EXPECT_EQ(joined, text);
}

TEST(CalibrationDocumentsTest, InvalidUtf8NamesTheLine) {
  for (const char* bad : {"\xFF", "\xC0\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xE2\x82", "\x80"}) {
    auto parsed = ParseCalibrationText(std::string("fine\nfine\n") + bad, "x.txt");
    ASSERT_FALSE(parsed.ok()) << bad;
    EXPECT_TRUE(Message(parsed.status()).starts_with("x.txt: line 3: not valid UTF-8")) << parsed.status();
  }
}

TEST_F(CalibrationTest, EmptyFiles) {
  for (const char* name : {"empty.txt", "empty.jsonl"}) {
    auto parsed = ReadCalibrationFile(Write(name, "\n \r\n"));
    ASSERT_FALSE(parsed.ok());
    EXPECT_TRUE(Message(parsed.status()).ends_with(": holds no text")) << parsed.status();
  }
}

}  // namespace
}  // namespace optiq
