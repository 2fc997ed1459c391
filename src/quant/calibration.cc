#include "quant/calibration.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "base/sha256.h"
#include "embedded_data.h"
#include "quant/calibration_documents.h"
#include "quant/calibration_render.h"

namespace optiq {
namespace {

constexpr int64_t kMaxSequences = 1 << 20;
constexpr int64_t kMaxLength = 1 << 20;
constexpr int64_t kMaxTokens = 1 << 26;

// SplitMix64 (Steele, Lea, Flood 2014). Own code, because the standard library's shuffle and distributions differ
// between implementations.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t Next() {
    uint64_t z = (state_ += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  // In [0, n), n > 0. The bias is below n / 2^64.
  uint64_t Below(uint64_t n) { return Next() % n; }

  template <typename T>
  void Shuffle(std::vector<T>& items) {
    for (size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[Below(i)]);
  }

 private:
  uint64_t state_;
};

using Ids = std::vector<int32_t>;

// Hands out the sequences of one domain. Documents are encoded only as they are needed.
class DomainSampler {
 public:
  DomainSampler(std::vector<const CalibrationDocument*> documents, int64_t length, uint64_t seed)
      : documents_(std::move(documents)), length_(length), random_(seed) {
    random_.Shuffle(documents_);
  }

  // The next sequence of `length` ids; nullopt when the domain has no more.
  StatusOr<std::optional<Ids>> Next(CalibrationRenderer& renderer) {
    while (next_ < documents_.size()) {
      ASSIGN_OR_RETURN(Ids body, renderer.Body(*documents_[next_++]));
      if (body.empty()) continue;
      const Ids& prefix = renderer.prefix();
      tokens_ += prefix.size() + body.size();
      if (static_cast<int64_t>(prefix.size() + body.size()) >= length_) return TakeWindow(prefix, body);
      joined_.insert(joined_.end(), prefix.begin(), prefix.end());
      joined_.insert(joined_.end(), body.begin(), body.end());
      if (static_cast<int64_t>(joined_.size()) >= length_) {
        joined_.resize(length_);  // the last document loses its end
        return std::optional<Ids>(std::exchange(joined_, {}));
      }
    }
    if (spare_.empty()) return std::nullopt;
    std::swap(spare_[random_.Below(spare_.size())], spare_.back());
    Ids out = std::move(spare_.back());
    spare_.pop_back();
    return std::optional<Ids>(std::move(out));
  }

  // Short documents at the end that did not fill a sequence.
  const Ids& rest() const { return joined_; }
  int64_t tokens() const { return tokens_; }  // of the documents encoded so far

 private:
  // Cuts the document into as many windows as fit, at a random phase; gives one of them and keeps the others.
  std::optional<Ids> TakeWindow(const Ids& prefix, const Ids& body) {
    size_t size = length_ - prefix.size();
    size_t count = body.size() / size;
    size_t start = random_.Below(body.size() - count * size + 1);
    size_t chosen = random_.Below(count);
    Ids out;
    for (size_t i = 0; i < count; ++i) {
      Ids window = prefix;
      auto from = body.begin() + start + i * size;
      window.insert(window.end(), from, from + size);
      if (i == chosen) {
        out = std::move(window);
      } else {
        spare_.push_back(std::move(window));
      }
    }
    return out;
  }

