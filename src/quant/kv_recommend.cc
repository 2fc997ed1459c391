#include "quant/kv_recommend.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <new>

#include "io/atomic_file.h"
#include "kv/kv_config.h"
#include "quant/divergence.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace optiq {
namespace {

constexpr int64_t kPrefillChunk = 512, kScoreChunk = 8;  // scored like decoding: few rows at a time
constexpr int64_t kDefaultContext = 32768;
constexpr double kSideRunRange = 1.5;  // bits from the target: where allocation decides

// Logits of the last score_tokens of a sequence, [score_tokens, vocab].
Status ScoredLogits(Decoder* decoder, KvCache* cache, std::span<const int32_t> ids, int64_t score, std::vector<float>* out) {
  const int64_t prefix = static_cast<int64_t>(ids.size()) - score;
  std::vector<float> logits;
  for (int64_t done = 0; done < prefix; done += kPrefillChunk) {
    RETURN_IF_ERROR(decoder->Forward(ids.subspan(done, std::min(kPrefillChunk, prefix - done)), cache, false, &logits));
  }
  out->clear();
  for (int64_t done = 0; done < score; done += kScoreChunk) {
    RETURN_IF_ERROR(decoder->Forward(ids.subspan(prefix + done, std::min(kScoreChunk, score - done)), cache, true, &logits));
    out->insert(out->end(), logits.begin(), logits.end());
  }
  return OkStatus();
}

Json SideJson(const std::map<int, double>& kl) {
  Json json = Json::object();
  for (const auto& [bits, value] : kl) json[std::to_string(bits)] = value;
  return json;
}

// All layers alike where their heads allow; otherwise bf16.
KvPlan OneSidePlan(const KvGeometry& geometry, int group_size, int bits, KvFormat other, bool keys, bool values, int64_t dense_first = 0,
                   int64_t dense_recent = 0) {
  KvPlan plan = UniformKvPlan(geometry, other);
  for (size_t i = 0; i < geometry.size(); ++i) {
    const int group = geometry[i].heads > 0 ? KvGroupFor(geometry[i].head_dim, group_size) : 0;
    if (group == 0 || bits > 8) continue;
    plan.layers[i].dense_first = dense_first;
    plan.layers[i].dense_recent = dense_recent;
    if (keys) plan.layers[i].keys = {bits, group};
    if (values) plan.layers[i].values = {bits, group};
  }
  return plan;
}

// Factors by bits from real runs on the calibration text, for both sides.
Status MeasureFactors(Decoder* decoder, const TokenBatch& tokens, const KvRecommendOptions& options, int64_t context, ThreadPool* pool,
                      ProgressSink* progress, KvRecommendation* out) {
  const KvGeometry geometry = KvGeometryOf(decoder->spec());
  std::vector<NamedKvPlan> plans;
  std::vector<std::pair<bool, int>> what;
  for (bool keys : {true, false}) {
    for (int bits : options.candidate_bits) {
      if (bits > 8 || std::fabs(bits - options.target_bits) > kSideRunRange) continue;
      plans.push_back({fmt::format("{} {}-bit", keys ? "keys" : "values", bits),
                       OneSidePlan(geometry, options.group_size, bits, {.bits = 32}, keys, !keys, options.dense_first, options.dense_recent)});
      what.emplace_back(keys, bits);
    }
  }
  if (plans.empty()) return OkStatus();
  // Factors need two digits: products may be bf16.
  const Products products = decoder->products();
  decoder->set_products(Products::kBF16);
  const StatusOr<std::vector<KvCheck>> measured =
      EvaluateKvPlans(decoder, plans, tokens, options.score_tokens, context, pool, progress);
  decoder->set_products(products);
  RETURN_IF_ERROR(measured.status());
  const std::vector<KvCheck>& runs = *measured;
  for (size_t i = 0; i < runs.size(); ++i) {
    double sum = 0;
    for (const KvLayerSensitivity& l : out->sensitivity.layers) {
      const std::map<int, double>& kl = what[i].first ? l.keys : l.values;
      if (auto it = kl.find(what[i].second); it != kl.end()) sum += std::max(0.0, it->second);
    }
    (what[i].first ? out->key_factor : out->value_factor)[what[i].second] = sum > 0 ? std::max(0.0, runs[i].kl) / sum : 1.0;
  }
  return OkStatus();
}

// The probes times the factors of their side and width.
KvSensitivity Scaled(const KvRecommendation& r) {
  KvSensitivity out = r.sensitivity;
  for (KvLayerSensitivity& l : out.layers) {
    for (bool keys : {true, false}) {
      for (auto& [bits, kl] : keys ? l.keys : l.values) {
        const std::map<int, double>& factors = keys ? r.key_factor : r.value_factor;
        // Widths that were not run have the factor of the nearest that was.
        const std::pair<const int, double>* nearest = nullptr;
        for (const auto& f : factors) {
          if (nearest == nullptr || std::abs(f.first - bits) < std::abs(nearest->first - bits)) nearest = &f;
        }
        if (nearest != nullptr) kl *= nearest->second;
      }
    }
  }
  return out;
}

Json FactorJson(const std::map<int, double>& factors) {
  Json json = Json::object();
  for (const auto& [bits, f] : factors) json[std::to_string(bits)] = f;
  return json;
}

}  // namespace

