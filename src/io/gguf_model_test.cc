// GGUF files opened as models: the stored ones against expectations made by tests/oracle/gguf_oracle.py, hand-made ones
// for everything that must be refused.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <functional>

#include "base/file.h"
#include "base/sha256.h"
#include "io/checkpoint.h"
#include "io/gguf_test_util.h"

namespace optiq {
namespace {

const std::string kData = OPTIQ_TEST_DATA "/gguf/";
constexpr uint32_t kF32 = 0, kF16 = 1;

Json Expected(const std::string& model) {
  auto json = ReadJsonFile(kData + "expected.json");
  EXPECT_TRUE(json.ok()) << json.status();
  return (*json)[model];
}

Json TextOf(const Checkpoint& model, const std::string& name) {
  auto text = model.ReadTextFile(name);
  EXPECT_TRUE(text.ok()) << text.status();
  auto json = ParseJson(*text, name);
  EXPECT_TRUE(json.ok()) << json.status();
  return *json;
}

Json Golden(const std::string& path) {
  auto json = ReadJsonFile(OPTIQ_TEST_DATA "/goldens/models/" + path);
  EXPECT_TRUE(json.ok()) << json.status();
  return *json;
}

// tokenizer.json without the templates for pairs of texts: the small models' own give both texts type 0, real ones 0
// and 1.
Json WithoutPairs(Json tokenizer) {
  Json& post = tokenizer["post_processor"];
  post.erase("pair");
  if (post.contains("processors")) post["processors"][1].erase("pair");
  return tokenizer;
}

class TinyGguf : public testing::TestWithParam<const char*> {};

TEST_P(TinyGguf, GivesTheOriginalTensorsAndConfig) {
  const std::string name = std::string("tiny-") + GetParam();
  const Json expected = Expected(name);
  auto model = Checkpoint::Open(kData + name + ".gguf");
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->layout(), CheckpointLayout::kGguf);
  EXPECT_EQ((*model)->files().size(), 1u);
  EXPECT_GT((*model)->file_bytes(), 100'000u);

  ASSERT_EQ((*model)->tensors().size(), expected["tensors"].size());
  for (const StoredTensor& t : (*model)->tensors()) {
    ASSERT_TRUE(expected["tensors"].contains(t.name)) << t.name;
    const Json& want = expected["tensors"][t.name];
    EXPECT_EQ(Json(t.shape), want["shape"]) << t.name;
    std::vector<float> values(t.elements());
    const int64_t half = t.rows() / 2;  // in two calls: rows are independent
    ReadRows(t, 0, half, values.data());
    ReadRows(t, half, t.rows(), values.data() + half * t.cols());
    Sha256 hash;
    hash.Update(std::as_bytes(std::span(values)));
    EXPECT_EQ(hash.HexDigest(), want["sha256"].get<std::string>()) << t.name;
  }
  for (const auto& [key, value] : expected["config"].items()) {
    ASSERT_TRUE((*model)->config().contains(key)) << key;
    EXPECT_EQ((*model)->config()[key], value) << key;
  }
  EXPECT_EQ((*model)->config()["torch_dtype"], "bfloat16");
  EXPECT_EQ(TextOf(**model, "generation_config.json")["eos_token_id"], expected["eos"]);
  const auto template_text = ReadTextFile(
      OPTIQ_TEST_DATA "/goldens/models/" +
          std::string(GetParam() == std::string("gemma3") ? "gemma3_text" : GetParam()) + "/chat_template.jinja",
      1 << 20);
  ASSERT_TRUE(template_text.ok());
  EXPECT_EQ(TextOf(**model, "tokenizer_config.json")["chat_template"], *template_text);
}

INSTANTIATE_TEST_SUITE_P(Stored, TinyGguf, testing::Values("llama", "qwen2", "qwen3", "gemma3"));

TEST(StoredGguf, RebuildsLlama3sTokenizerExactly) {
  auto model = Checkpoint::Open(kData + "tiny-llama.gguf");
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(WithoutPairs(TextOf(**model, "tokenizer.json")), WithoutPairs(Golden("llama/tokenizer.json")));
}

TEST(StoredGguf, RebuildsQwensTokenizer) {
  auto model = Checkpoint::Open(kData + "tiny-qwen3.gguf");
  ASSERT_TRUE(model.ok()) << model.status();
  const Json mine = TextOf(**model, "tokenizer.json"), golden = Golden("qwen3/tokenizer.json");
  for (const char* part : {"model", "added_tokens", "normalizer"}) EXPECT_EQ(mine[part], golden[part]) << part;
  EXPECT_EQ(mine["pre_tokenizer"]["pretokenizers"][0], golden["pre_tokenizer"]["pretokenizers"][0]);
  EXPECT_EQ(mine["post_processor"]["type"], "ByteLevel");
  const Json config = TextOf(**model, "tokenizer_config.json");
  EXPECT_EQ(config["tokenizer_class"], "Qwen2Tokenizer");
  EXPECT_EQ(config["bos_token"], nullptr);
  EXPECT_EQ(config["eos_token"], "<|im_end|>");
  EXPECT_EQ(config["added_tokens_decoder"].size(), golden["added_tokens"].size());
}

TEST(StoredGguf, RanksGemmasMerges) {
  auto model = Checkpoint::Open(kData + "tiny-gemma3.gguf");
  ASSERT_TRUE(model.ok()) << model.status();
  const Json mine = WithoutPairs(TextOf(**model, "tokenizer.json"));
  const Json golden = WithoutPairs(Golden("gemma3_text/tokenizer.json"));
  EXPECT_EQ(mine["model"]["merges"], Expected("tiny-gemma3")["merges"]);
  EXPECT_EQ(mine["model"]["vocab"], golden["model"]["vocab"]);
  for (const char* part : {"normalizer", "pre_tokenizer", "post_processor", "decoder"})
    EXPECT_EQ(mine[part], golden[part]) << part;
  for (const char* field : {"unk_token", "fuse_unk", "byte_fallback", "ignore_merges"}) {
    EXPECT_EQ(mine["model"][field], golden["model"][field]) << field;
  }
}

TEST(StoredGguf, UsesTheBetterOfTwoCopiesOfATiedEmbedding) {
  auto model = Checkpoint::Open(kData + "tiny-qwen2.gguf");  // token_embd in Q5_0, output in Q8_0
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->config()["tie_word_embeddings"], true);
  EXPECT_EQ((*model)->Find("lm_head.weight"), nullptr);
  EXPECT_EQ((*model)->Find("model.embed_tokens.weight")->dtype, DType::kQ8_0);
  auto untied = Checkpoint::Open(kData + "tiny-qwen3.gguf");
  ASSERT_TRUE(untied.ok()) << untied.status();
  EXPECT_EQ((*untied)->config()["tie_word_embeddings"], false);
  EXPECT_NE((*untied)->Find("lm_head.weight"), nullptr);
}

// The parts of a hand-made model; each test changes one.
struct Tiny {
  std::string arch = "llama", model = "gpt2", pre = "smollm";
  std::vector<std::string> tokens = {"<|endoftext|>", "a", "b", "ab", "\u0120"};
  std::vector<int32_t> types = {3, 1, 1, 1, 1};
  std::vector<float> scores = {0, -3, -3, -1, -9};
  std::vector<std::string> merges = {"a b"};
  uint32_t layers = 1, heads = 2, kv_heads = 1, eos = 0;
  uint64_t rows = 6;  // of the embedding
  bool add_space_prefix = false;
  GgufBytes extra;  // further keys and tensors, written first

