#include "kv/kv_file.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "base/checked.h"
#include "base/limits.h"
#include "base/sha256.h"
#include "io/mapped_file.h"
#include "io/safetensors.h"
#include "io/safetensors_writer.h"
#include "kv/kv_config.h"
#include "tensor/affine.h"

namespace optiq {
namespace {

constexpr char kFormatName[] = "optiq-kv-cache";
constexpr int kVersion = 1;

const char* SideName(KvSide side) { return side == KvSide::kKeys ? "keys" : "values"; }

// The rows of one store in a file: which store of the entry, under which names.
struct Part {
  std::string prefix;                // "layers.3." or "layers.3.first."
  const KvStore* store = nullptr;
  std::vector<int64_t> slots;        // in the order of positions
};

std::vector<Part> PartsOf(const KvEntry& entry, int layer) {
  std::vector<Part> parts;
  for (const KvEntry::Range& range : entry.Held()) {
    for (int64_t p = range.begin; p < range.end; ++p) {
      const KvEntry::Location at = entry.Locate(p);
      auto it = std::find_if(parts.begin(), parts.end(), [&](const Part& x) { return x.store == at.store; });
      if (it == parts.end()) {
        const char* name = at.part == KvEntry::Part::kMain ? "" : at.part == KvEntry::Part::kFirst ? "first." : "recent.";
        it = parts.insert(it, {fmt::format("layers.{}.{}", layer, name), at.store, {}});
      }
      it->slots.push_back(at.slot);
    }
  }
  return parts;
}

// The tensors of one side of a part and how a row goes in and out of them.
struct SideTensors {
  KvPageLayout layout;
  std::vector<TensorSpec> specs;  // codes, then scales and biases

