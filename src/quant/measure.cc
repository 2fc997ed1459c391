#include "quant/measure.h"

#include "base/file.h"
#include "base/sha256.h"
#include "io/atomic_file.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace optiq {
namespace {

std::vector<AffineFormat> Candidates(const ConvertOptions& o) {
  std::vector<AffineFormat> out;
  for (int bits : o.candidate_bits) {
    for (int group : o.group_sizes) out.push_back({bits, group});
  }
  return out;
}

// What a table depends on beside the model.
std::string JobKey(const TokenBatch& tokens, const ConvertOptions& o) {
  std::string key = fmt::format("table 2|{}|{}|{}|", tokens.sha256, o.encoder, o.probe_all);
  for (AffineFormat f : Candidates(o)) key += fmt::format("{}g{},", f.bits, f.group_size);
  return Sha256Hex(key + fmt::format("|{}", static_cast<int>(o.products)));
}

// A finished table of the same job on the same model.
std::optional<SensitivityTable> FinishedTable(const std::string& path, const std::string& job, const std::string& fingerprint) {
  if (!FileExists(path)) return std::nullopt;
  const StatusOr<Json> saved = ReadJsonFile(path, 1ull << 30);
  if (!saved.ok() || !saved->is_object() || saved->value("job", "") != job) return std::nullopt;
  StatusOr<SensitivityTable> table = SensitivityTable::FromJson(*saved, path);
  if (!table.ok() || table->fingerprint != fingerprint) return std::nullopt;
  return *std::move(table);
}

}  // namespace

StatusOr<FloatModel> OpenFloatModel(const std::string& path) {
  FloatModel in;
  ASSIGN_OR_RETURN(in.checkpoint, Checkpoint::Open(path));
  ASSIGN_OR_RETURN(in.spec, ParseDecoderSpec(in.checkpoint->config(), path + "/config.json"));
  return in;
}

StatusOr<TokenBatch> LoadTokens(const Checkpoint& checkpoint, const CalibrationOptions& options) {
  ASSIGN_OR_RETURN(std::shared_ptr<const Tokenizer> tokenizer, Tokenizer::Load(checkpoint));
  ASSIGN_OR_RETURN(std::optional<ChatTemplate> chat, ChatTemplate::Load(checkpoint));
  return LoadCalibration(*tokenizer, chat ? &*chat : nullptr, options);
}

StatusOr<Measurement> MeasureModel(const FloatModel& model, const ConvertOptions& o, const std::string& work_dir,
                                   ThreadPool* pool, ProgressSink* progress) {
  const Checkpoint& checkpoint = *model.checkpoint;
  Measurement m;
  ASSIGN_OR_RETURN(m.tokens, LoadTokens(checkpoint, o.calibration));
  const std::string job = JobKey(m.tokens, o), done_path = work_dir + "/sensitivity.json";
  ASSIGN_OR_RETURN(const std::string fingerprint, checkpoint.Fingerprint());
  if (!work_dir.empty()) {
    if (std::optional<SensitivityTable> table = FinishedTable(done_path, job, fingerprint)) {
      m.table = *std::move(table);
      m.stats.resumed = true;
      return m;
    }
  }
  ASSIGN_OR_RETURN(m.moments, MeasureInputMoments(checkpoint, model.spec, m.tokens, work_dir, pool, progress));
  const SweepOptions sweep{.candidates = Candidates(o), .encoder = o.encoder, .probe_all = o.probe_all,
                           .products = o.products, .memory_bytes = o.memory_bytes, .work_dir = work_dir,
                           .progress = progress};
  ASSIGN_OR_RETURN(m.table, MeasureSensitivity(checkpoint, model.spec, m.tokens, *m.moments, sweep, pool, &m.stats));
  m.table.base_model = o.model;
  if (!work_dir.empty()) {
    Json json = m.table.ToJson();
    json["job"] = job;
    RETURN_IF_ERROR(AtomicWriteFile(done_path, json.dump() + "\n"));
  }
  return m;
}

}  // namespace optiq
