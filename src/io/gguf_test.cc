#include "io/gguf.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "io/gguf_test_util.h"

namespace optiq {
namespace {

constexpr uint32_t kF32 = 0, kQ8_0 = 8;

GgufBytes Sample() {
  GgufBytes g;
  g.Text("general.architecture", "llama").Int("a.int", 7).Float("a.float", 1.5f).Bool("a.bool", true);
  g.Texts("a.texts", {"x", "", "yz"}).Numbers<int32_t>("a.ints", GgufType::kInt32, {-1, 2});
  g.Numbers<float>("a.floats", GgufType::kFloat32, {0.5f, -2});
  g.Tensor("one", {3, 2}, kF32, 24).Tensor("two", {64, 2}, kQ8_0, 4 * 34);
  return g;
}

TEST(Gguf, ReadsKeysAndTensors) {
  for (const uint32_t version : {2u, 3u}) {
    GgufBytes g = Sample();
    g.version = version;
    const std::string bytes = g.Build();
    const auto file = GgufFile::Parse(BytesOf(bytes), "m.gguf");
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_EQ(file->version(), version);
    EXPECT_EQ(file->alignment(), 32u);
    EXPECT_EQ(file->key_count(), 7u);
    EXPECT_EQ(*file->GetInt("a.int"), 7);
    EXPECT_EQ(*file->GetDouble("a.float"), 1.5);
    EXPECT_EQ(*file->GetDouble("a.int"), 7.0);
    EXPECT_EQ(*file->GetBool("a.bool"), true);
    EXPECT_EQ(*file->GetString("general.architecture"), "llama");
    EXPECT_EQ(*file->GetInt("absent"), std::nullopt);
    EXPECT_FALSE(file->Has("absent"));
    EXPECT_TRUE(file->HasPrefix("a."));
    EXPECT_FALSE(file->HasPrefix("b."));
    EXPECT_EQ(*file->GetStrings("a.texts"), (std::vector<std::string_view>{"x", "", "yz"}));
    EXPECT_EQ(*file->GetInts("a.ints"), (std::vector<int64_t>{-1, 2}));
    EXPECT_EQ(*file->GetFloats("a.floats"), (std::vector<float>{0.5f, -2}));
    EXPECT_EQ(file->ArraySize("a.texts"), 3u);
    EXPECT_EQ(file->ArraySize("a.int"), std::nullopt);

    ASSERT_EQ(file->tensors().size(), 2u);
    EXPECT_EQ(file->tensors()[0].name, "one");
    EXPECT_EQ(file->tensors()[0].Shape(), (std::vector<int64_t>{2, 3}));
    EXPECT_EQ(file->tensors()[1].dtype, DType::kQ8_0);
    EXPECT_EQ(file->tensors()[1].bytes.size(), 4u * 34);
    EXPECT_EQ(file->tensors()[1].bytes.data() - BytesOf(bytes).data(),
              static_cast<ptrdiff_t>(file->data_offset() + 32));
    EXPECT_EQ(file->data_offset() % 32, 0u);
  }
}

TEST(Gguf, TakesOtherAlignments) {
  for (const uint32_t alignment : {8u, 64u, 4096u}) {
    GgufBytes g;
    g.alignment = alignment;
    g.Int("general.alignment", alignment).Tensor("a", {4}, kF32, 16).Tensor("b", {4}, kF32, 16);
    const std::string bytes = g.Build();
    const auto file = GgufFile::Parse(BytesOf(bytes), "m.gguf");
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_EQ(file->data_offset() % alignment, 0u);
    EXPECT_EQ(file->tensors()[1].bytes.data() - file->tensors()[0].bytes.data(), alignment == 8 ? 16 : alignment);
  }
}

TEST(Gguf, TakesAFileWithoutTensorsAndALastTensorWithoutPadding) {
  const std::string none = GgufBytes().Int("a", 1).Build();
  EXPECT_TRUE(GgufFile::Parse(BytesOf(none), "m.gguf").ok());
  std::string bytes = GgufBytes().Tensor("a", {1}, kF32, 4).Build();
  bytes.resize(bytes.size() - 28);
  EXPECT_TRUE(GgufFile::Parse(BytesOf(bytes), "m.gguf").ok());
}

TEST(Gguf, AccessorsNameTheKeyAndTheExpectedType) {
  const std::string bytes = Sample()
                                .Float("a.nan", std::numeric_limits<float>::quiet_NaN())
                                .Key("a.huge", GgufType::kUint64, GgufBytes::Raw<uint64_t>(1ull << 63))
                                .Build();
  const auto file = GgufFile::Parse(BytesOf(bytes), "m.gguf");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(Message(file->GetInt("a.float").status()), "m.gguf: metadata key 'a.float' is not an integer of 63 bits");
  EXPECT_FALSE(file->GetInt("a.huge").ok());
  EXPECT_FALSE(file->GetInt("a.texts").ok());
  EXPECT_FALSE(file->GetDouble("a.nan").ok());
  EXPECT_FALSE(file->GetDouble("a.texts").ok());
  EXPECT_FALSE(file->GetBool("a.int").ok());
  EXPECT_FALSE(file->GetString("a.int").ok());
  EXPECT_FALSE(file->GetStrings("a.ints").ok());
  EXPECT_FALSE(file->GetStrings("absent").ok());
  EXPECT_FALSE(file->GetInts("a.floats").ok());
  EXPECT_FALSE(file->GetFloats("a.ints").ok());
  EXPECT_EQ(Message(file->RequireInt("a.int", 8, 9).status()), "m.gguf: metadata key 'a.int' is 7; 8 to 9 is allowed");
  EXPECT_EQ(Message(file->RequireInt("absent", 0, 9).status()), "m.gguf: metadata key 'absent' is missing");
}

struct Refusal {
  const char* what;
  std::function<std::string()> bytes;
  absl::StatusCode code;
  const char* message;  // part of it
};

constexpr auto kData = absl::StatusCode::kDataLoss;
constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;
constexpr auto kLimit = absl::StatusCode::kResourceExhausted;

template <typename Change>
std::string With(Change change) {
  GgufBytes g = Sample();
  change(g);
  return g.Build();
}

std::string OneKey(GgufType type, std::string_view value) { return GgufBytes().Key("k", type, value).Build(); }

std::string OneTensor(const std::vector<uint64_t>& dims, uint32_t type, size_t size,
                      std::optional<uint64_t> offset = {}) {
  return GgufBytes().Tensor("t", dims, type, size, offset).Build();
}

std::string Alignment(uint32_t value) {
  return With([&](GgufBytes& g) { g.Int("general.alignment", value); });
}

TEST(Gguf, RefusesMalformedFiles) {
  const auto raw64 = [](uint64_t v) { return GgufBytes::Raw(v); };
  const auto tag = [](uint32_t v) { return GgufBytes::Raw(v); };
  const uint64_t kHuge = 1ull << 63;
  const std::vector<Refusal> refusals = {
      {"empty", [] { return std::string(); }, kData, "not a GGUF file"},
      {"magic", [] { return With([](GgufBytes& g) { g.magic = "GGML"; }); }, kData, "not a GGUF file"},
      {"only magic", [] { return std::string("GGUF"); }, kData, "ends inside the header"},
      {"version 0", [] { return With([](GgufBytes& g) { g.version = 0; }); }, kUnimplemented, "version 0"},
      {"version 1", [] { return With([](GgufBytes& g) { g.version = 1; }); }, kUnimplemented, "version 1"},
      {"version 4", [] { return With([](GgufBytes& g) { g.version = 4; }); }, kUnimplemented, "version 4"},
      {"big endian", [] { return With([](GgufBytes& g) { g.version = 3u << 24; }); }, kUnimplemented, "big-endian"},
      {"2^63 keys", [=] { return With([=](GgufBytes& g) { g.key_count = kHuge; }); }, kData, "keys do not fit"},
      {"2^32 keys", [] { return With([](GgufBytes& g) { g.key_count = 1ull << 32; }); }, kData, "keys do not fit"},
      {"one key too many", [] { return With([](GgufBytes& g) { ++g.key_count; }); }, kData, "m.gguf"},
      {"2^63 tensors", [=] { return With([=](GgufBytes& g) { g.tensor_count = kHuge; }); }, kData,
       "tensors do not fit"},
      {"too many keys",
       [] {
         GgufBytes g;
         for (int i = 0; i < 70000; ++i) g.Int(std::to_string(i), 0);
         return g.Build();
       },
       kLimit, "70000 metadata keys"},
      {"key length 2^63", [=] { return "GGUF" + tag(3) + raw64(0) + raw64(1) + raw64(kHuge) + std::string(16, 'x'); },
       kData, "claims 9223372036854775808 bytes"},
      {"empty key", [] { return GgufBytes().Int("", 1).Build(); }, kData, "has no name"},
      {"long key", [] { return GgufBytes().Int(std::string(70000, 'k'), 1).Build(); }, kLimit, "more than 65535"},
      {"duplicate key", [] { return With([](GgufBytes& g) { g.Int("a.int", 8); }); }, kData, "'a.int' appears twice"},
      {"unknown type", [] { return OneKey(static_cast<GgufType>(13), "12345678"); }, kData, "unknown value type 13"},
      {"bool 7", [] { return OneKey(GgufType::kBool, "\7"); }, kData, "neither 0 nor 1"},
      {"bool in array", [=] { return OneKey(GgufType::kArray, tag(7) + raw64(2) + "\1\2"); }, kData, "neither 0 nor 1"},
      {"string 2^63", [=] { return OneKey(GgufType::kString, raw64(kHuge) + "abc"); }, kData, "'k'"},
      {"1 GB string in a small file",
       [=] { return OneKey(GgufType::kString, raw64(1u << 30) + std::string(1000, 'x')); }, kData,
       "claims 1073741824 bytes"},
      {"string above the limit", [] { return GgufBytes().Text("k", std::string((16u << 20) + 1, 'x')).Build(); },
       kLimit, "more than 16777216"},
      {"array of arrays", [=] { return OneKey(GgufType::kArray, tag(9) + raw64(1) + tag(4) + raw64(0)); },
       kUnimplemented, "array of arrays"},
      {"array of type 255", [=] { return OneKey(GgufType::kArray, tag(255) + raw64(1) + "1"); }, kData,
       "unknown value type 255"},
      {"array of 2^63", [=] { return OneKey(GgufType::kArray, tag(10) + raw64(kHuge) + "12345678"); }, kData,
       "do not fit"},
      {"array of 2^61", [=] { return OneKey(GgufType::kArray, tag(10) + raw64(1ull << 61) + "12345678"); }, kData,
       "do not fit"},
      {"strings cut off",
       [=] { return OneKey(GgufType::kArray, tag(8) + raw64(2) + GgufBytes::String("a") + raw64(9)); }, kData,
       "a string of metadata key 'k' claims 9 bytes, 0 are left"},
      {"no value", [] { return OneKey(GgufType::kUint64, "12"); }, kData, "do not fit"},
      {"alignment 0", [] { return Alignment(0); }, kData, "general.alignment is 0"},
      {"alignment 3", [] { return Alignment(3); }, kData, "general.alignment is 3"},
      {"alignment 4", [] { return Alignment(4); }, kData, "general.alignment is 4"},
      {"alignment 2^17", [] { return Alignment(1 << 17); }, kData, "general.alignment is 131072"},
      {"alignment 2^31", [] { return Alignment(1u << 31); }, kData, "general.alignment is 2147483648"},
      {"alignment type", [] { return With([](GgufBytes& g) { g.Bool("general.alignment", true); }); }, kData,
       "32-bit unsigned"},
      {"one tensor too many", [] { return With([](GgufBytes& g) { ++g.tensor_count; }); }, kData, "m.gguf"},
      {"tensor without a name", [] { return GgufBytes().Tensor("", {1}, kF32, 4).Build(); }, kData, "has no name"},
      {"long tensor name", [] { return GgufBytes().Tensor(std::string(2000, 't'), {1}, kF32, 4).Build(); }, kLimit,
       "2000 bytes"},
      {"rank 0", [] { return OneTensor({}, kF32, 64); }, kData, "0 dimensions"},
      {"rank 5",
       [] {
         return OneTensor({1, 1, 1, 1, 1}, kF32, 4);
       },
       kData, "5 dimensions"},
      {"dimension 0", [] { return OneTensor({0}, kF32, 4); }, kData, "dimension 0 is 0"},
      {"dimension -1",
       [] {
         return OneTensor({4, ~0ull}, kF32, 4);
       },
       kData, "dimension 1 is -1"},
      {"dimension 2^62",
       [] {
         return OneTensor({1ull << 62, 4}, kF32, 4);
       },
       kData, "larger than the whole file"},
      {"product 2^64",
       [] {
         return OneTensor({1ull << 32, 1ull << 32}, kF32, 4);
       },
       kData, "larger than the whole file"},
      {"product wraps to 1",
       [] {
         return OneTensor({(1ull << 62) + 1, 4}, kF32, 16);
       },
       kData, "larger than the whole file"},
      {"type 999", [] { return OneTensor({4}, 999, 16); }, kUnimplemented, "unknown tensor type 999"},
      {"removed type", [] { return OneTensor({4}, 4, 16); }, kUnimplemented, "unknown tensor type 4"},
      {"IQ4_XS", [] { return OneTensor({256}, 23, 136); }, kUnimplemented, "IQ4_XS is not supported"},
      {"half a block",
       [] {
         return OneTensor({48, 2}, kQ8_0, 102);
       },
       kData, "not whole blocks of 32"},
      {"offset unaligned", [] { return OneTensor({4}, kF32, 64, 4); }, kData, "not a multiple of 32"},
      {"offset past the end", [] { return OneTensor({4}, kF32, 32, 1 << 20); }, kData, "past the end"},
      {"offset 2^64-32", [] { return OneTensor({4}, kF32, 32, ~0ull - 31); }, kData, "past the end"},
      {"reaches past the end",
       [] { return GgufBytes().Tensor("a", {64}, kF32, 256).Tensor("t", {40}, kF32, 32).Build(); }, kData,
       "past the end"},
      {"no data", [] { return OneTensor({4}, kF32, 0, 0); }, kData, "m.gguf"},
      {"overlap", [] { return GgufBytes().Tensor("a", {16}, kF32, 64).Tensor("b", {8}, kF32, 32, 32).Build(); }, kData,
       "'a' and 'b' overlap"},
      {"same place", [] { return GgufBytes().Tensor("a", {8}, kF32, 32).Tensor("b", {8}, kF32, 32, 0).Build(); }, kData,
       "overlap"},
      {"duplicate tensor", [] { return GgufBytes().Tensor("a", {8}, kF32, 32).Tensor("a", {8}, kF32, 32).Build(); },
       kData, "tensor 'a' appears twice"},
  };
  for (const Refusal& r : refusals) {
    const std::string bytes = r.bytes();
    const auto file = GgufFile::Parse(BytesOf(bytes), "m.gguf");
    ASSERT_FALSE(file.ok()) << r.what;
    EXPECT_EQ(file.status().code(), r.code) << r.what << ": " << file.status();
    EXPECT_NE(Message(file.status()).find(r.message), std::string::npos) << r.what << ": " << file.status();
    EXPECT_NE(Message(file.status()).find("m.gguf"), std::string::npos) << r.what << ": " << file.status();
  }
}

TEST(Gguf, RefusesEveryTruncation) {
  const std::string bytes = Sample().Build();
  const auto whole = GgufFile::Parse(BytesOf(bytes), "m.gguf");
  ASSERT_TRUE(whole.ok());
  const size_t needed = whole->data_offset() + 32 + 4 * 34;
  for (size_t n = 0; n < needed; ++n) {
    const std::string cut(bytes, 0, n);  // its own allocation: reading past it is seen by a sanitizer
    EXPECT_FALSE(GgufFile::Parse(BytesOf(cut), "m.gguf").ok()) << n;
  }
  EXPECT_TRUE(GgufFile::Parse(BytesOf(bytes).first(needed), "m.gguf").ok());
}

TEST(Gguf, QuotesHostileText) {
  EXPECT_EQ(QuoteForError("a\n\x1b[1m\xff"), "'a\\x0a\\x1b[1m\\xff'");
  EXPECT_EQ(QuoteForError(std::string(100, 'x')), "'" + std::string(80, 'x') + "...'");
}

}  // namespace
}  // namespace optiq