  std::vector<const CalibrationDocument*> documents_;
  int64_t length_;
  Random random_;
  size_t next_ = 0;
  Ids joined_;              // short documents waiting to become a sequence
  std::vector<Ids> spare_;  // further windows of long documents, used when every document has been
  int64_t tokens_ = 0;
};

Status CheckOptions(const CalibrationOptions& options) {
  if (options.sequences < 1 || options.sequences > kMaxSequences) {
    return InvalidArgument("calibration: {} sequences; must be between 1 and {}", options.sequences, kMaxSequences);
  }
  if (options.length < 2 || options.length > kMaxLength) {
    return InvalidArgument("calibration: sequences of {} tokens; must be between 2 and {}", options.length, kMaxLength);
  }
  if (options.sequences * options.length > kMaxTokens) {
    return InvalidArgument("calibration: {} x {} tokens; at most {} in all", options.sequences, options.length,
                           kMaxTokens);
  }
  if (options.heldout && !options.file.empty()) {
    return InvalidArgument("calibration: the held-out text is embedded and cannot be combined with the file '{}'",
                           options.file);
  }
  return OkStatus();
}

StatusOr<std::vector<CalibrationDocument>> ReadDocuments(const CalibrationOptions& options) {
  if (!options.file.empty()) return ReadCalibrationFile(options.file);
  if (options.heldout) {
    std::string_view content(embedded::optiq_embedded_heldout_jsonl, embedded::optiq_embedded_heldout_jsonl_end);
    return ParseCalibrationJsonl(content, "heldout.jsonl (embedded)");
  }
  std::string_view content(embedded::optiq_embedded_calibration_jsonl, embedded::optiq_embedded_calibration_jsonl_end);
  return ParseCalibrationJsonl(content, "calibration.jsonl (embedded)");
}

std::string SourceName(const CalibrationOptions& options) {
  if (!options.file.empty()) return options.file;
  return options.heldout ? "the embedded held-out text" : "the embedded calibration text";
}

std::string Digest(const Ids& ids) {
  std::string bytes;
  bytes.reserve(ids.size() * 4);
  for (int32_t id : ids) {
    for (int shift = 0; shift < 32; shift += 8)
      bytes.push_back(static_cast<char>(static_cast<uint32_t>(id) >> shift & 0xFF));
  }
  return Sha256Hex(bytes);
}

void Append(TokenBatch& batch, const Ids& sequence, size_t domain) {
  batch.ids.insert(batch.ids.end(), sequence.begin(), sequence.end());
  batch.sequence_domain.push_back(static_cast<int32_t>(domain));
  batch.domains[domain].sequences += 1;
  batch.domains[domain].tokens += sequence.size();
}

}  // namespace

StatusOr<TokenBatch> LoadCalibration(const Tokenizer& tokenizer, const ChatTemplate* chat_template,
                                     const CalibrationOptions& options) {
  RETURN_IF_ERROR(CheckOptions(options));
  ASSIGN_OR_RETURN(std::vector<CalibrationDocument> documents, ReadDocuments(options));
  ASSIGN_OR_RETURN(CalibrationRenderer renderer,
                   CalibrationRenderer::Create(tokenizer, chat_template, options.always_bos));
  if (static_cast<int64_t>(renderer.prefix().size()) >= options.length) {
    return InvalidArgument("calibration: sequences of {} tokens leave no room after the tokenizer's BOS",
                           options.length);
  }

  TokenBatch batch;
  batch.length = options.length;
  std::vector<std::vector<const CalibrationDocument*>> by_domain;
  std::unordered_map<std::string_view, size_t> index_of;
  for (const CalibrationDocument& document : documents) {
    auto [it, is_new] = index_of.try_emplace(document.domain, batch.domains.size());
    if (is_new) {
      batch.domains.push_back({document.domain});
      by_domain.emplace_back();
    }
    by_domain[it->second].push_back(&document);
  }
  Random seeds(options.seed);
  std::vector<DomainSampler> samplers;
  for (auto& list : by_domain) samplers.emplace_back(std::move(list), options.length, seeds.Next());

  auto complete = [&] { return static_cast<int64_t>(batch.sequence_domain.size()) == options.sequences; };
  std::vector<size_t> active(samplers.size());
  std::iota(active.begin(), active.end(), size_t{0});
  while (!active.empty() && !complete()) {
    std::vector<size_t> still;
    for (size_t domain : active) {
      if (complete()) break;
      ASSIGN_OR_RETURN(std::optional<Ids> sequence, samplers[domain].Next(renderer));
      if (!sequence) continue;
      Append(batch, *sequence, domain);
      still.push_back(domain);
    }
    active = std::move(still);
  }
  // Last resort: what was left over in each domain, joined across domains and counted for the one that begins the
  // sequence.
  Ids joined;
  size_t first = 0;
  for (size_t domain = 0; domain < samplers.size() && !complete(); ++domain) {
    if (joined.empty()) first = domain;
    joined.insert(joined.end(), samplers[domain].rest().begin(), samplers[domain].rest().end());
    if (static_cast<int64_t>(joined.size()) < options.length) continue;
    joined.resize(options.length);
    Append(batch, std::exchange(joined, {}), first);
  }
  if (!complete()) {
    int64_t tokens = 0;
    for (const DomainSampler& sampler : samplers) tokens += sampler.tokens();
    return InvalidArgument(
        "{}: {} tokens, enough for {} sequences of {}; {} sequences ({} tokens) are needed: give more text, or "
        "ask for fewer or shorter sequences",
        SourceName(options), tokens, batch.sequence_domain.size(), options.length, options.sequences,
        options.sequences * options.length);
  }
  batch.sequences = options.sequences;
  batch.refused_conversations = renderer.refused();
  batch.refusal = renderer.refusal();
  batch.sha256 = Digest(batch.ids);
  return batch;
}

}  // namespace optiq