  SideTensors(const Part& part, KvSide side) : layout(part.store->layout(side)) {
    const int64_t rows = static_cast<int64_t>(part.slots.size()), d = layout.head_dim;
    const std::string name = part.prefix + SideName(side);
    if (!layout.format.quantized()) {
      specs.push_back({name, layout.format.bits == 32 ? DType::kF32 : DType::kBF16, {rows, layout.heads, d}});
      return;
    }
    specs.push_back({name, DType::kU32, {rows, layout.heads, d * layout.format.bits / 32}});
    specs.push_back({name + ".scales", layout.format.scale_dtype, {rows, layout.heads, layout.groups()}});
    specs.push_back({name + ".biases", layout.format.scale_dtype, {rows, layout.heads, layout.groups()}});
  }
  // Bytes of one row and head in tensor i.
  int64_t row_bytes(size_t i) const { return specs[i].shape[2] * static_cast<int64_t>(DTypeBlockBytes(specs[i].dtype)); }
};

void PackRow(const KvPageLayout& l, const uint32_t* codes, std::byte* out) {
  if (l.format.bits == 32) {
    std::memcpy(out, codes, l.head_dim * 4);
  } else if (l.format.bits == 16) {
    for (int64_t e = 0; e < l.head_dim; ++e) {
      const uint16_t h = static_cast<uint16_t>(codes[e]);
      std::memcpy(out + 2 * e, &h, 2);
    }
  } else {
    std::vector<uint8_t> bytes(codes, codes + l.head_dim);
    std::vector<uint32_t> words(l.head_dim * l.format.bits / 32, 0);
    PackCodes(bytes.data(), l.head_dim, l.format.bits, words.data());
    std::memcpy(out, words.data(), words.size() * 4);
  }
}

void UnpackRow(const KvPageLayout& l, const std::byte* in, uint32_t* codes) {
  std::fill(codes, codes + l.dim(), 0u);
  if (l.format.bits == 32) {
    std::memcpy(codes, in, l.head_dim * 4);
  } else if (l.format.bits == 16) {
    for (int64_t e = 0; e < l.head_dim; ++e) {
      uint16_t h;
      std::memcpy(&h, in + 2 * e, 2);
      codes[e] = h;
    }
  } else {
    std::vector<uint32_t> words(l.head_dim * l.format.bits / 32);
    std::memcpy(words.data(), in, words.size() * 4);
    std::vector<uint8_t> bytes(l.head_dim);
    UnpackCodes(words.data(), l.head_dim, l.format.bits, bytes.data());
    std::copy(bytes.begin(), bytes.end(), codes);
  }
}

// Calls row(slot, head, offset of the row and head in each tensor, in rows of it) for all.
template <typename Fn>
void ForRows(const Part& part, int64_t heads, Fn fn) {
  for (size_t r = 0; r < part.slots.size(); ++r) {
    for (int64_t h = 0; h < heads; ++h) fn(part.slots[r], h, static_cast<int64_t>(r) * heads + h);
  }
}

using Blobs = std::vector<std::vector<std::byte>>;

void ReadSide(const Part& part, KvSide side, const SideTensors& t, Blobs* blobs) {
  const KvPageLayout& l = t.layout;
  const size_t first = blobs->size();
  for (size_t i = 0; i < t.specs.size(); ++i) blobs->emplace_back(part.slots.size() * l.heads * t.row_bytes(i));
  std::vector<uint32_t> codes(l.dim());
  const size_t width = DTypeBlockBytes(l.format.scale_dtype);
  ForRows(part, l.heads, [&](int64_t slot, int64_t h, int64_t at) {
    const std::byte* page = part.store->part(side, slot);
    GetKvCodes(l, side, page, h, part.store->row(slot), codes.data());
    PackRow(l, codes.data(), (*blobs)[first].data() + at * t.row_bytes(0));
    for (int64_t g = 0; g < l.groups(); ++g) {
      for (int which : {0, 1}) {
        std::memcpy((*blobs)[first + 1 + which].data() + at * t.row_bytes(1) + g * width,
                    KvParameter(l, page, h, part.store->row(slot), g, which), width);
      }
    }
  });
}

void WriteSide(const Part& part, KvSide side, const SideTensors& t, const std::vector<const StoredTensor*>& tensors) {
  const KvPageLayout& l = t.layout;
  KvStore* store = const_cast<KvStore*>(part.store);  // of the cache being loaded
  std::vector<uint32_t> codes(l.dim());
  const size_t width = DTypeBlockBytes(l.format.scale_dtype);
  ForRows(part, l.heads, [&](int64_t slot, int64_t h, int64_t at) {
    std::byte* page = store->part(side, slot);
    UnpackRow(l, tensors[0]->bytes.data() + at * t.row_bytes(0), codes.data());
    PutKvCodes(l, side, page, h, store->row(slot), codes.data());
    for (int64_t g = 0; g < l.groups(); ++g) {
      for (int which : {0, 1}) {
        std::memcpy(KvParameter(l, page, h, store->row(slot), g, which),
                    tensors[1 + which]->bytes.data() + at * t.row_bytes(1) + g * width, width);
      }
    }
  });
}

std::string Digest(const std::vector<std::pair<std::string, std::span<const std::byte>>>& tensors, const std::string& head) {
  Sha256 sha;
  sha.Update(head);
  for (const auto& [name, bytes] : tensors) {
    sha.Update(fmt::format("\n{} {}\n", name, bytes.size()));
    sha.Update(bytes);
  }
  return sha.HexDigest();
}

// f32 caches are the exact path's: kv_config.json has no word for them.
Json PlanJson(const KvCache& cache) {
  Json layers = Json::array();
  for (size_t i = 0; i < cache.geometry().size(); ++i) {
    const KvEntry* e = cache.entry(static_cast<int>(i));
    if (e == nullptr) continue;
    const KvLayerPlan& p = e->plan();
    const auto side = [](const KvFormat& f) {
      return Json{{"bits", f.bits}, {"group_size", f.group_size}, {"f32_scales", f.scale_dtype == DType::kF32}};
    };
    layers.push_back({{"layer_idx", i}, {"keys", side(p.keys)}, {"values", side(p.values)}, {"dense_first", p.dense_first},
                      {"dense_recent", p.dense_recent}, {"high", e->high()}, {"dense_from", e->dense_from()}});
  }
  return layers;
}

StatusOr<KvFormat> FormatFrom(const Json& json, const char* side, const std::string& what) {
  auto it = json.find(side);
  if (it == json.end() || !it->is_object()) return DataLoss("{}: '{}' is missing", what, side);
  KvFormat f;
  ASSIGN_OR_RETURN(const int64_t bits, RequireInt(*it, "bits", 2, 32, what));
  ASSIGN_OR_RETURN(const int64_t group, RequireInt(*it, "group_size", 32, 128, what));
  ASSIGN_OR_RETURN(const auto f32, GetBool(*it, "f32_scales", what));
  f.bits = static_cast<int>(bits);
  f.group_size = static_cast<int>(group);
  f.scale_dtype = f32.value_or(false) ? DType::kF32 : DType::kBF16;
  return f;
}

class Loader {
 public:
  Loader(const std::string& path, const KvGeometry& geometry, int64_t vocab_size, const std::string& identity)
      : path_(path), geometry_(geometry), vocab_size_(vocab_size), identity_(identity) {}

