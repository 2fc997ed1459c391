#include "quant/convert.h"

#include <algorithm>
#include <cmath>

#include "base/clock.h"
#include "base/file.h"
#include "base/sha256.h"
#include "io/atomic_dir.h"
#include "io/atomic_file.h"
#include "quant/allocation.h"
#include "quant/encode_module.h"
#include "quant/evaluate.h"
#include "quant/expert_stats.h"
#include "quant/measure.h"
#include "quant/metadata.h"
#include "quant/model_card.h"
#include "quant/report_html.h"
#include "quant/towers.h"
#include "quant/write_model.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace optiq {
namespace {

std::string FormatName(AffineFormat f) { return fmt::format("uniform {}-bit g{}", f.bits, f.group_size); }

class Conversion {
 public:
  Conversion(const ConvertOptions& options, ThreadPool* pool, ProgressSink* progress)
      : o_(options), pool_(pool), progress_(progress), s_(result_.summary) {}

  StatusOr<ConvertResult> Run() {
    ASSIGN_OR_RETURN(in_, OpenFloatModel(o_.model));
    if (!o_.dry_run) {
      RETURN_IF_ERROR(CheckOutputPath(o_.model, o_.output));
      ASSIGN_OR_RETURN(dir_, AtomicDir::Create(o_.output, o_.overwrite));
      if (dir_->resumed() && !o_.resume) RETURN_IF_ERROR(dir_->Clear());
      ASSIGN_OR_RETURN(work_, dir_->WorkPath());
    }
    RETURN_IF_ERROR(Describe());
    if (o_.keep_towers && !HasTowers(*in_.checkpoint, in_.spec)) {
      return InvalidArgument("{}: --keep-towers: the model has no image or sound towers", o_.model);
    }
    RETURN_IF_ERROR(MakePlan());
    if (!o_.save_plan.empty()) RETURN_IF_ERROR(AtomicWriteFile(o_.save_plan, s_.plan.ToJson().dump(2) + "\n"));
    RETURN_IF_ERROR(FillSizes());
    if (o_.dry_run) return std::move(result_);
    RETURN_IF_ERROR(LoadMoments());
    RETURN_IF_ERROR(Write());
    if (o_.evaluate) RETURN_IF_ERROR(Compare());
    if (o_.kv_config) RETURN_IF_ERROR(RecommendCache());
    RETURN_IF_ERROR(WriteRecords());
    RETURN_IF_ERROR(dir_->Commit());
    return std::move(result_);
  }

 private:
  template <typename Fn>
  Status Timed(const char* stage, Fn fn) {
    const double start = SteadySeconds();
    Status status = fn();
    s_.stages.push_back({stage, SteadySeconds() - start});
    return status;
  }

  Status Describe() {
    const Checkpoint& c = *in_.checkpoint;
    s_.base_model = o_.model;
    s_.date = o_.date;
    s_.optiq_version = o_.version;
    s_.command_line = o_.command_line;
    s_.architecture = in_.spec.model_type;
    ASSIGN_OR_RETURN(const DType dtype, ModelDType(c, in_.spec));
    s_.dtype = std::string(DTypeName(dtype));
    s_.source_bytes = c.file_bytes();
    return OkStatus();
  }

  // ---- measure and decide