StatusOr<std::vector<KvCheck>> EvaluateKvPlans(Decoder* decoder, const std::vector<NamedKvPlan>& plans, const TokenBatch& tokens,
                                               int64_t score_tokens, int64_t context, ThreadPool* pool, ProgressSink* progress) {
  const int64_t vocab = decoder->spec().vocab_size;
  const KvGeometry geometry = KvGeometryOf(decoder->spec());
  std::vector<KvCheck> checks(plans.size());
  std::vector<std::vector<double>> kl(plans.size());
  std::vector<int64_t> same(plans.size(), 0);
  int64_t done = 0;
  if (progress != nullptr) {
    progress->Begin("checking the cache by KL", tokens.sequences * static_cast<int64_t>(plans.size() + 1), "runs");
  }
  try {
    std::vector<float> reference, logits;
    for (int64_t s = 0; s < tokens.sequences; ++s) {
      const auto ids = std::span(tokens.ids).subspan(s * tokens.length, tokens.length);
      auto dense = decoder->MakeCache();
      RETURN_IF_ERROR(ScoredLogits(decoder, dense.get(), ids, score_tokens, &reference));
      dense.reset();
      if (progress != nullptr) progress->Update(++done, "f32");
      for (size_t p = 0; p < plans.size(); ++p) {
        ASSIGN_OR_RETURN(auto cache, decoder->MakeCache(plans[p].plan));
        RETURN_IF_ERROR(ScoredLogits(decoder, cache.get(), ids, score_tokens, &logits));
        std::vector<double> row_kl(score_tokens);
        std::vector<uint8_t> row_same(score_tokens);
        pool->ParallelFor(score_tokens, [&](int64_t r, int) {
          const float *a = reference.data() + r * vocab, *b = logits.data() + r * vocab;
          row_kl[r] = Divergence(a, b, vocab);
          row_same[r] = std::max_element(a, a + vocab) - a == std::max_element(b, b + vocab) - b;
        });
        kl[p].insert(kl[p].end(), row_kl.begin(), row_kl.end());
        for (uint8_t same_top : row_same) same[p] += same_top;
        if (progress != nullptr) progress->Update(++done, plans[p].name);
      }
    }
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("checking the KV cache: out of memory; use shorter sequences or fewer scored tokens");
  }
  if (progress != nullptr) progress->End();
  for (size_t p = 0; p < plans.size(); ++p) {
    double sum = 0, squares = 0;
    for (double x : kl[p]) sum += x;
    const double n = static_cast<double>(kl[p].size()), mean = sum / n;
    for (double x : kl[p]) squares += (x - mean) * (x - mean);
    checks[p] = {.name = plans[p].name, .bytes = KvPlanBytes(plans[p].plan, geometry, context), .kl = mean,
                 .kl_stderr = n > 1 ? std::sqrt(squares / (n - 1) / n) : 0, .top1 = static_cast<double>(same[p]) / n};
  }
  return checks;
}

