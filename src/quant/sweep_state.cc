#include "quant/sweep_state.h"

#include <cstring>

#include "base/file.h"
#include "base/json.h"
#include "io/mapped_file.h"
#include "io/safetensors.h"
#include "io/safetensors_writer.h"

namespace optiq {

Status SaveSweepState(const SweepState& state, int64_t tokens, int64_t hidden_size, const std::string& path) {
  const size_t bytes = static_cast<size_t>(tokens * hidden_size) * sizeof(float);
  std::vector<TensorData> tensors;
  const auto add = [&](const std::string& name, const AlignedBuffer<float>& values) {
    tensors.push_back({.spec = {.name = name, .dtype = DType::kF32, .shape = {tokens, hidden_size}},
                       .bytes = {reinterpret_cast<const std::byte*>(values.data()), bytes}});
  };
  add("reference", state.reference);
  if (state.has_next_reference) add("next_reference", state.next_reference);
  for (size_t i = 0; i < state.streams.size(); ++i) add(fmt::format("stream.{}", i), state.streams[i]);
  Json results = Json::array();
  for (const ProbeResult& r : state.results) results.push_back({r.done, r.kl, r.kl_stderr});
  const Json json = {{"wave", state.wave},
                     {"next_block", state.next_block},
                     {"has_next_reference", state.has_next_reference},
                     {"stream_probe", state.stream_probe},
                     {"results", results},
                     {"weight_error", state.weight_error}};
  return WriteSafetensors(path, tensors, {{"key", state.key}, {"state", json.dump()}});
}

Status LoadSweepState(const std::string& path, const std::string& key, int64_t tokens, int64_t hidden_size,
                      SweepState* state) {
  if (!FileExists(path)) return NotFound("{}: no saved state", path);
  ASSIGN_OR_RETURN(std::unique_ptr<MappedFile> file, MappedFile::Open(path));
  std::map<std::string, std::string> metadata;
  ASSIGN_OR_RETURN(std::vector<StoredTensor> tensors, ParseSafetensors(file->bytes(), path, &metadata));
  if (metadata["key"] != key) return NotFound("{}: saved by another job", path);
  ASSIGN_OR_RETURN(Json json, ParseJson(metadata["state"], path));
  const auto load = [&](const std::string& name, AlignedBuffer<float>* out) -> Status {
    for (const StoredTensor& t : tensors) {
      if (t.name != name) continue;
      if (t.dtype != DType::kF32 || t.shape != std::vector<int64_t>{tokens, hidden_size}) break;
      std::memcpy(out->Grow(tokens * hidden_size), t.bytes.data(), t.bytes.size());
      return OkStatus();
    }
    return DataLoss("{}: tensor '{}' is missing; delete the file to start again", path, name);
  };
  try {
    SweepState s;
    s.key = key;
    s.wave = json.at("wave").get<int>();
    s.next_block = json.at("next_block").get<int>();
    s.has_next_reference = json.at("has_next_reference").get<bool>();
    s.stream_probe = json.at("stream_probe").get<std::vector<int>>();
    s.weight_error = json.at("weight_error").get<std::vector<std::vector<double>>>();
    for (const Json& r : json.at("results")) {
      s.results.push_back({r.at(0).get<bool>(), r.at(1).get<double>(), r.at(2).get<double>()});
    }
    if (s.results.size() != state->results.size() || s.weight_error.size() != state->weight_error.size()) {
      return DataLoss("{}: does not fit this job; delete the file to start again", path);
    }
    RETURN_IF_ERROR(load("reference", &s.reference));
    if (s.has_next_reference) RETURN_IF_ERROR(load("next_reference", &s.next_reference));
    for (size_t i = 0; i < s.stream_probe.size(); ++i) {
      AlignedBuffer<float> buffer;
      RETURN_IF_ERROR(load(fmt::format("stream.{}", i), &buffer));
      s.streams.push_back(std::move(buffer));
    }
    *state = std::move(s);
  } catch (const nlohmann::json::exception&) {
    return DataLoss("{}: damaged state; delete the file to start again", path);
  }
  return OkStatus();
}

}  // namespace optiq