  Status MakePlan() {
    if (!o_.plan_file.empty()) {
      ASSIGN_OR_RETURN(Json json, ReadJsonFile(o_.plan_file));
      ASSIGN_OR_RETURN(s_.plan, Plan::FromJson(json, o_.plan_file));
      s_.plan.origin = "file " + o_.plan_file;
      return CheckPlan(in_.spec, s_.plan);
    }
    RETURN_IF_ERROR(Timed("sensitivity", [&] { return Measure(); }));
    if (std::string warning = UnreachedExpertsWarning(s_.table); !warning.empty()) s_.warnings.push_back(std::move(warning));
    return Timed("allocation", [&]() -> Status {
      AllocationRequest request{.overrides = o_.overrides};
      ASSIGN_OR_RETURN(request.budget_bytes, Budget());
      ASSIGN_OR_RETURN(Allocation allocation, Allocate(s_.table, request));
      s_.plan = PlanFromAllocation(s_.table, allocation);
      // A budget for whole files: headers differ by a few digits from plan to plan.
      for (int i = 0; file_budget_ > 0 && i < 8; ++i) {
        ASSIGN_OR_RETURN(const PlanSize size, SizeOfPlan(*in_.checkpoint, in_.spec, s_.plan));
        if (size.file_bytes() <= file_budget_) break;
        // From what this plan uses: taking it off the budget alone may change nothing.
        request.budget_bytes = std::min(request.budget_bytes, size.quantizable_bytes);
        request.budget_bytes -= std::min(request.budget_bytes, size.file_bytes() - file_budget_);
        ASSIGN_OR_RETURN(allocation, Allocate(s_.table, request));
        s_.plan = PlanFromAllocation(s_.table, allocation);
      }
      s_.plan.base_model = o_.model;
      s_.plan.default_format = {*std::min_element(o_.candidate_bits.begin(), o_.candidate_bits.end()), o_.group_sizes[0]};
      s_.predicted_kl = allocation.predicted_kl;
      s_.lp_bound = allocation.lp_bound;
      s_.optimal = allocation.optimal;
      return OkStatus();
    });
  }

  Status Measure() {
    if (!o_.sensitivity_file.empty()) {
      ASSIGN_OR_RETURN(Json json, ReadJsonFile(o_.sensitivity_file, 1ull << 30));
      ASSIGN_OR_RETURN(s_.table, SensitivityTable::FromJson(json, o_.sensitivity_file));
      ASSIGN_OR_RETURN(const std::string fingerprint, in_.checkpoint->Fingerprint());
      if (!s_.table.fingerprint.empty() && s_.table.fingerprint != fingerprint) {
        return FailedPrecondition("{}: measured on another model than {}", o_.sensitivity_file, o_.model);
      }
      return CheckTable();
    }
    ASSIGN_OR_RETURN(Measurement m, MeasureModel(in_, o_, work_, pool_, progress_));
    NoteCalibration(m.tokens);
    s_.table = std::move(m.table);
    result_.sweep = m.stats;
    moments_ = std::move(m.moments);
    return OkStatus();
  }

  void NoteCalibration(const TokenBatch& tokens) {
    s_.calibration_domains.clear();
    for (const DomainTokens& d : tokens.domains) {
      if (d.tokens > 0) s_.calibration_domains.emplace_back(d.domain, d.tokens);
    }
    s_.calibration_tokens = tokens.sequences * tokens.length;
    if (tokens.refused_conversations > 0) {
      s_.warnings.push_back(fmt::format("the chat template refused {} calibration conversations, which were read as plain paragraphs: {}",
                                        tokens.refused_conversations, tokens.refusal));
    }
  }

  // Encoders that weigh errors by the inputs need the calibration text also when plan or sensitivities come from a file.
  Status LoadMoments() {
    bool needed = false;
    for (const auto& [path, entry] : s_.plan.entries) needed |= !entry.dense && entry.encoder != "rtn";
    if (moments_.has_value()) return OkStatus();
    if (!needed) {
      moments_.emplace();
      return OkStatus();
    }
    ASSIGN_OR_RETURN(const TokenBatch tokens, LoadTokens(*in_.checkpoint, o_.calibration));
    if (s_.calibration_tokens == 0) NoteCalibration(tokens);
    ASSIGN_OR_RETURN(moments_, MeasureInputMoments(*in_.checkpoint, in_.spec, tokens, work_, pool_, progress_));
    return OkStatus();
  }

