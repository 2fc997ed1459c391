#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>

#include "base/checked.h"
#include "base/limits.h"
#include "io/gguf.h"
#include "io/gguf_scalar.h"

namespace optiq {
namespace {

// A table entry in memory is at most 15 bytes larger than the least it takes in the file, so this many keep the table
// within the file size plus 1 MB. Real files have a few thousand tensors.
constexpr uint64_t kMaxTensors = 65'536;
constexpr uint64_t kMinKeyBytes = 8 + 1 + 4 + 1;             // length, name, type, value
constexpr uint64_t kMinTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;  // length, name, rank, one dim, type, offset
constexpr uint64_t kMaxKeyBytes = 65'535;                    // by the specification
constexpr uint64_t kMaxAlignment = 65'536;

struct TensorType {
  uint32_t id;
  std::string_view name;
  std::optional<DType> dtype;  // nullopt: known by name, not read
};

constexpr TensorType kTensorTypes[] = {
    {0, "F32", DType::kF32},
    {1, "F16", DType::kF16},
    {2, "Q4_0", DType::kQ4_0},
    {3, "Q4_1", DType::kQ4_1},
    {6, "Q5_0", DType::kQ5_0},
    {7, "Q5_1", DType::kQ5_1},
    {8, "Q8_0", DType::kQ8_0},
    {9, "Q8_1", {}},
    {10, "Q2_K", DType::kQ2_K},
    {11, "Q3_K", DType::kQ3_K},
    {12, "Q4_K", DType::kQ4_K},
    {13, "Q5_K", DType::kQ5_K},
    {14, "Q6_K", DType::kQ6_K},
    {15, "Q8_K", {}},
    {16, "IQ2_XXS", {}},
    {17, "IQ2_XS", {}},
    {18, "IQ3_XXS", {}},
    {19, "IQ1_S", {}},
    {20, "IQ4_NL", {}},
    {21, "IQ3_S", {}},
    {22, "IQ2_S", {}},
    {23, "IQ4_XS", {}},
    {24, "I8", {}},
    {25, "I16", {}},
    {26, "I32", {}},
    {27, "I64", {}},
    {28, "F64", {}},
    {29, "IQ1_M", {}},
    {30, "BF16", DType::kBF16},
    {34, "TQ1_0", {}},
    {35, "TQ2_0", {}},
    {39, "MXFP4", {}},
    {40, "NVFP4", {}},
    {41, "Q1_0", {}},
};

}  // namespace

// One pass over the header. Every read goes through Take, which compares with the bytes that are left.
class GgufParser {
 public:
  GgufParser(std::span<const std::byte> bytes, std::string_view name) : bytes_(bytes) {
    file_.name_ = std::string(name);
    file_.bytes_ = bytes;
  }

  StatusOr<GgufFile> Run() {
    uint64_t tensor_count = 0, key_count = 0;
    RETURN_IF_ERROR(ReadPreamble(&tensor_count, &key_count));
    RETURN_IF_ERROR(ReadKeys(key_count));
    RETURN_IF_ERROR(ReadAlignment());
    std::vector<uint64_t> offsets;
    RETURN_IF_ERROR(ReadTensorTable(tensor_count, &offsets));
    RETURN_IF_ERROR(PlaceTensors(offsets));
    return std::move(file_);
  }

 private:
  uint64_t left() const { return bytes_.size() - at_; }

  Status Short(std::string_view what) const {
    return DataLoss("{}: the file ends inside {} at byte {}; is the download complete?", file_.name_, what, at_);
  }

  // A pointer to the next n bytes, or null past the end.
  const std::byte* Take(uint64_t n) {
    if (n > left()) return nullptr;
    const std::byte* p = bytes_.data() + at_;
    at_ += n;
    return p;
  }

  template <typename T>
  Status Read(T* value, std::string_view what) {
    const std::byte* p = Take(sizeof(T));
    if (p == nullptr) return Short(what);
    *value = LoadScalar<T>(p);
    return OkStatus();
  }

