#include "quant/write_model.h"

#include <cstring>
#include <set>

#include "io/atomic_file.h"
#include "io/model_writer.h"
#include "model/block_layout.h"
#include "model/weights.h"
#include "quant/encode_module.h"
#include "tensor/affine.h"

namespace optiq {
namespace {

// Weights that are encoded at a time: a table of per-layer embeddings has billions.
constexpr int64_t kSliceWeights = 32 << 20;

const PlanEntry* EntryOf(const Plan& plan, const std::string& path) {
  auto it = plan.entries.find(path);
  return it == plan.entries.end() || it->second.dense ? nullptr : &it->second;
}

// All tensors of the output in the order they are written: per module, then its layer's small ones.
StatusOr<std::vector<TensorSpec>> OutputTensors(const Checkpoint& checkpoint, const DecoderSpec& spec,
                                                const Plan& plan, DType dtype) {
  std::vector<TensorSpec> out;
  for (const DecoderSpec::Module& m : spec.QuantizableModules()) {
    const auto with = [&](int64_t last) {
      std::vector<int64_t> shape = m.shape();
      shape.back() = last;
      return shape;
    };
    const PlanEntry* entry = EntryOf(plan, m.path);
    if (entry == nullptr) {
      out.push_back({m.path + ".weight", dtype, m.shape()});
      continue;
    }
    const AffineFormat f = entry->format;
    ASSIGN_OR_RETURN(const std::vector<WeightMatrix> parts, LoadModule(checkpoint, spec, m));
    const DType scale_dtype = ScaleDType(parts[0]);
    out.push_back({m.path + ".weight", DType::kU32, with(m.in * f.bits / 32)});
    out.push_back({m.path + ".scales", scale_dtype, with(m.in / f.group_size)});
    out.push_back({m.path + ".biases", scale_dtype, with(m.in / f.group_size)});
  }
  for (const SmallTensor& t : SmallTensors(spec)) {
    RETURN_IF_ERROR(checkpoint.Require(t.name).status());
    out.push_back({t.name, dtype, t.shape});
  }
  return out;
}

// The values of a tensor in another float dtype; a copy of the bytes when it has it already.
std::vector<std::byte> Converted(const StoredTensor& t, DType dtype) {
  if (t.is_plain() && t.dtype == dtype) return {t.bytes.begin(), t.bytes.end()};
  std::vector<float> values(t.elements());
  ReadRows(t, 0, t.rows(), values.data());
  std::vector<std::byte> out(values.size() * DTypeBlockBytes(dtype));
  for (size_t i = 0; i < values.size(); ++i) StoreFloat(dtype, out.data(), static_cast<int64_t>(i), values[i]);
  return out;
}

// mlx-lm reads Gemma 4's rope_parameters as transformers writes them.
bool IsGemma4(const Json& config) {
  auto type = config.find("model_type");
  return type != config.end() && type->is_string() && type->get<std::string>().starts_with("gemma4");
}

void SpellForMlx(Json* config) {
  Json& c = *config;
  // transformers 5 spells these anew; stock mlx-lm reads the new spelling in some families only.
  if (c.contains("dtype") && !c.contains("torch_dtype")) c["torch_dtype"] = c["dtype"];
  if (c.contains("rope_parameters") && c["rope_parameters"].is_object() && !IsGemma4(c)) {
    const Json parameters = c["rope_parameters"];
    const bool by_type = parameters.contains("full_attention") && parameters["full_attention"].is_object();
    const Json full = by_type ? parameters["full_attention"] : parameters;
    if (!c.contains("rope_theta") && full.contains("rope_theta")) c["rope_theta"] = full["rope_theta"];
    const std::string type = full.value("rope_type", "default");
    if (type != "default" && (!c.contains("rope_scaling") || c["rope_scaling"].is_null())) c["rope_scaling"] = full;
    if (by_type && !c.contains("rope_local_base_freq") && parameters.contains("sliding_attention") &&
        parameters["sliding_attention"].contains("rope_theta")) {
      c["rope_local_base_freq"] = parameters["sliding_attention"]["rope_theta"];
    }
  }
  if (c.contains("_sliding_window_pattern") && !c.contains("sliding_window_pattern")) {
    c["sliding_window_pattern"] = c["_sliding_window_pattern"];
  }
}

// Where mlx-lm and transformers have different defaults for a field that is missing, it is written out; and mlx-lm takes the outer
// vocab_size of a multimodal config.
void SpellTextConfig(const DecoderSpec& spec, Json* config) {
  const bool wrapped = config->contains("text_config") && (*config)["text_config"].is_object();
  Json& text = wrapped ? (*config)["text_config"] : *config;
  const auto fill = [](Json* object, const char* key, const Json& value) {
    if (!object->contains(key)) (*object)[key] = value;
  };
  if (wrapped) {
    (*config)["vocab_size"] = spec.vocab_size;
    fill(&text, "vocab_size", spec.vocab_size);
    fill(&text, "tie_word_embeddings", spec.tie_word_embeddings);
    SpellForMlx(&text);
  }
  if (spec.model_type == "qwen3_moe") {
    if (text.contains("num_local_experts")) fill(&text, "num_experts", text["num_local_experts"]);
    fill(&text, "decoder_sparse_step", 1);
    fill(&text, "mlp_only_layers", Json::array());
    fill(&text, "norm_topk_prob", false);
    fill(&text, "head_dim", spec.layers[0].attention.head_dim);
  }
  if (!spec.model_type.starts_with("gemma4")) return;
  fill(&text, "num_kv_shared_layers", 0);
  fill(&text, "use_double_wide_mlp", false);
  fill(&text, "hidden_size_per_layer_input", spec.per_layer_input_size);
  fill(&text, "vocab_size_per_layer_input", spec.vocab_size_per_layer_input);
  fill(&text, "final_logit_softcapping", nullptr);
}

}  // namespace

StatusOr<DType> ModelDType(const Checkpoint& checkpoint, const DecoderSpec& spec) {
  ASSIGN_OR_RETURN(WeightMatrix embedding, LoadEmbedding(checkpoint, spec));
  return ScaleDType(embedding);
}

Status CheckPlan(const DecoderSpec& spec, const Plan& plan) {
  std::map<std::string, int64_t> inputs;
  for (const DecoderSpec::Module& m : spec.QuantizableModules()) inputs[m.path] = m.in;
  for (const auto& [path, entry] : plan.entries) {
    auto it = inputs.find(path);
    if (it == inputs.end()) return InvalidArgument("plan: '{}' is not a weight of this model; see `optiq inspect`", path);
    if (entry.dense) continue;
    if (!IsValidAffineFormat(entry.format) || it->second % entry.format.group_size != 0) {
      return InvalidArgument("plan: '{}' has {} inputs, which {} bits in groups of {} cannot hold", path, it->second,
                             entry.format.bits, entry.format.group_size);
    }
  }
  return OkStatus();
}

StatusOr<PlanSize> SizeOfPlan(const Checkpoint& checkpoint, const DecoderSpec& spec, const Plan& plan) {
  ASSIGN_OR_RETURN(const DType dtype, ModelDType(checkpoint, spec));
  ASSIGN_OR_RETURN(std::vector<TensorSpec> tensors, OutputTensors(checkpoint, spec, plan, dtype));
  std::set<std::string> small_names;
  for (const SmallTensor& t : SmallTensors(spec)) small_names.insert(t.name);
  PlanSize size;
  for (const TensorSpec& t : tensors) {
    const std::optional<uint64_t> bytes = TensorBytes(t.dtype, t.shape);
    if (!bytes) return InvalidArgument("{}: tensor '{}' is too large", checkpoint.path(), t.name);
    if (small_names.contains(t.name)) {
      size.other_bytes += *bytes;
      size.other_params += *bytes / DTypeBlockBytes(t.dtype);
    } else {
      size.quantizable_bytes += *bytes;
    }
  }
  ASSIGN_OR_RETURN(const uint64_t files, ModelFileBytes(tensors));
  size.header_bytes = files - size.quantizable_bytes - size.other_bytes;
  for (const DecoderSpec::Module& m : spec.QuantizableModules()) size.quantizable_params += m.params();
  return size;
}

Json OutputConfig(const Json& source, const DecoderSpec& spec, const Plan& plan, DType dtype) {
  Json config = source;
  for (const char* key : {"_name_or_path", "vision_config", "audio_config", "quantization", "quantization_config"}) config.erase(key);
  SpellForMlx(&config);
  SpellTextConfig(spec, &config);
  config["torch_dtype"] = dtype == DType::kBF16 ? "bfloat16" : dtype == DType::kF16 ? "float16" : "float32";
  Json q = {{"group_size", plan.default_format.group_size}, {"bits", plan.default_format.bits}, {"mode", "affine"}};
  // An entry for every module: older mlx-lm takes the top-level numbers where there is none.
  for (const DecoderSpec::Module& m : spec.QuantizableModules()) {
    const PlanEntry* entry = EntryOf(plan, m.path);
    if (entry == nullptr) {
      q[m.path] = false;
    } else {
      q[m.path] = {{"group_size", entry->format.group_size}, {"bits", entry->format.bits}};
    }
  }
  config["quantization"] = q;
  config["quantization_config"] = std::move(q);
  return config;
}

Status WriteModel(const Checkpoint& checkpoint, const DecoderSpec& spec, const Plan& plan, const InputMoments& moments,
                  const std::string& dir, ThreadPool* pool, ProgressSink* progress, std::vector<std::string>* dropped) {
  RETURN_IF_ERROR(CheckPlan(spec, plan));
  ASSIGN_OR_RETURN(const DType dtype, ModelDType(checkpoint, spec));
  ASSIGN_OR_RETURN(std::vector<TensorSpec> tensors, OutputTensors(checkpoint, spec, plan, dtype));
  ASSIGN_OR_RETURN(const PlanSize size, SizeOfPlan(checkpoint, spec, plan));
  ASSIGN_OR_RETURN(std::unique_ptr<ModelWriter> writer,
                   ModelWriter::Create(dir, tensors, {.total_parameters = size.quantizable_params + size.other_params}));
  if (progress != nullptr) progress->Begin("writing", static_cast<int64_t>(writer->total_bytes()), "B");
  int64_t done = 0;
  const auto append = [&](const std::string& name, std::span<const std::byte> bytes) -> Status {
    RETURN_IF_ERROR(writer->Append(name, bytes));
    done += static_cast<int64_t>(bytes.size());
    if (progress != nullptr) progress->Update(done, name);
    return OkStatus();
  };
  std::set<std::string> used;
  for (const DecoderSpec::Module& m : spec.QuantizableModules()) {
    ASSIGN_OR_RETURN(const std::vector<WeightMatrix> parts, LoadModule(checkpoint, spec, m));
    const PlanEntry* entry = EntryOf(plan, m.path);
    for (const WeightMatrix& w : parts) used.insert(w.weight.name);
    RETURN_IF_ERROR(ForEachSlice(parts, m.experts > 0, kSliceWeights, [&](const WeightMatrix& rows, int expert) -> Status {
      if (entry != nullptr) {
        ASSIGN_OR_RETURN(AffineMatrix encoded, EncodeMatrix(rows, entry->format, entry->encoder,
                                                            moments.OfPart(m.path, expert, m.in), pool));
        RETURN_IF_ERROR(append(m.path + ".weight", std::as_bytes(std::span(encoded.packed))));
        RETURN_IF_ERROR(append(m.path + ".scales", encoded.scales));
        RETURN_IF_ERROR(append(m.path + ".biases", encoded.biases));
      } else {
        RETURN_IF_ERROR(append(m.path + ".weight", Converted(rows.weight, dtype)));
      }
      checkpoint.Release(rows.weight);
      return OkStatus();
    }));
  }
  for (const SmallTensor& small : SmallTensors(spec)) {
    ASSIGN_OR_RETURN(const StoredTensor* t, checkpoint.Require(small.name));
    used.insert(small.name);
    RETURN_IF_ERROR(append(small.name, Converted(*t, dtype)));
  }
  RETURN_IF_ERROR(writer->Finish());
  if (progress != nullptr) progress->End();
  for (const StoredTensor& t : checkpoint.tensors()) {
    if (!used.contains(t.name)) dropped->push_back(t.name);
  }
  return AtomicWriteFile(dir + "/config.json", OutputConfig(checkpoint.config(), spec, plan, dtype).dump(4) + "\n");
}

Status VerifyModel(const Checkpoint& checkpoint, const DecoderSpec& spec, const Plan& plan, const InputMoments& moments,
                   const Checkpoint& written, ThreadPool* pool, ProgressSink* progress) {
  const std::vector<DecoderSpec::Module> modules = spec.QuantizableModules();
  if (progress != nullptr) progress->Begin("verifying", static_cast<int64_t>(modules.size()), "tensor");
  ASSIGN_OR_RETURN(const DType dtype, ModelDType(checkpoint, spec));
  const auto equal = [](std::span<const std::byte> a, std::span<const std::byte> b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size()) == 0;
  };
  const auto differs = [&](const std::string& name) {
    return DataLoss("{}: tensor '{}' does not hold what was written; is the disk failing?", written.path(), name);
  };
  for (size_t i = 0; i < modules.size(); ++i) {
    const DecoderSpec::Module& m = modules[i];
    ASSIGN_OR_RETURN(const std::vector<WeightMatrix> source, LoadModule(checkpoint, spec, m));
    ASSIGN_OR_RETURN(const std::vector<WeightMatrix> got, LoadModule(written, spec, m));
    const PlanEntry* entry = EntryOf(plan, m.path);
    if (got[0].affine.has_value() != (entry != nullptr) || (entry != nullptr && !(*got[0].affine == entry->format))) {
      return Internal("{}: '{}' was written in another format than the plan's; please report this", written.path(), m.path);
    }
    size_t part = 0;
    int64_t row = 0;
    RETURN_IF_ERROR(ForEachSlice(source, m.experts > 0, kSliceWeights, [&](const WeightMatrix& rows, int expert) -> Status {
      const WeightMatrix have = RowSlice(got[part], row, row + rows.rows);
      row += rows.rows;
      if (row == got[part].rows) {
        ++part;
        row = 0;
      }
      if (entry == nullptr) {
        if (!equal(have.weight.bytes, Converted(rows.weight, dtype))) return differs(have.weight.name);
      } else {
        ASSIGN_OR_RETURN(AffineMatrix encoded, EncodeMatrix(rows, entry->format, entry->encoder,
                                                            moments.OfPart(m.path, expert, m.in), pool));
        if (!equal(have.weight.bytes, std::as_bytes(std::span(encoded.packed)))) return differs(have.weight.name);
        if (!equal(have.scales.bytes, encoded.scales)) return differs(have.scales.name);
        if (!equal(have.biases.bytes, encoded.biases)) return differs(have.biases.name);
      }
      checkpoint.Release(rows.weight);
      written.Release(have.weight);
      return OkStatus();
    }));
    if (progress != nullptr) progress->Update(static_cast<int64_t>(i) + 1, m.path);
  }
  for (const SmallTensor& small : SmallTensors(spec)) {
    ASSIGN_OR_RETURN(const StoredTensor* source, checkpoint.Require(small.name));
    ASSIGN_OR_RETURN(const StoredTensor* got, written.Require(small.name));
    if (!equal(got->bytes, Converted(*source, dtype))) return differs(small.name);
  }
  if (progress != nullptr) progress->End();
  return OkStatus();
}

}  // namespace optiq