  Status CheckTable() {
    const std::vector<DecoderSpec::Module> modules = in_.spec.QuantizableModules();
    bool same = modules.size() == s_.table.items.size();
    for (size_t i = 0; same && i < modules.size(); ++i) {
      same = modules[i].path == s_.table.items[i].path &&
             s_.table.items[i].shape == modules[i].shape();
    }
    if (!same) return FailedPrecondition("{}: does not list the weights of {}", o_.sensitivity_file, o_.model);
    return OkStatus();
  }

  StatusOr<uint64_t> Budget() {
    if (o_.target_bpw > 0) {
      s_.target_bpw = o_.target_bpw;
      return BudgetForBpw(s_.table, o_.target_bpw);
    }
    uint64_t files = o_.target_bytes;
    if (!o_.match_bytes.empty()) {
      ASSIGN_OR_RETURN(std::unique_ptr<Checkpoint> other, Checkpoint::Open(o_.match_bytes));
      files = other->file_bytes();
    }
    // What is not the allocator's: norms, biases, headers.
    Plan all;
    for (const SensitivityItem& item : s_.table.items) {
      if (!item.options.empty()) all.entries[item.path] = {.format = item.options[0].format};
    }
    ASSIGN_OR_RETURN(const PlanSize size, SizeOfPlan(*in_.checkpoint, in_.spec, all));
    const uint64_t fixed = size.other_bytes + size.header_bytes;
    if (files <= fixed) {
      return InvalidArgument("a budget of {} bytes is below the {} bytes of norms and headers alone", files, fixed);
    }
    s_.target_bpw = 8.0 * (files - fixed) / size.quantizable_params;
    file_budget_ = files;
    return files - fixed;
  }

  Status FillSizes() {
    ASSIGN_OR_RETURN(const PlanSize size, SizeOfPlan(*in_.checkpoint, in_.spec, s_.plan));
    s_.achieved_bpw = size.bpw();
    s_.quantized_bytes = size.quantizable_bytes;
    s_.quantized_params = size.quantizable_params;
    s_.total_params = size.quantizable_params + size.other_params;
    s_.file_bytes = size.file_bytes();
    return OkStatus();
  }

  // ---- write

  Status Write() {
    RETURN_IF_ERROR(Timed("writing", [&]() -> Status {
      std::vector<std::string> dropped;
      RETURN_IF_ERROR(WriteModel(*in_.checkpoint, in_.spec, s_.plan, *moments_, dir_->path(), pool_, progress_, &dropped));
      if (o_.keep_towers) RETURN_IF_ERROR(WriteTowers(*in_.checkpoint, in_.spec, dir_->path()));
      for (const std::string& name : in_.checkpoint->TextFiles()) {
        ASSIGN_OR_RETURN(std::string text, in_.checkpoint->ReadTextFile(name));
        RETURN_IF_ERROR(dir_->WriteFile(name, text));
      }
      NoteDropped(dropped);
      return OkStatus();
    }));
    return Timed("verifying", [&]() -> Status {
      ASSIGN_OR_RETURN(artifact_, Checkpoint::Open(dir_->path()));
      RETURN_IF_ERROR(VerifyModel(*in_.checkpoint, in_.spec, s_.plan, *moments_, *artifact_, pool_, progress_));
      s_.file_bytes = artifact_->file_bytes();
      return OkStatus();
    });
  }

  void NoteDropped(const std::vector<std::string>& dropped) {
    std::vector<std::string> unexpected;
    int64_t towers = 0;
    for (const std::string& name : dropped) {
      const bool known = name.ends_with("rotary_emb.inv_freq") ||
                         (in_.spec.tie_word_embeddings && name == in_.spec.head_path + ".weight") ||
                         IsSharedKvTensor(in_.spec, name);
      if (IsTowerTensor(in_.spec, name)) {
        ++towers;
      } else if (!known) {
        unexpected.push_back(name);
      }
    }
    if (towers > 0 && !o_.keep_towers) {
      s_.warnings.push_back(fmt::format("left out {} tensors of image and sound towers: the result is a text model (--keep-towers keeps them)",
                                        towers));
    }
    if (unexpected.empty()) return;
    s_.warnings.push_back(fmt::format("left out {} tensors that the {} architecture does not use, the first: {}",
                                      unexpected.size(), in_.spec.model_type, unexpected[0]));
  }