  // `what` (and `key`, if not empty) name the string in errors.
  Status ReadString(std::string_view* text, uint64_t max, std::string_view what, std::string_view key = {}) {
    const auto named = [&] { return key.empty() ? std::string(what) : fmt::format("{} {}", what, QuoteForError(key)); };
    uint64_t size = 0;
    if (left() < sizeof(size)) return Short(named());
    RETURN_IF_ERROR(Read(&size, what));
    if (size > left()) {
      return DataLoss("{}: {} claims {} bytes, {} are left in the file; is the download complete?", file_.name_,
                      named(), size, left());
    }
    if (size > max) return ResourceExhausted("{}: {} has {} bytes, more than {}", file_.name_, named(), size, max);
    *text = {reinterpret_cast<const char*>(Take(size)), static_cast<size_t>(size)};
    return OkStatus();
  }

  Status ReadPreamble(uint64_t* tensor_count, uint64_t* key_count) {
    const std::byte* magic = Take(4);
    if (magic == nullptr || std::memcmp(magic, "GGUF", 4) != 0) {
      return DataLoss("{}: not a GGUF file (it does not start with 'GGUF')", file_.name_);
    }
    RETURN_IF_ERROR(Read(&file_.version_, "the header"));
    if ((file_.version_ & 0xFFFF) == 0 && file_.version_ != 0) {
      return Unimplemented("{}: big-endian GGUF is not supported; convert it to little endian", file_.name_);
    }
    if (file_.version_ != 2 && file_.version_ != 3) {
      return Unimplemented("{}: GGUF version {} is not supported, only 2 and 3", file_.name_, file_.version_);
    }
    RETURN_IF_ERROR(Read(tensor_count, "the header"));
    RETURN_IF_ERROR(Read(key_count, "the header"));
    if (*key_count > left() / kMinKeyBytes) {
      return DataLoss("{}: {} metadata keys do not fit in {} bytes", file_.name_, *key_count, bytes_.size());
    }
    if (*tensor_count > left() / kMinTensorBytes) {
      return DataLoss("{}: {} tensors do not fit in {} bytes", file_.name_, *tensor_count, bytes_.size());
    }
    if (*key_count > limits::kGgufKeys) {
      return ResourceExhausted("{}: {} metadata keys, more than {}", file_.name_, *key_count, limits::kGgufKeys);
    }
    if (*tensor_count > kMaxTensors) {
      return ResourceExhausted("{}: {} tensors, more than {}", file_.name_, *tensor_count, kMaxTensors);
    }
    return OkStatus();
  }

  Status ReadKeys(uint64_t count) {
    file_.keys_.reserve(count);
    for (uint64_t i = 0; i < count; ++i) {
      GgufFile::Key key;
      RETURN_IF_ERROR(ReadString(&key.name, kMaxKeyBytes, "the name of a metadata key"));
      if (key.name.empty()) return DataLoss("{}: metadata key {} has no name", file_.name_, i);
      key.value = bytes_.data() + at_;
      RETURN_IF_ERROR(SkipValue(key.name));
      file_.keys_.push_back(key);
    }
    auto by_name = [](const GgufFile::Key& a, const GgufFile::Key& b) { return a.name < b.name; };
    std::sort(file_.keys_.begin(), file_.keys_.end(), by_name);
    const auto twin = std::adjacent_find(file_.keys_.begin(), file_.keys_.end(),
                                         [](const auto& a, const auto& b) { return a.name == b.name; });
    if (twin != file_.keys_.end()) {
      return DataLoss("{}: metadata key {} appears twice", file_.name_, QuoteForError(twin->name));
    }
    return OkStatus();
  }

