#include "cli/kv_options.h"

#include <map>
#include <tuple>
#include <vector>

#include "base/file.h"
#include "cli/format.h"
#include "kv/kv_config.h"
#include "model/decoder.h"

namespace optiq {

void KvOptions::AddTo(CLI::App* app, const std::string& default_text) {
  CLI::Option* b = app->add_option("--kv-bits", bits, "Bits of cached keys and values: 2,3,4,5,6,8, 16 (bf16) or 32 (f32); " + default_text)
                       ->check(CLI::IsMember({2, 3, 4, 5, 6, 8, 16, 32}))
                       ->type_name("N");
  app->add_option("--kv-group-size", group_size, "Values that share a scale: 32, 64 (default) or 128")
      ->check(CLI::IsMember({32, 64, 128}))
      ->needs(b)
      ->type_name("N");
  app->add_option("--quantized-kv-start", start, "Keep the cache bf16 until it holds this many tokens (default 0)")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40))
      ->type_name("N");
  app->add_option("--kv-config", config, "Bits per layer from a kv_config.json; auto: the model directory's own")
      ->excludes(b)
      ->type_name("FILE");
}

StatusOr<KvPlan> KvOptions::ToPlan(const Checkpoint& checkpoint, const DecoderSpec& spec, int fallback) const {
  const KvGeometry geometry = KvGeometryOf(spec);
  KvPlan plan;
  if (!config.empty()) {
    std::string path = config;
    if (config == "auto") {
      path = checkpoint.path() + "/" + kKvConfigExtendedName;
      if (!FileExists(path)) path = checkpoint.path() + "/" + kKvConfigName;
      if (!FileExists(path)) {
        return NotFound("--kv-config auto: {} has no {}; make one with `optiq kv-cache`", checkpoint.path(), kKvConfigName);
      }
    }
    ASSIGN_OR_RETURN(const std::string fingerprint, checkpoint.Fingerprint());
    ASSIGN_OR_RETURN(plan, ReadKvConfig(path, geometry, fingerprint));
  } else {
    const KvFormat format{bits.value_or(fallback), group_size.value_or(64)};
    if (group_size && !format.quantized()) {
      return InvalidArgument("--kv-group-size: {} bits are not quantized and have no groups", format.bits);
    }
    plan = UniformKvPlan(geometry, format);
    if (const Status status = CheckKvPlan(plan, geometry); !status.ok()) {
      return Annotate(status, fmt::format("--kv-bits {}", format.bits));
    }
  }
  if (start) {
    bool quantized = false;
    for (size_t i = 0; i < geometry.size(); ++i) quantized |= geometry[i].heads > 0 && plan.layers[i].quantized();
    if (!quantized) return InvalidArgument("--quantized-kv-start: nothing is quantized; use it with --kv-bits or --kv-config");
    plan.quantized_start = *start;
  }
  return plan;
}

std::string KvFormatName(const KvFormat& f) {
  if (f.bits == 32) return "f32";
  if (f.bits == 16) return "bf16";
  return fmt::format("{}-bit g{}", f.bits, f.group_size);
}

namespace {

std::string KindName(const KvLayerGeometry& g) {
  return g.window > 0 ? fmt::format("sliding ({})", g.window) : "full";
}

std::string PlanName(const KvLayerPlan& p) {
  std::string text = p.keys == p.values ? KvFormatName(p.keys)
                                        : fmt::format("keys {}, values {}", KvFormatName(p.keys), KvFormatName(p.values));
  if (p.quantized() && p.dense_first > 0) text += fmt::format(", first {} bf16", p.dense_first);
  if (p.quantized() && p.dense_recent > 0) text += fmt::format(", last {} bf16", p.dense_recent);
  return text;
}

struct Kind {
  std::string kind, plan;
  int layers = 0;
  int64_t per_token = 0, bytes = 0;
};

std::vector<Kind> Kinds(const KvPlan& plan, const KvGeometry& geometry, int64_t context) {
  std::vector<Kind> kinds;
  for (size_t i = 0; i < geometry.size(); ++i) {
    if (geometry[i].heads == 0) continue;
    const std::string kind = KindName(geometry[i]), name = PlanName(plan.layers[i]);
    auto it = kinds.begin();
    while (it != kinds.end() && (it->kind != kind || it->plan != name)) ++it;
    if (it == kinds.end()) it = kinds.insert(it, {kind, name});
    ++it->layers;
    it->per_token += KvBytesPerToken(geometry[i], plan.layers[i]);
    it->bytes += KvLayerBytes(geometry[i], plan.layers[i], context);
  }
  return kinds;
}

int SharedLayers(const KvGeometry& geometry) {
  int n = 0;
  for (const KvLayerGeometry& g : geometry) n += g.donor >= 0;
  return n;
}

}  // namespace

std::vector<std::string> KvPlanText(const KvPlan& plan, const KvGeometry& geometry, int64_t context) {
  std::vector<std::string> lines;
  for (const Kind& k : Kinds(plan, geometry, context)) {
    lines.push_back(fmt::format("KV cache: {} {} layer{}: {}; {} bytes per token, {} at {} tokens", k.layers, k.kind, k.layers == 1 ? "" : "s",
                        k.plan, FormatInteger(k.per_token), FormatBytes(k.bytes), FormatInteger(context)));
  }
  const int64_t bytes = KvPlanBytes(plan, geometry, context), dense = KvPlanBytes(UniformKvPlan(geometry, KvFormat{}), geometry, context);
  std::string text = fmt::format("KV cache: {} at {} tokens", FormatBytes(bytes), FormatInteger(context));
  if (bytes != dense) text += fmt::format(", {:.1f} % of bf16's {}", 100.0 * bytes / dense, FormatBytes(dense));
  if (const int shared = SharedLayers(geometry); shared > 0) text += fmt::format("; {} layers read another's", shared);
  if (plan.quantized_start > 0) text += fmt::format("; bf16 until it holds {} tokens", FormatInteger(plan.quantized_start));
  lines.push_back(std::move(text));
  return lines;
}

Json KvPlanJson(const KvPlan& plan, const KvGeometry& geometry, int64_t context) {
  Json kinds = Json::array();
  for (const Kind& k : Kinds(plan, geometry, context)) {
    kinds.push_back({{"layers", k.layers}, {"kind", k.kind}, {"format", k.plan}, {"bytes_per_token", k.per_token}, {"bytes", k.bytes}});
  }
  return {{"kinds", std::move(kinds)}, {"context", context}, {"bytes", KvPlanBytes(plan, geometry, context)},
          {"bf16_bytes", KvPlanBytes(UniformKvPlan(geometry, KvFormat{}), geometry, context)},
          {"quantized_kv_start", plan.quantized_start}, {"shared_layers", SharedLayers(geometry)}};
}

}  // namespace optiq
