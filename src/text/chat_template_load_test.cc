// Where a model's chat template is found.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "text/test_models.h"

namespace optiq {
namespace {

class ChatTemplateLoadTest : public testing::Test {
 protected:
  void SetUp() override {
    dir_ = std::filesystem::path(testing::TempDir()) / testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(dir_);
    std::filesystem::copy(GoldenPath("models/llama"), dir_);
    std::filesystem::remove(dir_ / "chat_template.jinja");
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  void Write(const char* file, std::string_view text) { std::ofstream(dir_ / file) << text; }
  StatusOr<std::optional<ChatTemplate>> Load() {
    ASSIGN_OR_RETURN(std::unique_ptr<Checkpoint> checkpoint, Checkpoint::Open(dir_.string()));
    return ChatTemplate::Load(*checkpoint);
  }
  std::string Text(const RenderOptions& options = {}) {
    auto loaded = Load();
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    return loaded.ok() && *loaded ? *(*loaded)->Render(OrderedJson::array(), options) : "none";
  }
  std::filesystem::path dir_;
};

TEST_F(ChatTemplateLoadTest, FileBeforeConfig) {
  Write("tokenizer_config.json", R"({"chat_template":"config {{ bos_token }}","bos_token":"<s>"})");
  EXPECT_EQ(Text(), "config <s>");
  Write("chat_template.jinja", "file {{ bos_token }}");
  EXPECT_EQ(Text(), "file <s>");
}

TEST_F(ChatTemplateLoadTest, NamedTemplates) {
  Write("tokenizer_config.json",
        R"({"chat_template":[{"name":"default","template":"D"},{"name":"tool_use","template":"T"}]})");
  EXPECT_EQ(Text(), "D");
  RenderOptions options;
  options.tools = OrderedJson::array();
  EXPECT_EQ(Text(options), "T");
  Write("tokenizer_config.json", R"({"chat_template":[{"name":"rag","template":"D"}]})");
  EXPECT_NE(Message(Load().status()).find("rag"), std::string::npos);
}

TEST_F(ChatTemplateLoadTest, NoneAndBroken) {
  Write("tokenizer_config.json", "{}");
  EXPECT_EQ(Text(), "none");
  Write("tokenizer_config.json", R"({"chat_template":5})");
  EXPECT_EQ(Load().status().code(), absl::StatusCode::kInvalidArgument);
  Write("chat_template.jinja", "a\n{% if %}");
  EXPECT_NE(Message(Load().status()).find("chat_template.jinja: line 2: "), std::string::npos) << Load().status();
  std::filesystem::remove(dir_ / "tokenizer_config.json");
  Write("chat_template.jinja", "plain");
  EXPECT_EQ(Text(), "plain");
}

TEST_F(ChatTemplateLoadTest, TokenizerWithoutItsFile) {
  std::filesystem::remove(dir_ / "tokenizer.json");
  auto checkpoint = Checkpoint::Open(dir_.string());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(Tokenizer::Load(**checkpoint).status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace optiq