StatusOr<KvRecommendation> RecommendKv(const Checkpoint& checkpoint, const KvRecommendOptions& options, ThreadPool* pool,
                                       ProgressSink* progress) {
  ASSIGN_OR_RETURN(auto decoder, Decoder::Load(checkpoint, pool));
  const DecoderSpec& spec = decoder->spec();
  const KvGeometry geometry = KvGeometryOf(spec);
  bool any = false;
  for (const KvLayerGeometry& g : geometry) any |= g.heads > 0 && KvGroupFor(g.head_dim, options.group_size) > 0;
  if (!any) return Unimplemented("{}: no layer has a cache that can be quantized (heads are not multiples of 32)", checkpoint.path());
  KvRecommendation out;
  ASSIGN_OR_RETURN(out.fingerprint, checkpoint.Fingerprint());
  const int64_t most = spec.max_position_embeddings;
  out.context = options.context > 0 ? options.context : most > 0 ? std::min(most, kDefaultContext) : kDefaultContext;
  if (most > 0 && options.calibration.length > most) {
    return InvalidArgument("sequences of {} tokens: the model's context is {}", options.calibration.length, most);
  }
  ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Load(checkpoint));
  ASSIGN_OR_RETURN(const auto chat_template, ChatTemplate::Load(checkpoint));
  const ChatTemplate* render = chat_template ? &*chat_template : nullptr;
  ASSIGN_OR_RETURN(const TokenBatch tokens, LoadCalibration(*tokenizer, render, options.calibration));

  // An impossible target shows before the measurement.
  double unused = 0;
  KvSensitivity nothing;
  nothing.layers.resize(geometry.size());
  for (KvLayerSensitivity& l : nothing.layers) {
    for (int bits : options.candidate_bits) l.keys[bits] = l.values[bits] = 0;
  }
  RETURN_IF_ERROR(AllocateKv(geometry, nothing, options, out.context, false, &unused).status());

  const KvSensitivityOptions measure{.bits = options.candidate_bits, .group_size = options.group_size,
                                     .dense_first = options.dense_first, .dense_recent = options.dense_recent,
                                     .score_tokens = options.score_tokens, .memory_bytes = options.memory_bytes};
  ASSIGN_OR_RETURN(out.sensitivity, MeasureKvSensitivity(decoder.get(), tokens, measure, pool, progress));
  if (options.calibrate) RETURN_IF_ERROR(MeasureFactors(decoder.get(), tokens, options, out.context, pool, progress, &out));
  const KvSensitivity costs = Scaled(out);
  ASSIGN_OR_RETURN(out.plan, AllocateKv(geometry, costs, options, out.context, false, &out.predicted_kl));
  // mlx-optiq's classes fail on 3, 5 and 6 bits at common head sizes: its file keeps to the others where they suffice.
  KvRecommendOptions stock = options;
  std::erase_if(stock.candidate_bits, [](int bits) { return bits == 3 || bits == 5 || bits == 6; });
  StatusOr<KvPlan> alike = InvalidArgument("no widths");
  if (!stock.candidate_bits.empty()) alike = AllocateKv(geometry, costs, stock, out.context, true, &unused);
  if (!alike.ok()) alike = AllocateKv(geometry, costs, options, out.context, true, &unused);
  ASSIGN_OR_RETURN(out.alike, std::move(alike));
  out.budget = KvBudget(geometry, options, out.context);
  if (options.check) {
    CalibrationOptions held = options.heldout;
    held.length = std::min(held.length, options.calibration.length);
    ASSIGN_OR_RETURN(const TokenBatch heldout, LoadCalibration(*tokenizer, render, held));
    std::vector<NamedKvPlan> plans = {{"plan", out.plan}, {"plan, keys and values alike", out.alike}};
    for (int bits : options.candidate_bits) {
      if (bits != 8 && std::fabs(bits - options.target_bits) > kSideRunRange) continue;
      plans.push_back({bits > 8 ? "bf16" : fmt::format("uniform {}-bit", bits),
                       OneSidePlan(geometry, options.group_size, bits, KvFormat{}, true, true)});
    }
    ASSIGN_OR_RETURN(out.checks, EvaluateKvPlans(decoder.get(), plans, heldout, options.score_tokens, out.context, pool, progress));
    out.check_tokens = heldout.sequences * options.score_tokens;
    // The best of what the budget allows is what ships; of the lists, the best with keys and values alike.
    size_t best = 0, best_alike = 1;
    for (size_t p = 1; p < plans.size(); ++p) {
      if (out.checks[p].bytes > out.budget) continue;
      if (out.checks[p].kl < out.checks[best].kl) best = p;
      if (out.checks[p].kl < out.checks[best_alike].kl) best_alike = p;
    }
    out.shipped = plans[best].name;
    out.plan = plans[best].plan;
    out.alike = plans[best_alike].plan;
  }
  out.bytes = KvPlanBytes(out.plan, geometry, out.context);
  out.alike_bytes = KvPlanBytes(out.alike, geometry, out.context);
  out.bf16_bytes = KvPlanBytes(UniformKvPlan(geometry, KvFormat{}), geometry, out.context);
  return out;
}