  // Checks one value and moves past it.
  Status SkipValue(std::string_view key) {
    uint32_t tag = 0;
    RETURN_IF_ERROR(Read(&tag, "the metadata"));
    GgufType type = static_cast<GgufType>(tag);
    uint64_t count = 1;
    if (type == GgufType::kArray) {
      RETURN_IF_ERROR(Read(&tag, "the metadata"));
      RETURN_IF_ERROR(Read(&count, "the metadata"));
      type = static_cast<GgufType>(tag);
      if (type == GgufType::kArray) {
        return Unimplemented("{}: metadata key {}: an array of arrays is not supported", file_.name_,
                             QuoteForError(key));
      }
    }
    const uint64_t size = type == GgufType::kString ? 8 : ScalarBytes(type);
    if (size == 0) return DataLoss("{}: metadata key {}: unknown value type {}", file_.name_, QuoteForError(key), tag);
    if (count > left() / size) {
      return DataLoss("{}: metadata key {}: {} items do not fit in the {} bytes left; is the download complete?",
                      file_.name_, QuoteForError(key), count, left());
    }
    if (count > limits::kGgufArrayItems) {
      return ResourceExhausted("{}: metadata key {}: {} items, more than {}", file_.name_, QuoteForError(key), count,
                               limits::kGgufArrayItems);
    }
    if (type == GgufType::kString) {
      for (uint64_t i = 0; i < count; ++i) {
        std::string_view text;
        RETURN_IF_ERROR(ReadString(&text, limits::kGgufStringBytes, "a string of metadata key", key));
      }
      return OkStatus();
    }
    const std::byte* p = Take(count * size);
    if (type == GgufType::kBool &&
        std::any_of(p, p + count, [](std::byte b) { return b != std::byte{0} && b != std::byte{1}; })) {
      return DataLoss("{}: metadata key {}: a boolean is neither 0 nor 1", file_.name_, QuoteForError(key));
    }
    return OkStatus();
  }

  Status ReadAlignment() {
    constexpr std::string_view kKey = "general.alignment";
    const std::byte* value = file_.FindValue(kKey);
    if (value == nullptr) return OkStatus();
    if (static_cast<GgufType>(LoadScalar<uint32_t>(value)) != GgufType::kUint32)
      return file_.WrongType(kKey, "a 32-bit unsigned integer");
    const uint32_t alignment = LoadScalar<uint32_t>(value + 4);
    if (!std::has_single_bit(alignment) || alignment < 8 || alignment > kMaxAlignment) {
      return DataLoss("{}: general.alignment is {}; a power of two from 8 to {} is expected", file_.name_, alignment,
                      kMaxAlignment);
    }
    file_.alignment_ = alignment;
    return OkStatus();
  }

  Status ReadTensorTable(uint64_t count, std::vector<uint64_t>* offsets) {
    if (count > left() / kMinTensorBytes) {
      return DataLoss("{}: {} tensors do not fit in the {} bytes left; is the download complete?", file_.name_, count,
                      left());
    }
    file_.table_offset_ = at_;
    file_.tensors_.reserve(count);
    offsets->reserve(count);
    for (uint64_t i = 0; i < count; ++i) {
      GgufTensor tensor;
      uint64_t offset = 0, size = 0;
      RETURN_IF_ERROR(ReadTensor(&tensor, &offset, &size));
      // Only the size is known yet; PlaceTensors moves the view to its place.
      tensor.bytes = bytes_.first(size);
      file_.tensors_.push_back(tensor);
      offsets->push_back(offset);
    }
    return OkStatus();
  }

