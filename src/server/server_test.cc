#include "server/server.h"

#include <gtest/gtest.h>

#include "server/fake_engine.h"
#include "server/test_client.h"
#include "text/test_models.h"

namespace optiq {
namespace {

class ServerTest : public testing::Test {
 protected:
  void SetUp() override {
    const TestModel model = LoadTestModel("qwen");
    app_.engine = &engine_;
    app_.tokenizer = model.tokenizer;
    app_.chat_template = model.chat_template;
    app_.format = DetectChatFormat(app_.chat_template->source(), app_.tokenizer.get());
    app_.vocab_size = app_.tokenizer->vocab_limit();
    app_.options.model_id = "tiny";
    app_.options.log = LogFormat::kNone;
    options_.port = 0;
  }
  void Start() {
    auto server = OptiqServer::Start(&app_, options_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  uint16_t port() const { return server_->port(); }
  // Waits for a condition of another thread.
  static bool Soon(const std::function<bool()>& condition) {
    for (int i = 0; i < 300; ++i) {
      if (condition()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }

  FakeEngine engine_;
  App app_;
  HttpServerOptions options_;
  std::unique_ptr<OptiqServer> server_;
};

constexpr char kChat[] = R"({"model":"default_model","messages":[{"role":"user","content":"hi"}]})";
constexpr char kStream[] = R"({"model":"default_model","messages":[{"role":"user","content":"hi"}],"stream":true})";

TEST_F(ServerTest, KeepAliveAndPipelining) {
  Start();
  TestClient client(port());
  EXPECT_EQ(client.Get("/health").status, 200);
  EXPECT_EQ(client.Post("/v1/chat/completions", kChat).status, 200);
  const std::string one = TestClient::PostText("/v1/chat/completions", kChat);
  client.Write(one + one + "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
  for (int i = 0; i < 2; ++i) {
    const auto answer = client.Read();
    EXPECT_EQ(answer.status, 200);
    EXPECT_EQ(Json::parse(answer.body)["choices"][0]["message"]["content"], "Hello there.");
  }
  EXPECT_EQ(client.Read().status, 200);
}

TEST_F(ServerTest, StreamEqualsTheWhole) {
  Start();
  TestClient client(port());
  client.Write(TestClient::PostText("/v1/chat/completions", kStream));
  const std::string text = client.ReadUntil("data: [DONE]\n\n");
  std::string content;
  for (size_t at = 0; (at = text.find("data: {", at)) != std::string::npos;) {
    const size_t end = text.find("\n\n", at);
    const Json chunk = Json::parse(text.substr(at + 6, end - at - 6));
    content += chunk["choices"][0]["delta"].value("content", "");
    at = end;
  }
  EXPECT_EQ(content, "Hello there.");
  EXPECT_EQ(client.ReadUntil("0\r\n\r\n"), "\r\n0\r\n\r\n");
  EXPECT_EQ(client.Get("/health").status, 200);  // the connection goes on
}

TEST_F(ServerTest, AClientThatLeavesIsCancelled) {
  engine_.answer = [](const EngineRequest&) { return std::string(1 << 20, 'a'); };
  engine_.step = std::chrono::milliseconds(2);
  engine_.mutable_options().context_length = 1 << 22;
  app_.options.max_tokens = 1 << 20;
  Start();
  for (const char* body : {kStream, kChat}) {
    TestClient client(port());
    client.Write(TestClient::PostText("/v1/chat/completions", body));
    ASSERT_TRUE(Soon([&] { return engine_.stats().running == 1; }));
    client.Close();
    EXPECT_TRUE(Soon([&] { return engine_.stats().running == 0; }));
  }
  EXPECT_EQ(engine_.stats().cancelled, 2);
}

TEST_F(ServerTest, ASlowReaderIsBoundedAndThenCancelled) {
  engine_.answer = [](const EngineRequest&) { return std::string(64 << 20, 'a'); };
  engine_.piece = 64 << 10;
  engine_.mutable_options().context_length = 1 << 22;
  app_.options.max_tokens = 1 << 20;
  options_.limits.write_stall_time = std::chrono::milliseconds(300);
  Start();
  TestClient client(port());
  client.Write(TestClient::PostText("/v1/chat/completions", kStream));
  ASSERT_TRUE(Soon([&] {
    return app_.metrics.Text(engine_.stats(), {}, "").find("cancelled_total{reason=\"disconnect\"} 1") !=
           std::string::npos;
  }));
  TestClient other(port());
  EXPECT_EQ(other.Get("/health").status, 200);
}

TEST_F(ServerTest, SlowRequestsEnd) {
  options_.limits.header_time = std::chrono::milliseconds(200);
  options_.limits.body_idle_time = std::chrono::milliseconds(200);
  Start();
  TestClient header(port()), body(port()), silent(port());
  header.Write("GET /health HT");
  body.Write("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{");
  EXPECT_EQ(header.Read().status, 408);
  EXPECT_EQ(body.Read().status, 408);
  EXPECT_EQ(silent.ReadAll(), "");
}

TEST_F(ServerTest, BrokenRequests) {
  options_.limits.body_bytes = 1000;
  Start();
  const std::string kHost = "Host: localhost\r\n";
  const std::pair<std::string, int> cases[] = {
      {"POST /v1/completions HTTP/1.1\r\n" + kHost + "Content-Length: 1001\r\n\r\n", 413},
      {"POST /v1/completions HTTP/1.1\r\n" + kHost + "Transfer-Encoding: chunked\r\n\r\n500\r\n" +
           std::string(0x500, 'a') + "\r\n0\r\n\r\n",
       413},
      {"POST /v1/completions HTTP/1.1\r\n" + kHost + "Transfer-Encoding: chunked\r\n\r\n-2\r\n", 400},
      {"POST /v1/completions HTTP/1.1\r\n" + kHost + "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", 400},
      {"POST /v1/completions HTTP/1.1\r\n" + kHost + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", 400},
      {"POST /v1/completions HTTP/1.1\r\n" + kHost + "Content-Length: 5\r\nContent-Length: 6\r\n\r\n", 400},
      {"POST /v1/completions HTTP/1.1\r\n" + kHost + "Content-Length: -5\r\n\r\n", 400},
      {"GET /health HTTP/1.1\r\n\r\n", 400},
      {"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400},
      {"GET /health HTTP/1.1\r\n" + kHost + "A: " + std::string(20000, 'a') + "\r\n\r\n", 431},
      {"GET /" + std::string(9000, 'a') + " HTTP/1.1\r\n" + kHost + "\r\n", 414},
      {"GET /health HTTP/1.1\r\n" + kHost + std::string("A: b\0c\r\n\r\n", 10), 400},
      {"GET /health\r\n\r\n", 400},
      {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
      {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello hello hello\r\n\r\n", 400},
  };
  for (const auto& [text, status] : cases) {
    TestClient client(port());
    client.Write(text);
    const auto answer = client.Read();
    EXPECT_TRUE(answer.status == status || (status == 505 && answer.status == 400)) << text.substr(0, 100) << "\n"
                                                                                    << answer.head << answer.body;
  }
  std::string headers;
  for (int i = 0; i < 120; ++i) headers += fmt::format("A{}: b\r\n", i);
  EXPECT_EQ(TestClient(port()).Get("/health", headers).status, 431);
  EXPECT_EQ(TestClient(port()).Get("/health").status, 200);
}

TEST_F(ServerTest, KeysHostsAndOrigins) {
  app_.options.api_keys = {"secret-1", "secret-2"};
  app_.options.allow_origins = {"https://good.example"};
  Start();
  const auto status = [&](const std::string& headers, const std::string& path = "/v1/models") {
    return TestClient(port()).Get(path, headers).status;
  };
  EXPECT_EQ(status(""), 401);
  EXPECT_EQ(status("Authorization: Bearer secret-1\r\n"), 200);
  EXPECT_EQ(status("x-api-key: secret-2\r\n"), 200);
  for (const char* key : {"secret-", "secret-11", "Secret-1", "", " "})
    EXPECT_EQ(status(std::string("Authorization: Bearer ") + key + "\r\n"), 401);
  EXPECT_EQ(status("Authorization: Bearer " + std::string(8000, 'x') + "\r\n"), 401);
  EXPECT_EQ(status("", "/v1/models?api_key=secret-1"), 401);
  EXPECT_EQ(status("", "/health"), 200);
  EXPECT_EQ(status("", "/nothing"), 401);  // what exists is nobody's business
  for (const char* path :
       {"/v1/../metrics", "//v1//models", "/%6detrics", "/metrics;x", "/METRICS", "/v1/models/../x"}) {
    EXPECT_EQ(status("", path), 401) << path;
    EXPECT_EQ(status("x-api-key: secret-2\r\n", path), 404) << path;
  }
  const std::string key = "x-api-key: secret-1\r\n";
  TestClient client(port());
  EXPECT_NE(client.Get("/v1/models", key + "Origin: https://good.example\r\n")
                .head.find("Access-Control-Allow-Origin: https://good.example"),
            std::string::npos);
  EXPECT_EQ(client.Post("/v1/chat/completions", kChat, key + "Origin: https://evil.example\r\n").status, 403);
}

TEST_F(ServerTest, WithoutAKeyForeignHostsAreRefused) {
  Start();
  TestClient client(port());
  client.Write("GET /health HTTP/1.1\r\nHost: evil.example\r\n\r\n");
  EXPECT_EQ(client.Read().status, 403);
  EXPECT_EQ(client.Get("/health", "Origin: https://evil.example\r\n").head.find("Access-Control"), std::string::npos);
  client.Write(
      "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: "
      "2\r\n\r\n{}");
  EXPECT_EQ(client.Read().status, 415);
  EXPECT_EQ(client.Get("/v1/chat/completions").status, 405);
}

TEST_F(ServerTest, AnOpenAddressNeedsAKey) {
  options_.host = "0.0.0.0";
  EXPECT_FALSE(OptiqServer::Start(&app_, options_).ok());
}

TEST_F(ServerTest, TooManyConnections) {
  options_.limits.connections = 3;
  Start();
  std::vector<std::unique_ptr<TestClient>> clients;
  for (int i = 0; i < 3; ++i) {
    clients.push_back(std::make_unique<TestClient>(port()));
    EXPECT_EQ(clients.back()->Get("/health").status, 200);
  }
  TestClient extra(port());
  EXPECT_EQ(extra.Read().status, 503);
  clients.clear();
  EXPECT_TRUE(Soon([&] { return TestClient(port()).Get("/health").status == 200; }));
}

TEST_F(ServerTest, EngineErrors) {
  Start();
  TestClient client(port());
  engine_.submit_status = absl::AbortedError("the queue is full");
  auto refused = client.Post("/v1/chat/completions", kChat);
  EXPECT_EQ(refused.status, 429);
  EXPECT_EQ(Json::parse(refused.body)["error"]["code"], "queue_full");
  engine_.submit_status = Unavailable("going");
  refused = client.Post("/v1/chat/completions", kChat);
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(Json::parse(refused.body)["error"]["code"], "shutting_down");
  engine_.submit_status = OkStatus();
  engine_.finish_status = DataLoss("logits are not finite");
  EXPECT_EQ(client.Post("/v1/chat/completions", kChat).status, 500);
  client.Write(TestClient::PostText("/v1/chat/completions", kStream));
  const std::string text = client.ReadUntil("0\r\n\r\n");
  EXPECT_NE(text.find("data: {\"error\""), std::string::npos);
  EXPECT_EQ(text.find("finish_reason\":\"stop"), std::string::npos);
  EXPECT_EQ(text.find("[DONE]"), std::string::npos);
}

TEST_F(ServerTest, DrainLetsRunningAnswersFinish) {
  engine_.step = std::chrono::milliseconds(20);
  Start();
  TestClient idle(port()), busy(port());
  EXPECT_EQ(idle.Get("/health").status, 200);
  busy.Write(TestClient::PostText("/v1/chat/completions", kStream));
  busy.ReadUntil("\r\n\r\n");
  std::thread drain([&] { server_->Drain(std::chrono::seconds(5)); });
  EXPECT_EQ(idle.ReadAll(), "");
  EXPECT_NE(busy.ReadAll().find("[DONE]"), std::string::npos);
  drain.join();
  EXPECT_EQ(TestClient(port()).Get("/health").status, 0);
}

TEST_F(ServerTest, DrainCutsOffWhatTakesTooLong) {
  engine_.step = std::chrono::milliseconds(5);
  engine_.answer = [](const EngineRequest&) { return std::string(1 << 20, 'a'); };
  engine_.mutable_options().context_length = 1 << 22;
  app_.options.max_tokens = 1 << 20;
  Start();
  TestClient busy(port());
  busy.Write(TestClient::PostText("/v1/chat/completions", kStream));
  busy.ReadUntil("\r\n\r\n");
  std::thread drain([&] { server_->Drain(std::chrono::milliseconds(100)); });
  const std::string rest = busy.ReadAll();
  EXPECT_NE(rest.find("\"error\""), std::string::npos);
  EXPECT_EQ(rest.find("[DONE]"), std::string::npos);
  drain.join();
}

// Every parameter with a wrong type or range is refused by name.
TEST_F(ServerTest, RefusalsNameTheParameter) {
  Start();
  TestClient client(port());
  const std::pair<const char*, const char*> cases[] = {
      {R"("temperature": -1)", "temperature"},
      {R"("temperature": "1")", "temperature"},
      {R"("top_p": 1.5)", "top_p"},
      {R"("top_k": 1.5)", "top_k"},
      {R"("max_tokens": 0)", "max_tokens"},
      {R"("max_tokens": "5")", "max_tokens"},
      {R"("max_completion_tokens": -1)", "max_completion_tokens"},
      {R"("n": 0)", "n"},
      {R"("n": 9)", "n"},
      {R"("seed": 1.5)", "seed"},
      {R"("seed": "a")", "seed"},
      {R"("stop": 5)", "stop"},
      {R"("stop": [5])", "stop"},
      {R"("logit_bias": {"x": 1})", "logit_bias"},
      {R"("logit_bias": {"999999999": 1})", "logit_bias"},
      {R"("logit_bias": {"1": 101})", "logit_bias"},
      {R"("top_logprobs": 21, "logprobs": true)", "top_logprobs"},
      {R"("top_logprobs": 2)", "top_logprobs"},
      {R"("stream": "yes")", "stream"},
      {R"("stream_options": {})", "stream_options"},
      {R"("tools": {})", "tools"},
      {R"("tools": [{"type": "x"}])", "tools[0].type"},
      {R"("tools": [{"type": "function", "function": {"name": "a b"}}])", "tools[0].function.name"},
      {R"("tool_choice": "required")", "tool_choice"},
      {R"("tool_choice": 5)", "tool_choice"},
      {R"("response_format": {"type": "xml"})", "response_format.type"},
      {R"("functions": [{}])", "functions"},
      {R"("store": true)", "store"},
      {R"("modalities": ["audio"])", "modalities"},
      {R"("reasoning_effort": "huge")", "reasoning_effort"},
      {R"("presence_penalty": 3)", "presence_penalty"},
      {R"("model": "gpt-9")", "model"},
      {R"("model": null)", "model"},
      {R"("model": "")", "model"},
      {R"("chat_template_kwargs": [])", "chat_template_kwargs"},
      {R"("temperature": 1e400)", ""},
      {R"("adapter": "none")", "adapter"}};
  for (const auto& [field, param] : cases) {
    const bool own = std::string_view(field).starts_with("\"model\"");
    const auto answer =
        client.Post("/v1/chat/completions", fmt::format(R"({{{}"messages":[{{"role":"user","content":"hi"}}],{}}})",
                                                        own ? "" : R"("model":"default_model",)", field));
    EXPECT_TRUE(answer.status == 400 || (answer.status == 404 && std::string(param) == "model"))
        << field << answer.body;
    const Json error = Json::parse(answer.body)["error"];
    EXPECT_EQ(error["param"].is_null() ? "" : error["param"].get<std::string>(), param) << field;
  }
  const std::pair<const char*, const char*> messages[] = {
      {"5", "messages"},
      {"[]", "messages"},
      {"[5]", "messages[0]"},
      {R"([{"content": "x"}])", "messages[0].role"},
      {R"([{"role": "king", "content": "x"}])", "messages[0].role"},
      {R"([{"role": "user"}])", "messages[0].content"},
      {R"([{"role": "user", "content": 5}])", "messages[0].content"},
      {R"([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}])",
       "messages[0].content[0]"},
      {R"([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}])",
       "messages[0].tool_calls[0].function.arguments"}};
  for (const auto& [text, param] : messages) {
    const auto answer = client.Post("/v1/chat/completions", fmt::format(R"({{"model":"default_model","messages":{}}})", text));
    EXPECT_EQ(answer.status, 400) << text;
    EXPECT_EQ(Json::parse(answer.body)["error"]["param"], param) << text << answer.body;
  }
  for (const char* body : {"", "{", "[]", "{} x", "{\"a\":1,\"a\":2}", "\xff", "{\"messages\":\"\\ud800\"}", "nul"}) {
    EXPECT_EQ(client.Post("/v1/chat/completions", body).status, 400) << body;
  }
  EXPECT_EQ(client.Post("/v1/chat/completions", std::string(100000, '[')).status, 400);
  std::string long_prompt;
  for (int i = 0; i < 200; ++i) long_prompt += "word ";
  const auto answer = client.Post("/v1/chat/completions",
                                  fmt::format(R"({{"model":"default_model","messages":[{{"role":"user","content":"{}"}}]}})", long_prompt));
  EXPECT_EQ(answer.status, 400);
  EXPECT_EQ(Json::parse(answer.body)["error"]["code"], "context_length_exceeded");
}

TEST(RouterTest, ConstantTimeCompare) {
  EXPECT_TRUE(EqualInConstantTime("abc", "abc"));
  EXPECT_TRUE(EqualInConstantTime("", ""));
  EXPECT_FALSE(EqualInConstantTime("abc", "abd"));
  EXPECT_FALSE(EqualInConstantTime("abc", "abca"));
  EXPECT_FALSE(EqualInConstantTime("abc", ""));
}

}  // namespace
}  // namespace optiq
