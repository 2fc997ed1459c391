// qwen2_moe and qwen3_moe (transformers: models/qwen2_moe/modeling_qwen2_moe.py, models/qwen3_moe/modeling_qwen3_moe.py): qwen2 and
// qwen3 with experts in place of the MLP in some or all layers; qwen2_moe adds an expert that all tokens pass, behind a gate.
#include <algorithm>

#include "model/arch/families.h"

namespace optiq {
namespace {

StatusOr<DecoderSpec> AddExperts(ConfigFields* c, DecoderSpec spec, bool shared_expert, bool renormalize_by_default) {
  MoeSpec moe;
  // transformers 5 writes num_local_experts for qwen3_moe.
  const char* count = !c->Has("num_experts") && c->Has("num_local_experts") ? "num_local_experts" : "num_experts";
  moe.num_experts = c->Int(count, 1, limits::kExperts);
  moe.experts_per_token = c->Int("num_experts_per_tok", 1, limits::kExperts);
  moe.intermediate_size = c->Int("moe_intermediate_size", 1, limits::kWidth);
  moe.renormalize = c->Bool("norm_topk_prob", renormalize_by_default);
  if (shared_expert) moe.shared_expert_intermediate_size = c->Int("shared_expert_intermediate_size", 1, limits::kWidth);
  if (moe.experts_per_token > moe.num_experts) {
    c->Fail("num_experts_per_tok", fmt::format("is {}, more than num_experts {}", moe.experts_per_token, moe.num_experts));
  }
  // Every step-th layer is sparse, but those named.
  const int64_t step = c->Int("decoder_sparse_step", 1, limits::kLayers, 1);
  std::vector<int64_t> dense;
  if (c->Has("mlp_only_layers")) {
    const Json& list = c->json().at("mlp_only_layers");
    if (!list.is_array()) c->Fail("mlp_only_layers", "must be an array");
    for (const Json& v : list) {
      if (!v.is_number_integer() || v.get<int64_t>() < 0 || v.get<int64_t>() >= spec.num_layers()) {
        c->Fail("mlp_only_layers", "must hold layer numbers");
        break;
      }
      dense.push_back(v.get<int64_t>());
    }
  }
  RETURN_IF_ERROR(c->status());
  for (int i = 0; i < spec.num_layers(); ++i) {
    if ((i + 1) % step != 0 || std::find(dense.begin(), dense.end(), i) != dense.end()) continue;
    spec.layers[i].moe = moe;
    spec.layers[i].intermediate_size = 0;
  }
  return spec;
}

}  // namespace

StatusOr<DecoderSpec> ParseQwen2Moe(ConfigFields* c) {
  ASSIGN_OR_RETURN(DecoderSpec spec, ParseQwen2(c));
  return AddExperts(c, std::move(spec), /*shared_expert=*/true, /*renormalize_by_default=*/false);
}

StatusOr<DecoderSpec> ParseQwen3Moe(ConfigFields* c) {
  ASSIGN_OR_RETURN(DecoderSpec spec, ParseQwen3(c));
  return AddExperts(c, std::move(spec), /*shared_expert=*/false, /*renormalize_by_default=*/false);
}

}  // namespace optiq