  StatusOr<SavedKvCache> Load() {
    ASSIGN_OR_RETURN(map_, MappedFile::Open(path_));
    std::map<std::string, std::string> metadata;
    ASSIGN_OR_RETURN(tensors_, ParseSafetensors(map_->bytes(), path_, &metadata));
    if (metadata["format"] != kFormatName) return DataLoss("{}: this is not a saved cache of optiq", path_);
    if (metadata["version"] != std::to_string(kVersion)) {
      return Unimplemented("{}: version '{}' of saved caches; this program reads version {}", path_,
                           PrintableName(metadata["version"]), kVersion);
    }
    if (metadata["model"] != identity_) {
      return InvalidArgument("{}: the cache was saved with another model (or another version of its weights)", path_);
    }
    RETURN_IF_ERROR(CheckDigest(metadata));
    SavedKvCache out;
    ASSIGN_OR_RETURN(const StoredTensor* ids, Find("ids", DType::kI32, {-1}));
    const int64_t length = ids->shape[0];
    if (length < 1 || length > limits::kContext) return DataLoss("{}: it holds {} tokens", path_, length);
    out.ids.resize(length);
    std::memcpy(out.ids.data(), ids->bytes.data(), length * 4);
    for (int32_t id : out.ids) {
      if (id < 0 || id >= vocab_size_) return DataLoss("{}: token id {} is outside the vocabulary of {}", path_, id, vocab_size_);
    }
    ASSIGN_OR_RETURN(const Json layers, ParseJson(metadata["layers"], path_ + ": layers"));
    ASSIGN_OR_RETURN(KvPlan plan, ParsePlan(layers));
    if (const Status status = CheckKvPlan(plan, geometry_); !status.ok()) return DataLoss("{}: {}", path_, Message(status));
    out.cache = std::make_unique<KvCache>(geometry_, plan);
    for (const Json& layer : layers) RETURN_IF_ERROR(LoadLayer(layer, length, plan, out.cache.get()));
    for (size_t i = 0; i < geometry_.size(); ++i) {
      if (geometry_[i].state == 0) continue;
      ASSIGN_OR_RETURN(const StoredTensor* state, Find(fmt::format("layers.{}.state", i), DType::kF32, {geometry_[i].state}));
      std::memcpy(out.cache->State(static_cast<int>(i)), state->bytes.data(), state->bytes.size());
    }
    if (used_ != tensors_.size()) return DataLoss("{}: it has {} tensors, {} were expected", path_, tensors_.size(), used_);
    out.cache->SetLength(length);
    return out;
  }

