// optiq inspect: what is in a model directory, a GGUF file or a single safetensors file. Reads headers, not weights.
#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/format.h"
#include "cli/table.h"
#include "cli/terminal.h"
#include "io/checkpoint.h"
#include "io/mapped_file.h"
#include "io/safetensors.h"
#include "model/decoder_spec.h"
#include "model/experts.h"
#include "model/weights.h"

namespace optiq {
namespace {

struct InspectOptions {
  std::string model;
  bool tensors = false;
};

struct TensorRow {
  const StoredTensor* tensor = nullptr;
  std::optional<AffineFormat> format;  // of the module, for its weight, scales and biases
  bool packed = false;                 // the codes of a quantized weight
  uint64_t params = 0;                 // 0 for scales and biases
  std::string kind;
};

struct Total {
  uint64_t tensors = 0, params = 0, bytes = 0;
  void Add(const TensorRow& row) {
    ++tensors;
    params += row.params;
    bytes += row.tensor->bytes.size();
  }
  double bits_per_weight() const { return params > 0 ? 8.0 * bytes / params : 0; }
};

struct Report {
  std::string path, layout;
  uint64_t file_bytes = 0;
  std::optional<DecoderSpec> spec;
  std::string architecture;  // empty: no config.json
  std::vector<TensorRow> rows;
  std::map<std::string, Total> kinds;
  Total all;
  Total quantizable;  // over spec's quantizable modules; tensors counts modules
  std::string experts;  // of a mixture of experts: how many, and how they are stored
};

std::string_view LayoutName(CheckpointLayout layout) {
  switch (layout) {
    case CheckpointLayout::kHuggingFace:
      return "huggingface";
    case CheckpointLayout::kMlx:
      return "mlx";
    case CheckpointLayout::kGguf:
      return "gguf";
  }
  return "unknown";
}

// The module path of a name that ends in `suffix`, else empty.
std::string ModuleOf(const std::string& name, std::string_view suffix) {
  return name.ends_with(suffix) ? name.substr(0, name.size() - suffix.size()) : "";
}

void AddRow(Report* report, TensorRow row) {
  const StoredTensor& t = *row.tensor;
  if (row.format) {
    row.kind = fmt::format("affine {}-bit, group {}", row.format->bits, row.format->group_size);
    row.params = row.packed ? static_cast<uint64_t>(t.elements()) * 32 / row.format->bits : 0;
  } else {
    row.kind = fmt::format("{} {}", DTypeName(t.dtype), t.rank() >= 2 ? "matrices" : "vectors");
    row.params = static_cast<uint64_t>(t.elements());
  }
  report->all.Add(row);
  report->kinds[row.kind].Add(row);
  report->rows.push_back(std::move(row));
}

StatusOr<Report> ReadModel(const Checkpoint& checkpoint) {
  Report report;
  report.path = checkpoint.path();
  report.layout = LayoutName(checkpoint.layout());
  report.file_bytes = checkpoint.file_bytes();
  for (const StoredTensor& tensor : checkpoint.tensors()) {
    TensorRow row;
    row.tensor = &tensor;
    for (std::string_view suffix : {".weight", ".scales", ".biases"}) {
      const std::string module = ModuleOf(tensor.name, suffix);
      if (module.empty()) continue;
      ASSIGN_OR_RETURN(row.format, checkpoint.QuantizationOf(module));
      row.packed = suffix == ".weight";
    }
    AddRow(&report, std::move(row));
  }
  return report;
}

// The architecture, every tensor it needs, and the size of its weights. kUnimplemented leaves the report usable.
Status ReadArchitecture(const Checkpoint& checkpoint, Report* report) {
  const std::string what = report->layout == "gguf" ? report->path : report->path + "/config.json";
  ASSIGN_OR_RETURN(const auto model_type, GetString(checkpoint.config(), "model_type", what));
  report->architecture = model_type.value_or("");
  ASSIGN_OR_RETURN(report->spec, ParseDecoderSpec(checkpoint.config(), what));
  report->architecture = report->spec->model_type;
  for (const LayerSpec& l : report->spec->layers) {
    if (l.moe.num_experts == 0 || !report->experts.empty()) continue;
    ASSIGN_OR_RETURN(const ExpertLayout layout, FindExpertLayout(checkpoint, l));
    report->experts = fmt::format("{} of {} per token, {}", l.moe.experts_per_token, l.moe.num_experts, ExpertLayoutName(layout));
  }
  RETURN_IF_ERROR(LoadDecoderWeights(checkpoint, *report->spec).status());
  for (const DecoderSpec::Module& module : report->spec->QuantizableModules()) {
    ++report->quantizable.tensors;
    report->quantizable.params += module.params();
    ASSIGN_OR_RETURN(const std::vector<WeightMatrix> parts, LoadModule(checkpoint, *report->spec, module));
    for (const WeightMatrix& w : parts) report->quantizable.bytes += w.bytes();
  }
  return OkStatus();
}

Json TotalJson(const Total& total) {
  return {{"tensors", total.tensors},
          {"params", total.params},
          {"bytes", total.bytes},
          {"bits_per_weight", total.bits_per_weight()}};
}

Json ToJson(const Report& report, bool tensors) {
  Json json = {{"path", report.path},
               {"layout", report.layout},
               {"file_bytes", report.file_bytes},
               {"totals", TotalJson(report.all)},
               {"kinds", Json::object()}};
  for (const auto& [kind, total] : report.kinds) json["kinds"][kind] = TotalJson(total);
  if (!report.architecture.empty()) {
    json["architecture"] = report.architecture;
    json["supported"] = report.spec.has_value();
  }
  if (report.spec) {
    json["num_layers"] = report.spec->layers.size();
    json["hidden_size"] = report.spec->hidden_size;
    json["vocab_size"] = report.spec->vocab_size;
    json["max_position_embeddings"] = report.spec->max_position_embeddings;
    json["tie_word_embeddings"] = report.spec->tie_word_embeddings;
    if (!report.experts.empty()) json["experts"] = report.experts;
    json["quantizable"] = {{"modules", report.quantizable.tensors},
                           {"params", report.quantizable.params},
                           {"bytes", report.quantizable.bytes},
                           {"bits_per_weight", report.quantizable.bits_per_weight()}};
  }
  if (!tensors) return json;
  json["tensors"] = Json::array();
  for (const TensorRow& row : report.rows) {
    Json t = {{"name", row.tensor->name},   {"dtype", DTypeName(row.tensor->dtype)},
              {"shape", row.tensor->shape}, {"bytes", row.tensor->bytes.size()},
              {"params", row.params},       {"bits", nullptr},
              {"group_size", nullptr}};
    if (row.format) {
      t["bits"] = row.format->bits;
      t["group_size"] = row.format->group_size;
    }
    json["tensors"].push_back(std::move(t));
  }
  return json;
}

std::string ToText(const Report& report, bool tensors) {
  std::string out;
  const auto field = [&](std::string_view name, const std::string& value) {
    out += fmt::format("{:<14}{}\n", name, Printable(value));
  };
  field("path", report.path);
  field("layout", report.layout);
  if (!report.architecture.empty())
    field("architecture", report.architecture + (report.spec ? "" : " (not supported)"));
  if (report.spec) {
    const DecoderSpec& spec = *report.spec;
    field("layers", fmt::format("{}", spec.layers.size()));
    field("hidden size", fmt::format("{}", spec.hidden_size));
    field("vocabulary", FormatInteger(spec.vocab_size));
    field("context", FormatInteger(spec.max_position_embeddings));
    field("embeddings", spec.tie_word_embeddings ? "tied" : "not tied");
  }
  if (!report.experts.empty()) field("experts", report.experts);
  field("parameters", fmt::format("{} ({})", FormatCount(report.all.params), FormatInteger(report.all.params)));
  if (report.spec) {
    field("bits/weight", fmt::format("{:.3f} over {} quantizable modules ({} of {})",
                                     report.quantizable.bits_per_weight(), report.quantizable.tensors,
                                     FormatBytes(report.quantizable.bytes), FormatBytes(report.all.bytes)));
  }
  field("files", FormatBytes(report.file_bytes));

  Table kinds({{"kind"},
               {"tensors", Align::kRight},
               {"params", Align::kRight},
               {"bytes", Align::kRight},
               {"bits/weight", Align::kRight}});
  const auto add = [&](const std::string& name, const Total& t) {
    kinds.AddRow({name, FormatInteger(t.tensors), FormatInteger(t.params), FormatInteger(t.bytes),
                  t.params > 0 ? fmt::format("{:.3f}", t.bits_per_weight()) : ""});
  };
  for (const auto& [kind, total] : report.kinds) add(kind, total);
  kinds.AddRule();
  add("all", report.all);
  out += "\n" + kinds.Render();
  if (!tensors) return out;

  Table table(
      {{"tensor"}, {"shape"}, {"dtype"}, {"bits", Align::kRight}, {"group", Align::kRight}, {"bytes", Align::kRight}});
  for (const TensorRow& row : report.rows) {
    table.AddRow({Printable(row.tensor->name), row.tensor->ShapeString(), std::string(DTypeName(row.tensor->dtype)),
                  row.format ? fmt::format("{}", row.format->bits) : "",
                  row.format ? fmt::format("{}", row.format->group_size) : "",
                  FormatInteger(row.tensor->bytes.size())});
  }
  return out + "\n" + table.Render();
}

Status Write(const Report& report, const InspectOptions& options, const CommandContext& context) {
  if (context.json) return WriteJson(ToJson(report, options.tensors));
  return WriteStdout(ToText(report, options.tensors));
}

Status InspectSafetensors(const InspectOptions& options, const CommandContext& context) {
  ASSIGN_OR_RETURN(const auto file, MappedFile::Open(options.model));
  ASSIGN_OR_RETURN(std::vector<StoredTensor> tensors, ParseSafetensors(file->bytes(), options.model, nullptr));
  std::sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  Report report;
  report.path = options.model;
  report.layout = "safetensors";
  report.file_bytes = file->bytes().size();
  for (const StoredTensor& tensor : tensors) {
    TensorRow row;
    row.tensor = &tensor;
    AddRow(&report, std::move(row));
  }
  return Write(report, options, context);
}

Status RunInspect(const InspectOptions& options, const CommandContext& context) {
  if (options.model.ends_with(".safetensors")) return InspectSafetensors(options, context);
  ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> checkpoint, Checkpoint::Open(options.model));
  ASSIGN_OR_RETURN(Report report, ReadModel(*checkpoint));
  const Status architecture = ReadArchitecture(*checkpoint, &report);
  // What an unknown architecture holds can be shown; a damaged model is an error and nothing else.
  if (!architecture.ok() && !absl::IsUnimplemented(architecture)) return architecture;
  RETURN_IF_ERROR(Write(report, options, context));
  return architecture;
}

}  // namespace

void RegisterInspect(CLI::App& app, CommandContext* context) {
  CLI::App* sub =
      AddCommand(app, "inspect",
                 "Shows what is in a model: architecture, tensors, bits, bytes. Checks that every tensor the\n"
                 "architecture needs is there with the right shape. Exit code 8: not a supported architecture.",
                 "optiq inspect MODEL\n"
                 "optiq inspect model.gguf --tensors\n"
                 "optiq inspect MODEL --json | jq .quantizable.bits_per_weight");
  auto o = std::make_shared<InspectOptions>();
  sub->add_option("MODEL", o->model, "A model directory, a .gguf file or a single .safetensors file")->required();
  sub->add_flag("--tensors", o->tensors, "List every tensor");
  sub->callback([=] { context->run = [=] { return RunInspect(*o, *context); }; });
}

}  // namespace optiq