Status WriteKvConfigs(const std::string& directory, const KvGeometry& geometry, const KvRecommendation& r,
                      const KvRecommendOptions& options) {
  Json json = KvConfigToJson(r.plan, geometry);
  json["model"] = r.fingerprint;
  json["context"] = r.context;
  json["target_bits"] = options.target_bits;
  json["bytes"] = r.bytes;
  json["bf16_bytes"] = r.bf16_bytes;
  for (Json& layer : json["layers"]) {
    const KvLayerSensitivity& s = r.sensitivity.layers[layer["layer_idx"].get<size_t>()];
    layer["kl"] = {{"keys", SideJson(s.keys)}, {"values", SideJson(s.values)}};
  }
  Json checks = Json::array();
  for (const KvCheck& c : r.checks) {
    checks.push_back({{"name", c.name}, {"bytes", c.bytes}, {"kl", c.kl}, {"kl_stderr", c.kl_stderr}, {"same_top1", c.top1}});
  }
  json["measured"] = {{"tokens", r.sensitivity.tokens}, {"check_tokens", r.check_tokens}, {"shipped", r.shipped},
                      {"predicted_kl", r.predicted_kl}, {"key_factors", FactorJson(r.key_factor)},
                      {"value_factors", FactorJson(r.value_factor)}, {"checks", std::move(checks)}};
  RETURN_IF_ERROR(AtomicWriteFile(directory + "/" + kKvConfigName, KvConfigToList(r.alike, geometry).dump(1) + "\n"));
  return AtomicWriteFile(directory + "/" + kKvConfigExtendedName, json.dump(1) + "\n");
}

std::string KvAdvice(const KvRecommendation& r) {
  std::string text = fmt::format(
      "KV cache: optiq_kv_config.json (keys and values apart) takes {:.1f} % of a bf16 cache at {} tokens, kv_config.json (mlx-optiq's "
      "schema) {:.1f} %.",
      100.0 * r.bytes / r.bf16_bytes, r.context, 100.0 * r.alike_bytes / r.bf16_bytes);
  for (const KvCheck& c : r.checks) {
    if (c.name == r.shipped) text += fmt::format(" Its KL from an f32 cache is {:.2g} ({} held-out tokens after long texts", c.kl, r.check_tokens);
  }
  for (const KvCheck& c : r.checks) {
    if (c.name == "uniform 4-bit") text += fmt::format("; 4 bits everywhere: {:.2g}", c.kl);
  }
  if (!r.checks.empty()) text += ").";
  return text;
}

}  // namespace optiq