  Status ReadTensor(GgufTensor* tensor, uint64_t* offset, uint64_t* size) {
    RETURN_IF_ERROR(ReadString(&tensor->name, limits::kTensorNameBytes, "the name of a tensor"));
    if (tensor->name.empty()) return DataLoss("{}: a tensor has no name", file_.name_);
    const std::string what = fmt::format("tensor {}", QuoteForError(tensor->name));
    uint32_t rank = 0, type = 0;
    RETURN_IF_ERROR(Read(&rank, what));
    if (rank < 1 || rank > 4) return DataLoss("{}: {}: {} dimensions; 1 to 4 are expected", file_.name_, what, rank);
    tensor->rank = static_cast<uint8_t>(rank);
    tensor->dims = Take(8 * rank);
    if (tensor->dims == nullptr) return Short(what);
    for (uint32_t i = 0; i < rank; ++i) {
      const int64_t dim = LoadScalar<int64_t>(tensor->dims + 8 * i);
      if (dim < 1) return DataLoss("{}: {}: dimension {} is {}", file_.name_, what, i, dim);
    }
    RETURN_IF_ERROR(Read(&type, what));
    RETURN_IF_ERROR(Read(offset, what));
    const auto* known = std::find_if(std::begin(kTensorTypes), std::end(kTensorTypes),
                                     [type](const TensorType& t) { return t.id == type; });
    if (known == std::end(kTensorTypes)) {
      return Unimplemented("{}: {}: unknown tensor type {}", file_.name_, what, type);
    }
    if (!known->dtype) {
      return Unimplemented(
          "{}: {}: type {} is not supported; use a file in F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 or "
          "Q2_K to Q6_K",
          file_.name_, what, known->name);
    }
    tensor->dtype = *known->dtype;
    const std::vector<int64_t> shape = tensor->Shape();
    if (shape.back() % DTypeBlockElements(tensor->dtype) != 0) {
      return DataLoss("{}: {}: rows of {} are not whole blocks of {} ({})", file_.name_, what, shape.back(),
                      DTypeBlockElements(tensor->dtype), known->name);
    }
    const std::optional<uint64_t> bytes = TensorBytes(tensor->dtype, shape);
    if (!bytes || *bytes > bytes_.size()) {
      return DataLoss("{}: {}: larger than the whole file ({} bytes); is the download complete?", file_.name_, what,
                      bytes_.size());
    }
    *size = *bytes;
    return OkStatus();
  }

  // Finds each tensor's bytes in the data section, which starts at the next multiple of the alignment.
  Status PlaceTensors(const std::vector<uint64_t>& offsets) {
    file_.table_bytes_ = at_ - file_.table_offset_;
    const uint64_t padding = (file_.alignment_ - at_ % file_.alignment_) % file_.alignment_;
    file_.data_offset_ = at_ + std::min(padding, left());
    if (offsets.empty()) return OkStatus();
    if (padding > left()) return Short("the padding before the tensor data");
    const uint64_t data_bytes = left() - padding;
    for (size_t i = 0; i < offsets.size(); ++i) {
      GgufTensor& tensor = file_.tensors_[i];
      const uint64_t size = tensor.bytes.size();
      if (offsets[i] % file_.alignment_ != 0) {
        return DataLoss("{}: tensor {}: offset {} is not a multiple of {}", file_.name_, QuoteForError(tensor.name),
                        offsets[i], file_.alignment_);
      }
      if (offsets[i] > data_bytes || size > data_bytes - offsets[i]) {
        return DataLoss(
            "{}: tensor {}: {} bytes at offset {} reach past the end of the file; is the download complete?",
            file_.name_, QuoteForError(tensor.name), size, offsets[i]);
      }
      tensor.bytes = bytes_.subspan(file_.data_offset_ + offsets[i], size);
    }
    return CheckTwins();
  }

  Status CheckTwins() const {
    const std::vector<GgufTensor>& tensors = file_.tensors_;
    std::vector<uint32_t> order(tensors.size());
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return tensors[a].name < tensors[b].name; });
    for (size_t i = 1; i < order.size(); ++i) {
      if (tensors[order[i]].name == tensors[order[i - 1]].name) {
        return DataLoss("{}: tensor {} appears twice", file_.name_, QuoteForError(tensors[order[i]].name));
      }
    }
    std::sort(order.begin(), order.end(),
              [&](uint32_t a, uint32_t b) { return tensors[a].bytes.data() < tensors[b].bytes.data(); });
    for (size_t i = 1; i < order.size(); ++i) {
      const GgufTensor &low = tensors[order[i - 1]], &high = tensors[order[i]];
      if (low.bytes.data() + low.bytes.size() > high.bytes.data()) {
        return DataLoss("{}: tensors {} and {} overlap", file_.name_, QuoteForError(low.name),
                        QuoteForError(high.name));
      }
    }
    return OkStatus();
  }

  std::span<const std::byte> bytes_;
  uint64_t at_ = 0;
  GgufFile file_;
};

StatusOr<GgufFile> GgufFile::Parse(std::span<const std::byte> bytes, std::string_view name) {
  return GgufParser(bytes, name).Run();
}

}  // namespace optiq
