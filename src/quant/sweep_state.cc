#include "quant/sweep_state.h"

#include <cstring>

#include "base/file.h"
#include "base/json.h"
#include "io/mapped_file.h"
#include "io/safetensors.h"
#include "io/safetensors_writer.h"

namespace optiq {

Status SaveSweepState(const SweepState& state, int64_t tokens, const DecoderSpec& spec, const std::string& path) {
  std::vector<TensorData> tensors;
  const auto add = [&](const std::string& name, const AlignedBuffer<float>& values, int64_t columns) {
    tensors.push_back({.spec = {.name = name, .dtype = DType::kF32, .shape = {tokens, columns}},
                       .bytes = {reinterpret_cast<const std::byte*>(values.data()),
                                 static_cast<size_t>(tokens * columns) * sizeof(float)}});
  };
  const auto add_all = [&](const std::string& name, const Activations& a) {
    add(name, a.hidden, spec.hidden_size);
    for (const auto& [layer, kv] : a.kv) {
      const int64_t width = spec.layers[layer].attention.kv_width();
      add(fmt::format("{}.k.{}", name, layer), kv.k, width);
      add(fmt::format("{}.v.{}", name, layer), kv.v, width);
    }
  };
  add_all("reference", state.reference);
  if (state.has_next_reference) add_all("next_reference", state.next_reference);
  for (size_t i = 0; i < state.streams.size(); ++i) add_all(fmt::format("stream.{}", i), state.streams[i]);
  Json results = Json::array();
  for (const ProbeResult& r : state.results) results.push_back({r.done, r.kl, r.kl_stderr});
  const Json json = {{"wave", state.wave},
                     {"next_block", state.next_block},
                     {"has_next_reference", state.has_next_reference},
                     {"stream_probe", state.stream_probe},
                     {"results", results},
                     {"weight_error", state.weight_error},
                     {"expert_shares", state.expert_shares}};
  return WriteSafetensors(path, tensors, {{"key", state.key}, {"state", json.dump()}});
}

Status LoadSweepState(const std::string& path, const std::string& key, int64_t tokens, const DecoderSpec& spec,
                      SweepState* state) {
  if (!FileExists(path)) return NotFound("{}: no saved state", path);
  ASSIGN_OR_RETURN(std::unique_ptr<MappedFile> file, MappedFile::Open(path));
  std::map<std::string, std::string> metadata;
  ASSIGN_OR_RETURN(std::vector<StoredTensor> tensors, ParseSafetensors(file->bytes(), path, &metadata));
  if (metadata["key"] != key) return NotFound("{}: saved by another job", path);
  ASSIGN_OR_RETURN(Json json, ParseJson(metadata["state"], path));
  std::map<std::string_view, const StoredTensor*> by_name;
  for (const StoredTensor& t : tensors) by_name[t.name] = &t;
  const auto load = [&](const std::string& name, int64_t columns, AlignedBuffer<float>* out) -> Status {
    auto it = by_name.find(name);
    if (it == by_name.end() || it->second->dtype != DType::kF32 || it->second->shape != std::vector<int64_t>{tokens, columns}) {
      return DataLoss("{}: tensor '{}' is missing; delete the file to start again", path, name);
    }
    std::memcpy(out->Grow(tokens * columns), it->second->bytes.data(), it->second->bytes.size());
    return OkStatus();
  };
  const auto load_all = [&](const std::string& name, Activations* out) -> Status {
    RETURN_IF_ERROR(load(name, spec.hidden_size, &out->hidden));
    for (int layer = 0; layer < spec.num_layers(); ++layer) {
      const std::string k = fmt::format("{}.k.{}", name, layer);
      if (!by_name.contains(k)) continue;
      const int64_t width = spec.layers[layer].attention.kv_width();
      RETURN_IF_ERROR(load(k, width, &out->kv[layer].k));
      RETURN_IF_ERROR(load(fmt::format("{}.v.{}", name, layer), width, &out->kv[layer].v));
    }
    return OkStatus();
  };
  try {
    SweepState s;
    s.key = key;
    s.wave = json.at("wave").get<int>();
    s.next_block = json.at("next_block").get<int>();
    s.has_next_reference = json.at("has_next_reference").get<bool>();
    s.stream_probe = json.at("stream_probe").get<std::vector<int>>();
    s.weight_error = json.at("weight_error").get<std::vector<std::vector<double>>>();
    s.expert_shares = json.at("expert_shares").get<std::vector<std::vector<double>>>();
    for (const Json& r : json.at("results")) {
      s.results.push_back({r.at(0).get<bool>(), r.at(1).get<double>(), r.at(2).get<double>()});
    }
    if (s.results.size() != state->results.size() || s.weight_error.size() != state->weight_error.size() ||
        s.expert_shares.size() != state->expert_shares.size()) {
      return DataLoss("{}: does not fit this job; delete the file to start again", path);
    }
    RETURN_IF_ERROR(load_all("reference", &s.reference));
    if (s.has_next_reference) RETURN_IF_ERROR(load_all("next_reference", &s.next_reference));
    for (size_t i = 0; i < s.stream_probe.size(); ++i) {
      s.streams.emplace_back();
      RETURN_IF_ERROR(load_all(fmt::format("stream.{}", i), &s.streams.back()));
    }
    *state = std::move(s);
  } catch (const nlohmann::json::exception&) {
    return DataLoss("{}: damaged state; delete the file to start again", path);
  }
  return OkStatus();
}

}  // namespace optiq