 private:
  Status CheckDigest(std::map<std::string, std::string>& metadata) {
    std::vector<std::pair<std::string, std::span<const std::byte>>> data;
    for (const StoredTensor& t : tensors_) data.emplace_back(t.name, t.bytes);
    std::sort(data.begin(), data.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    if (Digest(data, metadata["layers"]) != metadata["sha256"]) {
      return DataLoss("{}: the checksum does not match; the file is damaged or was altered", path_);
    }
    return OkStatus();
  }

  StatusOr<const StoredTensor*> Find(const std::string& name, DType dtype, const std::vector<int64_t>& shape) {
    for (const StoredTensor& t : tensors_) {
      if (t.name != name) continue;
      bool same = t.dtype == dtype && t.shape.size() == shape.size();
      for (size_t i = 0; same && i < shape.size(); ++i) same = shape[i] < 0 || t.shape[i] == shape[i];
      if (!same) return DataLoss("{}: tensor '{}' has another type or shape than the cache's plan says", path_, name);
      ++used_;
      return &t;
    }
    return DataLoss("{}: tensor '{}' is missing", path_, name);
  }

  StatusOr<KvPlan> ParsePlan(const Json& layers) {
    KvPlan plan;
    plan.layers.resize(geometry_.size());
    if (!layers.is_array()) return DataLoss("{}: 'layers' must be a list", path_);
    std::vector<bool> seen(geometry_.size(), false);
    for (const Json& item : layers) {
      if (!item.is_object()) return DataLoss("{}: 'layers' must hold objects", path_);
      const std::string what = path_ + ": layers";
      ASSIGN_OR_RETURN(const int64_t i, RequireInt(item, "layer_idx", 0, static_cast<int64_t>(geometry_.size()) - 1, what));
      if (geometry_[i].heads == 0 || seen[i]) return DataLoss("{}: layer {} keeps no keys, or is there twice", what, i);
      seen[i] = true;
      KvLayerPlan& p = plan.layers[i];
      ASSIGN_OR_RETURN(p.keys, FormatFrom(item, "keys", what));
      ASSIGN_OR_RETURN(p.values, FormatFrom(item, "values", what));
      ASSIGN_OR_RETURN(p.dense_first, RequireInt(item, "dense_first", 0, 1 << 20, what));
      ASSIGN_OR_RETURN(p.dense_recent, RequireInt(item, "dense_recent", 0, 1 << 20, what));
    }
    for (size_t i = 0; i < geometry_.size(); ++i) {
      if (geometry_[i].heads > 0 && !seen[i]) return DataLoss("{}: layer {} is missing", path_, i);
    }
    return plan;
  }

  Status LoadLayer(const Json& json, int64_t length, const KvPlan& plan, KvCache* cache) {
    const std::string what = path_ + ": layers";
    const int layer = json["layer_idx"].get<int>();
    ASSIGN_OR_RETURN(const int64_t high, RequireInt(json, "high", length, limits::kContext, what));
    ASSIGN_OR_RETURN(const int64_t dense_from, RequireInt(json, "dense_from", 0, length, what));
    // Nothing is allocated for rows that the file does not have.
    const KvLayerGeometry& g = geometry_[layer];
    auto entry = std::make_unique<KvEntry>(g, plan.layers[layer]);
    const int64_t rows = KvPositionsKept(g, length);
    if (rows * KvBytesPerToken(g, plan.layers[layer]) > static_cast<int64_t>(map_->bytes().size())) {
      return DataLoss("{}: layer {} is shorter than the {} tokens", path_, layer, length);
    }
    entry->SetPlaces(length, high, dense_from);
    for (const Part& part : PartsOf(*entry, layer)) {
      for (KvSide side : {KvSide::kKeys, KvSide::kValues}) {
        const SideTensors t(part, side);
        std::vector<const StoredTensor*> tensors;
        for (const TensorSpec& spec : t.specs) {
          ASSIGN_OR_RETURN(const StoredTensor* tensor, Find(spec.name, spec.dtype, spec.shape));
          tensors.push_back(tensor);
        }
        WriteSide(part, side, t, tensors);
      }
    }
    cache->Replace(layer, std::move(entry));
    return OkStatus();
  }

  const std::string& path_;
  const KvGeometry& geometry_;
  const int64_t vocab_size_;
  const std::string& identity_;
  std::unique_ptr<MappedFile> map_;
  std::vector<StoredTensor> tensors_;
  size_t used_ = 0;
};

}  // namespace

StatusOr<std::string> ModelIdentity(const Checkpoint& checkpoint) {
  ASSIGN_OR_RETURN(const std::string fingerprint, checkpoint.Fingerprint());
  Sha256 sha;
  sha.Update(fingerprint);
  for (const StoredTensor& t : checkpoint.tensors()) {
    sha.Update(t.name);
    const size_t n = std::min<size_t>(64, t.bytes.size());
    for (size_t i = 0; i < 3; ++i) sha.Update(t.bytes.subspan((t.bytes.size() - n) / 2 * i, n));
  }
  return sha.HexDigest();
}

Status SaveKvCache(const std::string& path, const KvCache& cache, std::span<const int32_t> ids, const std::string& identity) {
  OPTIQ_CHECK(static_cast<int64_t>(ids.size()) == cache.length());
  std::vector<TensorSpec> specs = {{"ids", DType::kI32, {cache.length()}}};
  Blobs blobs;
  try {
    const auto id_bytes = std::as_bytes(ids);
    blobs.emplace_back(id_bytes.begin(), id_bytes.end());
    for (size_t i = 0; i < cache.geometry().size(); ++i) {
      const int layer = static_cast<int>(i);
      if (!cache.state(layer).empty()) {
        const auto bytes = std::as_bytes(std::span(cache.state(layer)));
        specs.push_back({fmt::format("layers.{}.state", i), DType::kF32, {static_cast<int64_t>(cache.state(layer).size())}});
        blobs.emplace_back(bytes.begin(), bytes.end());
      }
      if (cache.entry(layer) == nullptr) continue;
      for (const Part& part : PartsOf(*cache.entry(layer), layer)) {
        for (KvSide side : {KvSide::kKeys, KvSide::kValues}) {
          const SideTensors t(part, side);
          specs.insert(specs.end(), t.specs.begin(), t.specs.end());
          ReadSide(part, side, t, &blobs);
        }
      }
    }
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("{}: no memory to save the cache", path);
  }
  std::vector<TensorData> data;
  std::vector<std::pair<std::string, std::span<const std::byte>>> digest;
  for (size_t i = 0; i < specs.size(); ++i) {
    data.push_back({specs[i], blobs[i]});
    digest.emplace_back(specs[i].name, blobs[i]);
  }
  std::sort(digest.begin(), digest.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  const std::string layers = PlanJson(cache).dump();
  return WriteSafetensors(path, data, {{"format", kFormatName}, {"version", std::to_string(kVersion)}, {"model", identity},
                                       {"layers", layers}, {"sha256", Digest(digest, layers)}});
}

StatusOr<SavedKvCache> LoadKvCache(const std::string& path, const KvGeometry& geometry, int64_t vocab_size,
                                   const std::string& identity) {
  try {
    return Loader(path, geometry, vocab_size, identity).Load();
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("{}: no memory for the cache", path);
  }
}

}  // namespace optiq