  std::string Build() const {
    GgufBytes g = extra;
    g.Text("general.architecture", arch);
    const auto key = [&](const char* name) { return arch + "." + name; };
    g.Int(key("block_count"), layers).Int(key("embedding_length"), 8).Int(key("feed_forward_length"), 16);
    g.Int(key("context_length"), 64)
        .Int(key("attention.head_count"), heads)
        .Int(key("attention.head_count_kv"), kv_heads);
    g.Float(key("attention.layer_norm_rms_epsilon"), 1e-6f).Float(key("rope.freq_base"), 1e4f);
    if (arch == "gemma3" || arch == "qwen3") g.Int(key("attention.key_length"), 4);
    if (arch == "gemma3") g.Int(key("attention.sliding_window"), 16);
    g.Text("tokenizer.ggml.model", model).Text("tokenizer.ggml.pre", pre).Texts("tokenizer.ggml.tokens", tokens);
    g.Numbers<int32_t>("tokenizer.ggml.token_type", GgufType::kInt32, types);
    g.Texts("tokenizer.ggml.merges", merges).Int("tokenizer.ggml.eos_token_id", eos);
    g.Numbers<float>("tokenizer.ggml.scores", GgufType::kFloat32, scores);
    g.Bool("tokenizer.ggml.add_space_prefix", add_space_prefix).Bool("tokenizer.ggml.add_bos_token", false);
    g.Int("tokenizer.ggml.unknown_token_id", 0);
    g.Tensor("token_embd.weight", {8, rows}, kF16, 16 * rows).Tensor("output_norm.weight", {8}, kF32, 32);
    return g.Build();
  }
};

StatusOr<std::unique_ptr<Checkpoint>> OpenBytes(const std::string& bytes) {
  const std::string path = testing::TempDir() + "gguf_model_test.gguf";
  std::ofstream(path, std::ios::binary) << bytes;
  return Checkpoint::Open(path);
}

template <typename Change>
StatusOr<std::unique_ptr<Checkpoint>> OpenWith(Change change) {
  Tiny tiny;
  change(tiny);
  return OpenBytes(tiny.Build());
}

TEST(GgufModel, TakesTheHandMadeModel) {
  auto model = OpenWith([](Tiny&) {});
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->config()["head_dim"], 4);
  EXPECT_EQ((*model)->config()["rms_norm_eps"], 1e-6);
  EXPECT_EQ((*model)->config()["vocab_size"], 6);
  EXPECT_EQ((*model)->TextFiles(),
            (std::vector<std::string>{"generation_config.json", "tokenizer.json", "tokenizer_config.json"}));
  const Json tokenizer = TextOf(**model, "tokenizer.json");
  EXPECT_EQ(tokenizer["model"]["vocab"]["ab"], 3);
  EXPECT_EQ(tokenizer["model"]["merges"], Json::parse(R"([["a","b"]])"));
  EXPECT_TRUE((*model)->Fingerprint().ok());
}

