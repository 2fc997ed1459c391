#include "quant/sensitivity_table.h"

#include <gtest/gtest.h>

#include <functional>

#include "quant/test_table.h"

namespace optiq {
namespace {

TEST(AffineBytes, MatchesTheSafetensorsLayout) {
  // [576, 1536] at 4 bits, g64: 576 * 192 words * 4 bytes + 2 * 576 * 24 groups * 2 bytes.
  EXPECT_EQ(AffineBytes({576, 1536}, {4, 64}), 576u * 192 * 4 + 2 * 576 * 24 * 2);
  EXPECT_EQ(AffineBytes({8, 64, 128}, {3, 32}), 8u * 64 * (128 * 3 / 8 + 4 * 4));
  EXPECT_EQ(AffineBytes({2, 64}, {8, 64}, /*scale_bytes=*/4), 2u * (64 + 8));
  EXPECT_EQ(AffineBytes({2, 96}, {4, 64}), 0u);
  EXPECT_EQ(AffineBytes({2, 64}, {7, 64}), 0u);
  EXPECT_EQ(AffineBytes({int64_t{1} << 40, int64_t{1} << 40}, {4, 64}), 0u);
  EXPECT_EQ(AffineBytes({}, {4, 64}), 0u);
}

TEST(SensitivityTable, RoundTripIsExact) {
  SensitivityTable table = SmolTable(2);
  table.items[1].options[0].kl = 0.1 + 0.2;
  table.items[1].options[1].kl = 4.9406564584124654e-324;
  table.items[1].options[2].kl_stderr = 1.0 / 3.0;
  table.items[2].options.clear();  // only dense
  std::string text = table.ToJson().dump(1);
  StatusOr<Json> json = ParseJson(text, "table");
  ASSERT_TRUE(json.ok()) << json.status();
  StatusOr<SensitivityTable> back = SensitivityTable::FromJson(*json, "table");
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->base_model, table.base_model);
  EXPECT_EQ(back->fingerprint, table.fingerprint);
  EXPECT_EQ(back->calibration_sha256, table.calibration_sha256);
  EXPECT_EQ(back->calibration_sequences, 8);
  EXPECT_EQ(back->calibration_length, 256);
  ASSERT_EQ(back->items.size(), table.items.size());
  for (size_t i = 0; i < table.items.size(); ++i) {
    const SensitivityItem &a = table.items[i], &b = back->items[i];
    EXPECT_EQ(a.path, b.path);
    EXPECT_EQ(a.shape, b.shape);
    EXPECT_EQ(a.block, b.block);
    EXPECT_EQ(a.dense_bytes, b.dense_bytes);
    ASSERT_EQ(a.options.size(), b.options.size());
    for (size_t k = 0; k < a.options.size(); ++k) {
      EXPECT_EQ(a.options[k].format, b.options[k].format);
      EXPECT_EQ(a.options[k].encoder, b.options[k].encoder);
      EXPECT_EQ(a.options[k].bytes, b.options[k].bytes);
      EXPECT_EQ(a.options[k].kl, b.options[k].kl);
      EXPECT_EQ(a.options[k].measured, b.options[k].measured);
      EXPECT_EQ(a.options[k].kl_stderr, b.options[k].kl_stderr);
      EXPECT_EQ(a.options[k].weight_error, b.options[k].weight_error);
    }
  }
  EXPECT_EQ(back->ToJson().dump(1), text);
}

TEST(SensitivityTable, BytesThatAreNotUtf8CanBeWritten) {
  SensitivityTable table = SmolTable(1);
  table.base_model = table.items[0].path = "/models/\xFF";
  EXPECT_NO_THROW(table.ToJson().dump());
}

TEST(SensitivityTable, WritesTheSchemaOfMlxOptiq) {
  Json json = SmolTable(1).ToJson();
  EXPECT_EQ(json["base_model"], "SmolLM2-135M-Instruct");
  EXPECT_EQ(json["candidate_bits"], Json({2, 3, 4, 5, 6, 8}));
  EXPECT_EQ(json["group_size"], 32);  // as many as g64: the smaller
  EXPECT_EQ(json["metric"], "kl_divergence_vs_reference");
  const Json& layer = json["layers"][1];
  EXPECT_EQ(layer["layer_name"], "model.layers.0.self_attn.q_proj");
  EXPECT_EQ(layer["param_count"], 576 * 576);
  EXPECT_TRUE(layer["metadata"].is_object());
  for (const char* bits : {"2", "3", "4", "5", "6", "8"}) EXPECT_GT(layer["sensitivities"][bits].get<double>(), 0);
  // The KL shown is that of the table's group size.
  EXPECT_EQ(layer["sensitivities"]["4"], layer["options"][4]["kl"]);
}

struct BadTable {
  const char* name;
  std::function<void(Json&)> spoil;
  const char* expected;  // part of the message
};

TEST(SensitivityTable, HostileJsonGivesClearErrors) {
  auto option = [](Json& j) -> Json& { return j["layers"][0]["options"][0]; };
  const BadTable cases[] = {
      {"not an object", [](Json& j) { j = Json::array(); }, "must be a JSON object"},
      {"no version", [](Json& j) { j.erase("version"); }, "another program"},
      {"later version", [](Json& j) { j["version"] = 2; }, "version 2 is not known"},
      {"version type", [](Json& j) { j["version"] = "1"; }, "must be an integer"},
      {"model type", [](Json& j) { j["base_model"] = 3; }, "'base_model' must be a string"},
      {"long model", [](Json& j) { j["base_model"] = std::string(5000, 'x'); }, "5000 bytes long"},
      {"calibration", [](Json& j) { j["calibration"] = 1; }, "'calibration' must be an object"},
      {"layers type", [](Json& j) { j["layers"] = Json::object(); }, "'layers' must be a list"},
      {"layer type", [](Json& j) { j["layers"][0] = 1; }, "layers[0]: must be an object"},
      {"no name", [](Json& j) { j["layers"][0].erase("layer_name"); }, "'layer_name' is missing"},
      {"long name", [](Json& j) { j["layers"][0]["layer_name"] = std::string(2000, 'a'); }, "at most 1024"},
      {"twice", [](Json& j) { j["layers"].push_back(j["layers"][0]); }, "listed twice"},
      {"shape type", [](Json& j) { j["layers"][0]["shape"] = "x"; }, "'shape' must be a list"},
      {"shape zero", [](Json& j) { j["layers"][0]["shape"][0] = 0; }, "integers of 1 or more"},
      {"shape float", [](Json& j) { j["layers"][0]["shape"][0] = 1.5; }, "integers of 1 or more"},
      {"shape huge",
       [](Json& j) {
         j["layers"][0]["shape"] = {1 << 30, 1 << 30};
       },
       "too large"},
      {"shape unsigned", [](Json& j) { j["layers"][0]["shape"][0] = UINT64_MAX; }, "integers of 1 or more"},
      {"param count", [](Json& j) { j["layers"][0]["param_count"] = 5; }, "param_count is 5"},
      {"block", [](Json& j) { j["layers"][0]["block"] = -2; }, "'block' is -2"},
      {"no options", [](Json& j) { j["layers"][0].erase("options"); }, "measure the model again"},
      {"empty", [](Json& j) { j["layers"][0]["options"] = Json::array(), j["layers"][0]["dense_bytes"] = 0; },
       "no option to choose"},
      {"bits", [&](Json& j) { option(j)["bits"] = 7; }, "bits is 7"},
      {"bits type", [&](Json& j) { option(j)["bits"] = "4"; }, "'bits' must be an integer"},
      {"group", [&](Json& j) { option(j)["group_size"] = 48; }, "group_size is 48"},
      {"group of row", [](Json& j) { j["layers"][0]["shape"][1] = 100, j["layers"][0].erase("param_count"); },
       "do not divide into groups"},
      {"encoder", [&](Json& j) { option(j)["encoder"] = "<script>"; }, "not an encoder name"},
      {"bytes zero", [&](Json& j) { option(j)["bytes"] = 0; }, "'bytes' is 0"},
      {"bytes negative", [&](Json& j) { option(j)["bytes"] = -4; }, "'bytes' is -4"},
      {"bytes huge", [&](Json& j) { option(j)["bytes"] = UINT64_MAX; }, "too large"},
      {"kl negative", [&](Json& j) { option(j)["kl"] = -1e-9; }, "0 or above"},
      {"kl missing", [&](Json& j) { option(j)["kl"] = nullptr; }, "'kl' is missing"},
      {"kl nan", [&](Json& j) { option(j)["kl"] = std::nan(""); }, "finite"},
      {"kl type", [&](Json& j) { option(j)["kl"] = "0"; }, "'kl' must be a number"},
      {"stderr", [&](Json& j) { option(j)["kl_stderr"] = -1; }, "'kl_stderr' is -1"},
      {"measured", [&](Json& j) { option(j)["measured"] = 1; }, "true or false"},
      {"option twice", [&](Json& j) { j["layers"][0]["options"].push_back(option(j)); }, "there twice"},
  };
  for (const BadTable& c : cases) {
    Json json = SmolTable(1).ToJson();
    c.spoil(json);
    StatusOr<SensitivityTable> table = SensitivityTable::FromJson(json, "s.json");
    ASSERT_FALSE(table.ok()) << c.name;
    EXPECT_EQ(table.status().code(), absl::StatusCode::kInvalidArgument) << c.name;
    std::string message = Message(table.status());
    EXPECT_NE(message.find(c.expected), std::string::npos) << c.name << ": " << message;
    EXPECT_EQ(message.rfind("s.json: ", 0), 0u) << message;
  }
}

}  // namespace
}  // namespace optiq