  // ---- compare

  struct Uniform {
    AffineFormat format;
    Plan plan;
    PlanSize size;
    bool fits = false;
  };

  // Uniform 4-bit at the default group size, the strongest uniform formats within the plan's bytes, and those asked for.
  StatusOr<std::vector<Uniform>> Uniforms() {
    std::vector<AffineFormat> formats = {{4, o_.group_sizes[0]}};
    const auto add = [&](AffineFormat f) {
      if (std::find(formats.begin(), formats.end(), f) == formats.end()) formats.push_back(f);
    };
    int found = 0;
    for (int bits : {8, 6, 5, 4, 3, 2}) {
      for (int group : {32, 64, 128}) {
        const Plan plan = UniformPlan(in_.spec, {bits, group});
        if (plan.entries.empty()) continue;
        ASSIGN_OR_RETURN(const PlanSize size, SizeOfPlan(*in_.checkpoint, in_.spec, plan));
        if (size.quantizable_bytes > s_.quantized_bytes) continue;
        if (found < 2) add({bits, group});
        ++found;
        break;  // smaller groups are better at the same width
      }
    }
    for (AffineFormat f : o_.compare) add(f);
    std::vector<Uniform> out;
    for (AffineFormat f : formats) {
      Uniform u{.format = f, .plan = UniformPlan(in_.spec, f)};
      if (u.plan.entries.empty()) continue;
      ASSIGN_OR_RETURN(u.size, SizeOfPlan(*in_.checkpoint, in_.spec, u.plan));
      u.fits = u.size.quantizable_bytes <= s_.quantized_bytes;
      out.push_back(std::move(u));
    }
    return out;
  }

  // The written model's cache. A model whose cache cannot be quantized gets a warning and no file.
  Status RecommendCache() {
    return Timed("KV cache", [&]() -> Status {
      ASSIGN_OR_RETURN(const auto written, Checkpoint::Open(dir_->path()));
      KvRecommendOptions kv = o_.kv;
      kv.memory_bytes = o_.memory_bytes;
      if (in_.spec.max_position_embeddings > 0) {
        kv.calibration.length = std::min(kv.calibration.length, in_.spec.max_position_embeddings);
        kv.score_tokens = std::min(kv.score_tokens, kv.calibration.length / 4);
        // Of a short context they would be a large part.
        kv.dense_recent = std::min(kv.dense_recent, in_.spec.max_position_embeddings / 64);
        kv.dense_first = std::min(kv.dense_first, in_.spec.max_position_embeddings / 128);
      }
      if (kv.score_tokens < 1) return OkStatus();
      const StatusOr<KvRecommendation> r = RecommendKv(*written, kv, pool_, progress_);
      if (absl::IsUnimplemented(r.status())) {
        s_.warnings.push_back("no kv_config.json: " + Message(r.status()));
        return OkStatus();
      }
      RETURN_IF_ERROR(r.status());
      s_.kv_advice = KvAdvice(*r);
      return WriteKvConfigs(dir_->path(), KvGeometryOf(in_.spec), *r, kv);
    });
  }

  Status Compare() {
    return Timed("held-out evaluation", [&]() -> Status {
      CalibrationOptions heldout = o_.heldout;
      ASSIGN_OR_RETURN(TokenBatch tokens, LoadTokens(*in_.checkpoint, heldout));
      ASSIGN_OR_RETURN(std::vector<Uniform> uniforms, Uniforms());
      std::vector<EvalVariant> variants;
      variants.push_back({.name = fmt::format("optiq {:.2f} bpw", s_.achieved_bpw), .artifact = artifact_.get(),
                          .bpw = s_.achieved_bpw, .bytes = s_.quantized_bytes});
      for (const Uniform& u : uniforms) {
        variants.push_back({.name = FormatName(u.format), .plan = &u.plan, .bpw = u.size.bpw(),
                            .bytes = u.size.quantizable_bytes});
      }
      ASSIGN_OR_RETURN(Evaluation evaluation,
                       EvaluateVariants(*in_.checkpoint, in_.spec, tokens, variants, pool_, progress_));
      s_.evaluation = evaluation.rows;
      s_.reference_perplexity = evaluation.reference_perplexity;
      s_.heldout_tokens = evaluation.tokens;
      s_.heldout_text = o_.heldout.file.empty() ? "optiq's own held-out text" : o_.heldout.file;
      s_.evaluation[0].shipped = true;
      return Gate(uniforms);
    });
  }