struct Refusal {
  const char* what;
  std::function<void(Tiny&)> change;
  absl::StatusCode code;
  const char* message;  // part of it
};

TEST(GgufModel, RefusesWhatItDoesNotUnderstand) {
  constexpr auto kLoss = absl::StatusCode::kDataLoss;
  constexpr auto kNot = absl::StatusCode::kUnimplemented;
  constexpr auto kLimit = absl::StatusCode::kResourceExhausted;
  const std::vector<Refusal> refusals = {
      {"architecture", [](Tiny& t) { t.arch = "phi3"; }, kNot, "'phi3' is not supported"},
      {"split file", [](Tiny& t) { t.extra.Int("split.count", 3); }, kNot, "merge them"},
      {"unknown tensor", [](Tiny& t) { t.extra.Tensor("blk.0.ssm_a", {1}, kF32, 4); }, kNot,
       "'blk.0.ssm_a' is not known"},
      {"tensor of another family", [](Tiny& t) { t.extra.Tensor("blk.0.attn_q_norm.weight", {4}, kF32, 16); }, kNot,
       "attn_q_norm"},
      {"layer above the count", [](Tiny& t) { t.extra.Tensor("blk.1.attn_norm.weight", {8}, kF32, 32); }, kNot,
       "with 1 layers"},
      {"layer spelt oddly", [](Tiny& t) { t.extra.Tensor("blk.00.attn_norm.weight", {8}, kF32, 32); }, kNot, "blk.00"},
      {"layer negative", [](Tiny& t) { t.extra.Tensor("blk.-1.attn_norm.weight", {8}, kF32, 32); }, kNot, "blk.-1"},
      {"layer huge", [](Tiny& t) { t.extra.Tensor("blk.99999999999999999999.attn_norm.weight", {8}, kF32, 32); }, kNot,
       "blk.999"},
      {"norm as a matrix",
       [](Tiny& t) {
         t.extra.Tensor("blk.0.attn_norm.weight", {8, 1}, kF32, 32);
       },
       kLoss, "must be a vector"},
      {"q rows",
       [](Tiny& t) {
         t.extra.Tensor("blk.0.attn_q.weight", {8, 6}, kF32, 192);
       },
       kLoss, "2 heads of even width"},
      {"stacked experts",
       [](Tiny& t) {
         t.extra.Tensor("blk.0.ffn_up.weight", {8, 4, 2}, kF32, 256);
       },
       kLoss, "must be a matrix"},
      {"no layers", [](Tiny& t) { t.layers = 0; }, kLoss, "block_count' is 0"},
      {"10^9 layers", [](Tiny& t) { t.layers = 1'000'000'000; }, kLoss, "block_count"},
      {"no heads", [](Tiny& t) { t.heads = 0; }, kLoss, "head_count' is 0"},
      {"heads and kv heads", [](Tiny& t) { t.heads = 8, t.kv_heads = 3; }, kLoss, "not a multiple"},
      {"heads and width", [](Tiny& t) { t.heads = 3; }, kLoss, "width 8"},
      {"experts", [](Tiny& t) { t.extra.Int("llama.expert_count", 8); }, kNot, "expert_count"},
      {"partial rotary", [](Tiny& t) { t.extra.Int("llama.rope.dimension_count", 2); }, kNot, "differ"},
      {"rope scaling type", [](Tiny& t) { t.extra.Text("llama.rope.scaling.type", "longrope"); }, kNot, "'longrope'"},
      {"rope scaling factor", [](Tiny& t) { t.extra.Text("llama.rope.scaling.type", "linear"); }, kLoss,
       "scaling.factor"},
      {"rope factors unknown",
       [](Tiny& t) {
         t.extra.Tensor("rope_freqs.weight", {2}, kF32, 8, {}, GgufBytes::Raw(3.0f) + GgufBytes::Raw(1.0f));
       },
       kNot, "not those of Llama 3"},
      {"rope factors count", [](Tiny& t) { t.extra.Tensor("rope_freqs.weight", {4}, kF32, 16); }, kLoss, "4 factors"},
      {"tokenizer model", [](Tiny& t) { t.model = "bert"; }, kNot, "'bert' is not supported"},
      {"pre-tokenizer", [](Tiny& t) { t.pre = "default"; }, kNot, "'default' is not supported"},
      {"space prefix", [](Tiny& t) { t.model = "llama", t.add_space_prefix = true; }, kNot, "space before the text"},
      {"more tokens than rows", [](Tiny& t) { t.rows = 4; }, kLoss, "5 tokens, but the embedding has 4 rows"},
      {"types short", [](Tiny& t) { t.types.pop_back(); }, kLoss, "one item for each of the 5 tokens"},
      {"type unknown", [](Tiny& t) { t.types[2] = 7; }, kLoss, "unknown type 7"},
      {"scores short", [](Tiny& t) { t.model = "llama", t.scores.pop_back(); }, kLoss,
       "one item for each of the 5 tokens"},
      {"score NaN", [](Tiny& t) { t.model = "llama", t.scores[1] = std::nanf(""); }, kLoss, "not finite"},
      {"duplicate token", [](Tiny& t) { t.tokens[2] = "a"; }, kLoss, "token 2 ('a') appears twice"},
      {"token not UTF-8", [](Tiny& t) { t.tokens[2] = "\xc0\x80"; }, kLoss, "token 2 is not valid UTF-8"},
      {"token too long", [](Tiny& t) { t.tokens[2] = std::string(5000, 'x'); }, kLimit, "5000 bytes"},
      {"byte token -1", [](Tiny& t) { t.model = "llama", t.tokens[2] = "<0x-1>", t.types[2] = 6; }, kLoss, "'<0x-1>'"},
      {"byte token ZZ", [](Tiny& t) { t.model = "llama", t.tokens[2] = "<0xZZ>", t.types[2] = 6; }, kLoss, "'<0xZZ>'"},
      {"eos out of range", [](Tiny& t) { t.eos = 5; }, kLoss, "eos_token_id' is 5; 0 to 4"},
      {"bos out of range", [](Tiny& t) { t.extra.Int("tokenizer.ggml.bos_token_id", 1u << 31); }, kLoss,
       "bos_token_id"},
      {"merge of one", [](Tiny& t) { t.merges = {"ab"}; }, kLoss, "merge 0 is 'ab'"},
      {"merge of three", [](Tiny& t) { t.merges = {"a b c"}; }, kLoss, "merge 0"},
      {"merge with an empty side", [](Tiny& t) { t.merges = {"a "}; }, kLoss, "merge 0"},
      {"merges without end", [](Tiny& t) { t.merges.assign(11, "a b"); }, kLoss, "more than 10 items"},
      {"template not UTF-8", [](Tiny& t) { t.extra.Text("tokenizer.chat_template", "\xff"); }, kLoss, "chat template"},
      {"template too long", [](Tiny& t) { t.extra.Text("tokenizer.chat_template", std::string(2 << 20, 'x')); }, kLimit,
       "chat template"},
  };
  for (const Refusal& r : refusals) {
    auto model = OpenWith(r.change);
    ASSERT_FALSE(model.ok()) << r.what;
    EXPECT_EQ(model.status().code(), r.code) << r.what << ": " << model.status();
    EXPECT_NE(Message(model.status()).find(r.message), std::string::npos) << r.what << ": " << model.status();
    EXPECT_NE(Message(model.status()).find(".gguf"), std::string::npos) << r.what << ": " << model.status();
  }
}

TEST(GgufModel, RefusesAMissingEmbedding) {
  const std::string bytes = GgufBytes()
                                .Text("general.architecture", "llama")
                                .Int("llama.block_count", 1)
                                .Int("llama.attention.head_count", 2)
                                .Tensor("output_norm.weight", {8}, kF32, 32)
                                .Build();
  auto model = OpenBytes(bytes);
  ASSERT_FALSE(model.ok());
  EXPECT_NE(Message(model.status()).find("'token_embd.weight' is missing"), std::string::npos) << model.status();
}

TEST(GgufModel, MapsRopeScaling) {
  auto linear = OpenWith(
      [](Tiny& t) { t.extra.Text("llama.rope.scaling.type", "linear").Float("llama.rope.scaling.factor", 8); });
  ASSERT_TRUE(linear.ok()) << linear.status();
  EXPECT_EQ((*linear)->config()["rope_scaling"], Json::parse(R"({"rope_type": "linear", "factor": 8.0})"));
  auto yarn = OpenWith([](Tiny& t) {
    t.arch = "qwen2";
    t.extra.Text("qwen2.rope.scaling.type", "yarn").Float("qwen2.rope.scaling.factor", 4);
    t.extra.Int("qwen2.rope.scaling.original_context_length", 32768);
  });
  ASSERT_TRUE(yarn.ok()) << yarn.status();
  EXPECT_EQ((*yarn)->config()["rope_scaling"],
            Json::parse(R"({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768})"));
  auto ones = OpenWith([](Tiny& t) {
    t.extra.Tensor("rope_freqs.weight", {2}, kF32, 8, {}, GgufBytes::Raw(1.0f) + GgufBytes::Raw(1.0f));
  });
  ASSERT_TRUE(ones.ok()) << ones.status();
  EXPECT_EQ((*ones)->config()["rope_scaling"], nullptr);
}

TEST(GgufModel, KnowsWhichGemma3LayersSlide) {
  auto model = OpenWith([](Tiny& t) { t.arch = "gemma3", t.layers = 7; });
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->config()["layer_types"][4], "sliding_attention");
  EXPECT_EQ((*model)->config()["layer_types"][5], "full_attention");
  auto every_third = OpenWith([](Tiny& t) {
    t.arch = "gemma3", t.layers = 7;
    t.extra.Int("gemma3.attention.sliding_window_pattern", 3);
  });
  ASSERT_TRUE(every_third.ok()) << every_third.status();
  EXPECT_EQ((*every_third)->config()["layer_types"][2], "full_attention");
  auto uneven = OpenWith([](Tiny& t) {
    t.arch = "gemma3", t.layers = 3;
    t.extra.Numbers<uint8_t>("gemma3.attention.sliding_window_pattern", GgufType::kBool, {1, 0, 0});
  });
  EXPECT_EQ(uneven.status().code(), absl::StatusCode::kUnimplemented);
  auto gemma27b = OpenWith([](Tiny& t) { t.arch = "gemma3", t.layers = 62, t.heads = 1; });
  ASSERT_TRUE(gemma27b.ok()) << gemma27b.status();
  EXPECT_EQ((*gemma27b)->config()["query_pre_attn_scalar"], 8);  // width / heads, not the head's 4
}

TEST(GgufModel, AddsWhatTheFileAsksForAroundTheText) {
  Tiny tiny;
  tiny.pre = "llama-bpe";
  std::string bytes = tiny.Build();
  EXPECT_EQ(TextOf(**OpenBytes(bytes), "tokenizer.json")["post_processor"]["type"], "ByteLevel");
  // The same file without add_bos_token: llama.cpp's default for this tokenizer is to add it.
  const size_t at = bytes.find("add_bos_token");
  bytes[at] = 'x';
  tiny.extra.Int("tokenizer.ggml.bos_token_id", 1);
  std::string with_bos = tiny.Build();
  with_bos[with_bos.find("add_bos_token")] = 'x';
  EXPECT_FALSE(OpenBytes(bytes).ok());  // no BOS id
  auto model = OpenBytes(with_bos);
  ASSERT_TRUE(model.ok()) << model.status();
  const Json post = TextOf(**model, "tokenizer.json")["post_processor"];
  EXPECT_EQ(post["processors"][1]["single"][0]["SpecialToken"]["id"], "a");
  EXPECT_EQ(post["processors"][1]["special_tokens"]["a"]["ids"], Json::parse("[1]"));
}

TEST(GgufModel, KeepsTextThatJsonMustEscape) {
  auto model = OpenWith([](Tiny& t) {
    t.tokens = {"<|endoftext|>", "\"\\", "\n\x01", "\xf0\x9f\x98\x80", "b"};
    t.merges = {"\"\\ b"};
    t.extra.Text("tokenizer.chat_template", "{{ \"\u00e9\" }}");
  });
  ASSERT_TRUE(model.ok()) << model.status();
  const Json tokenizer = TextOf(**model, "tokenizer.json");
  EXPECT_EQ(tokenizer["model"]["vocab"]["\"\\"], 1);
  EXPECT_EQ(tokenizer["model"]["vocab"]["\n\x01"], 2);
  EXPECT_EQ(tokenizer["model"]["vocab"]["\xf0\x9f\x98\x80"], 3);
  EXPECT_EQ(tokenizer["model"]["merges"], Json::parse(R"([["\"\\", "b"]])"));
  EXPECT_EQ(TextOf(**model, "tokenizer_config.json")["chat_template"], "{{ \"\u00e9\" }}");
}

TEST(GgufModel, SpecialTokensFollowTheOriginalFiles) {
  const auto special = [](const std::string& pre) {
    auto model = OpenWith([&](Tiny& t) {
      t.pre = pre;
      t.tokens = {"<|endoftext|>", "<|fim_prefix|>", "<|fim_|>", "<think>", "a"};
      t.types = {3, 3, 3, 4, 1};
      t.merges = {};
    });
    EXPECT_TRUE(model.ok()) << model.status();
    Json flags = Json::array();
    const Json tokenizer = TextOf(**model, "tokenizer.json");
    for (const Json& token : tokenizer["added_tokens"]) flags.push_back(token["special"]);
    return flags;
  };
  EXPECT_EQ(special("qwen2"), Json::parse("[true, false, true, false]"));
  EXPECT_EQ(special("smollm"), Json::parse("[true, true, true, false]"));
}

}  // namespace
}  // namespace optiq