  // A plan that a uniform format beats at no more bytes is not shipped, unless forced.
  Status Gate(const std::vector<Uniform>& uniforms) {
    int best = -1;
    for (size_t i = 0; i < uniforms.size(); ++i) {
      if (!uniforms[i].fits) continue;
      const double kl = s_.evaluation[i + 1].kl_mean;
      if (kl < s_.evaluation[0].kl_mean && (best < 0 || kl < s_.evaluation[best + 1].kl_mean)) best = static_cast<int>(i);
    }
    if (best < 0) return OkStatus();
    const Uniform& u = uniforms[best];
    const std::string finding =
        fmt::format("{} has a lower held-out KL ({:.4g}) than the plan ({:.4g}) at no more bytes", FormatName(u.format),
                    s_.evaluation[best + 1].kl_mean, s_.evaluation[0].kl_mean);
    if (o_.force_plan) {
      s_.warnings.push_back(finding + "; the plan was written all the same (--force-plan)");
      return OkStatus();
    }
    s_.warnings.push_back(finding + "; the uniform format was written (--force-plan keeps the plan)");
    s_.evaluation[0].shipped = false;
    s_.evaluation[best + 1].shipped = true;
    s_.plan = u.plan;
    s_.plan.base_model = o_.model;
    s_.predicted_kl = s_.lp_bound = 0;
    s_.optimal = false;
    artifact_.reset();
    RETURN_IF_ERROR(FillSizes());
    return Write();
  }

  // ---- records

  Status WriteRecords() {
    RETURN_IF_ERROR(dir_->WriteFile("optiq/plan.json", s_.plan.ToJson().dump(2) + "\n"));
    if (!s_.table.items.empty()) {
      RETURN_IF_ERROR(dir_->WriteFile("optiq/sensitivity.json", s_.table.ToJson().dump(1) + "\n"));
    }
    RETURN_IF_ERROR(dir_->WriteFile("optiq/metadata.json", OptiqMetadata(s_).dump(1) + "\n"));
    RETURN_IF_ERROR(dir_->WriteFile("report.html", ReportHtml(s_)));
    return dir_->WriteFile("README.md", ModelCard(s_));
  }

  const ConvertOptions& o_;
  ThreadPool* pool_;
  ProgressSink* progress_;
  ConvertResult result_;
  ConvertSummary& s_;
  FloatModel in_;
  std::unique_ptr<AtomicDir> dir_;
  std::string work_;
  std::optional<InputMoments> moments_;  // measured with the sensitivities, or for a plan that came from a file
  uint64_t file_budget_ = 0;  // of all safetensors files; 0: the budget is for the weights alone
  std::unique_ptr<Checkpoint> artifact_;
};

}  // namespace

Plan UniformPlan(const DecoderSpec& spec, AffineFormat format) {
  Plan plan;
  plan.default_format = format;
  plan.origin = FormatName(format);
  for (const DecoderSpec::Module& m : spec.QuantizableModules()) {
    const std::vector<AffineFormat> formats = CandidatesFor(m, {format});
    if (!formats.empty()) plan.entries[m.path] = {.format = formats[0]};
  }
  return plan;
}

StatusOr<ConvertResult> Convert(const ConvertOptions& options, ThreadPool* pool, ProgressSink* progress) {
  return Conversion(options, pool, progress).Run();
}

}  // namespace optiq
