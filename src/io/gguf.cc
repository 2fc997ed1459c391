#include "io/gguf.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "base/checked.h"
#include "base/limits.h"

namespace optiq {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF values are read in place");

// A table entry in memory is at most 15 bytes larger than the least it takes in the file, so this many keep the table within
// the file size plus 1 MB. Real files have a few thousand tensors.
constexpr uint64_t kMaxTensors = 65'536;
constexpr uint64_t kMinKeyBytes = 8 + 1 + 4 + 1;              // length, name, type, value
constexpr uint64_t kMinTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;   // length, name, rank, one dim, type, offset
constexpr uint64_t kMaxKeyBytes = 65'535;                     // by the specification
constexpr uint64_t kMaxAlignment = 65'536;

template <typename T>
T Load(const std::byte* p) {
  T value;
  std::memcpy(&value, p, sizeof(T));
  return value;
}

// Bytes of one scalar; 0 for strings, arrays and unknown types.
uint64_t ScalarBytes(GgufType type) {
  switch (type) {
    case GgufType::kUint8:
    case GgufType::kInt8:
    case GgufType::kBool: return 1;
    case GgufType::kUint16:
    case GgufType::kInt16: return 2;
    case GgufType::kUint32:
    case GgufType::kInt32:
    case GgufType::kFloat32: return 4;
    case GgufType::kUint64:
    case GgufType::kInt64:
    case GgufType::kFloat64: return 8;
    case GgufType::kString:
    case GgufType::kArray: break;
  }
  return 0;
}

// An integer scalar at p, or nullopt when the type is no integer or the value does not fit.
std::optional<int64_t> IntAt(GgufType type, const std::byte* p) {
  switch (type) {
    case GgufType::kUint8: return Load<uint8_t>(p);
    case GgufType::kInt8: return Load<int8_t>(p);
    case GgufType::kUint16: return Load<uint16_t>(p);
    case GgufType::kInt16: return Load<int16_t>(p);
    case GgufType::kUint32: return Load<uint32_t>(p);
    case GgufType::kInt32: return Load<int32_t>(p);
    case GgufType::kInt64: return Load<int64_t>(p);
    case GgufType::kUint64: {
      const uint64_t v = Load<uint64_t>(p);
      if (v > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
      return static_cast<int64_t>(v);
    }
    default: return std::nullopt;
  }
}

struct TensorType {
  uint32_t id;
  std::string_view name;
  std::optional<DType> dtype;  // nullopt: known by name, not read
};

constexpr TensorType kTensorTypes[] = {
    {0, "F32", DType::kF32},    {1, "F16", DType::kF16},    {2, "Q4_0", DType::kQ4_0},  {3, "Q4_1", DType::kQ4_1},
    {6, "Q5_0", DType::kQ5_0},  {7, "Q5_1", DType::kQ5_1},  {8, "Q8_0", DType::kQ8_0},  {9, "Q8_1", {}},
    {10, "Q2_K", DType::kQ2_K}, {11, "Q3_K", DType::kQ3_K}, {12, "Q4_K", DType::kQ4_K}, {13, "Q5_K", DType::kQ5_K},
    {14, "Q6_K", DType::kQ6_K}, {15, "Q8_K", {}},           {16, "IQ2_XXS", {}},        {17, "IQ2_XS", {}},
    {18, "IQ3_XXS", {}},        {19, "IQ1_S", {}},          {20, "IQ4_NL", {}},         {21, "IQ3_S", {}},
    {22, "IQ2_S", {}},          {23, "IQ4_XS", {}},         {24, "I8", {}},             {25, "I16", {}},
    {26, "I32", {}},            {27, "I64", {}},            {28, "F64", {}},            {29, "IQ1_M", {}},
    {30, "BF16", DType::kBF16}, {34, "TQ1_0", {}},          {35, "TQ2_0", {}},          {39, "MXFP4", {}},
    {40, "NVFP4", {}},          {41, "Q1_0", {}},
};

}  // namespace

std::string QuoteForError(std::string_view text) {
  constexpr size_t kShown = 80;
  std::string out = "'";
  for (const char c : text.substr(0, kShown)) {
    const auto u = static_cast<unsigned char>(c);
    if (u < 0x20 || u >= 0x7F) {
      out += fmt::format("\\x{:02x}", u);
    } else {
      out += c;
    }
  }
  if (text.size() > kShown) out += "...";
  return out + "'";
}

std::vector<int64_t> GgufTensor::Shape() const {
  std::vector<int64_t> shape(rank);
  for (size_t i = 0; i < rank; ++i) shape[rank - 1 - i] = Load<int64_t>(dims + 8 * i);
  return shape;
}

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
    *value = Load<T>(p);
    return OkStatus();
  }

  Status ReadString(std::string_view* text, uint64_t max, std::string_view what) {
    uint64_t size = 0;
    RETURN_IF_ERROR(Read(&size, what));
    if (size > left()) {
      return DataLoss("{}: {} claims {} bytes, {} are left in the file; is the download complete?", file_.name_, what, size,
                      left());
    }
    if (size > max) return ResourceExhausted("{}: {} has {} bytes, more than {}", file_.name_, what, size, max);
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
        return Unimplemented("{}: metadata key {}: an array of arrays is not supported", file_.name_, QuoteForError(key));
      }
    }
    const uint64_t size = type == GgufType::kString ? 8 : ScalarBytes(type);
    if (size == 0) return DataLoss("{}: metadata key {}: unknown value type {}", file_.name_, QuoteForError(key), tag);
    if (count > left() / size) {
      return DataLoss("{}: metadata key {}: {} items do not fit in the {} bytes left; is the download complete?", file_.name_,
                      QuoteForError(key), count, left());
    }
    if (count > limits::kGgufArrayItems) {
      return ResourceExhausted("{}: metadata key {}: {} items, more than {}", file_.name_, QuoteForError(key), count,
                               limits::kGgufArrayItems);
    }
    if (type == GgufType::kString) {
      for (uint64_t i = 0; i < count; ++i) {
        std::string_view text;
        Status status = ReadString(&text, limits::kGgufStringBytes, "a string");
        if (!status.ok()) return Annotate(status, fmt::format("metadata key {}", QuoteForError(key)));
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
    if (static_cast<GgufType>(Load<uint32_t>(value)) != GgufType::kUint32) return file_.WrongType(kKey, "a 32-bit unsigned integer");
    const uint32_t alignment = Load<uint32_t>(value + 4);
    if (!std::has_single_bit(alignment) || alignment < 8 || alignment > kMaxAlignment) {
      return DataLoss("{}: general.alignment is {}; a power of two from 8 to {} is expected", file_.name_, alignment,
                      kMaxAlignment);
    }
    file_.alignment_ = alignment;
    return OkStatus();
  }

  Status ReadTensorTable(uint64_t count, std::vector<uint64_t>* offsets) {
    if (count > left() / kMinTensorBytes) {
      return DataLoss("{}: {} tensors do not fit in the {} bytes left; is the download complete?", file_.name_, count, left());
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
      const int64_t dim = Load<int64_t>(tensor->dims + 8 * i);
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
      return Unimplemented("{}: {}: type {} is not supported; use a file in F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 or "
                           "Q2_K to Q6_K", file_.name_, what, known->name);
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
        return DataLoss("{}: tensor {}: offset {} is not a multiple of {}", file_.name_, QuoteForError(tensor.name), offsets[i],
                        file_.alignment_);
      }
      if (offsets[i] > data_bytes || size > data_bytes - offsets[i]) {
        return DataLoss("{}: tensor {}: {} bytes at offset {} reach past the end of the file; is the download complete?",
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
        return DataLoss("{}: tensors {} and {} overlap", file_.name_, QuoteForError(low.name), QuoteForError(high.name));
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

const std::byte* GgufFile::FindValue(std::string_view key) const {
  const auto it = std::lower_bound(keys_.begin(), keys_.end(), key,
                                   [](const Key& k, std::string_view name) { return k.name < name; });
  return it != keys_.end() && it->name == key ? it->value : nullptr;
}

bool GgufFile::HasPrefix(std::string_view prefix) const {
  const auto it = std::lower_bound(keys_.begin(), keys_.end(), prefix,
                                   [](const Key& k, std::string_view name) { return k.name < name; });
  return it != keys_.end() && it->name.substr(0, prefix.size()) == prefix;
}

Status GgufFile::WrongType(std::string_view key, std::string_view wanted) const {
  return DataLoss("{}: metadata key {} is not {}", name_, QuoteForError(key), wanted);
}

StatusOr<std::optional<int64_t>> GgufFile::GetInt(std::string_view key) const {
  const std::byte* value = FindValue(key);
  if (value == nullptr) return std::optional<int64_t>();
  const std::optional<int64_t> found = IntAt(static_cast<GgufType>(Load<uint32_t>(value)), value + 4);
  if (!found) return WrongType(key, "an integer of 63 bits");
  return found;
}

StatusOr<std::optional<double>> GgufFile::GetDouble(std::string_view key) const {
  const std::byte* value = FindValue(key);
  if (value == nullptr) return std::optional<double>();
  const GgufType type = static_cast<GgufType>(Load<uint32_t>(value));
  double found = 0;
  if (type == GgufType::kFloat32) {
    found = Load<float>(value + 4);
  } else if (type == GgufType::kFloat64) {
    found = Load<double>(value + 4);
  } else if (const std::optional<int64_t> integer = IntAt(type, value + 4)) {
    found = static_cast<double>(*integer);
  } else {
    return WrongType(key, "a number");
  }
  if (!std::isfinite(found)) return WrongType(key, "a finite number");
  return std::optional<double>(found);
}

StatusOr<std::optional<bool>> GgufFile::GetBool(std::string_view key) const {
  const std::byte* value = FindValue(key);
  if (value == nullptr) return std::optional<bool>();
  if (static_cast<GgufType>(Load<uint32_t>(value)) != GgufType::kBool) return WrongType(key, "a boolean");
  return std::optional<bool>(value[4] == std::byte{1});
}

StatusOr<std::optional<std::string_view>> GgufFile::GetString(std::string_view key) const {
  const std::byte* value = FindValue(key);
  if (value == nullptr) return std::optional<std::string_view>();
  if (static_cast<GgufType>(Load<uint32_t>(value)) != GgufType::kString) return WrongType(key, "a string");
  return std::optional<std::string_view>(
      std::string_view(reinterpret_cast<const char*>(value + 12), Load<uint64_t>(value + 4)));
}

StatusOr<int64_t> GgufFile::RequireInt(std::string_view key, int64_t min, int64_t max) const {
  ASSIGN_OR_RETURN(const std::optional<int64_t> found, GetInt(key));
  if (!found) return DataLoss("{}: metadata key {} is missing", name_, QuoteForError(key));
  if (*found < min || *found > max) {
    return DataLoss("{}: metadata key {} is {}; {} to {} is allowed", name_, QuoteForError(key), *found, min, max);
  }
  return *found;
}

StatusOr<std::string_view> GgufFile::RequireString(std::string_view key) const {
  ASSIGN_OR_RETURN(const std::optional<std::string_view> found, GetString(key));
  if (!found) return DataLoss("{}: metadata key {} is missing", name_, QuoteForError(key));
  return *found;
}

std::optional<uint64_t> GgufFile::ArraySize(std::string_view key) const {
  const std::byte* value = FindValue(key);
  if (value == nullptr || static_cast<GgufType>(Load<uint32_t>(value)) != GgufType::kArray) return std::nullopt;
  return Load<uint64_t>(value + 8);
}

StatusOr<const std::byte*> GgufFile::RequireArray(std::string_view key, std::string_view wanted) const {
  const std::byte* value = FindValue(key);
  if (value == nullptr) return DataLoss("{}: metadata key {} is missing", name_, QuoteForError(key));
  if (static_cast<GgufType>(Load<uint32_t>(value)) != GgufType::kArray) return WrongType(key, wanted);
  return value + 4;
}

StatusOr<std::vector<std::string_view>> GgufFile::GetStrings(std::string_view key) const {
  ASSIGN_OR_RETURN(const std::byte* array, RequireArray(key, "an array of strings"));
  if (static_cast<GgufType>(Load<uint32_t>(array)) != GgufType::kString) return WrongType(key, "an array of strings");
  std::vector<std::string_view> out(Load<uint64_t>(array + 4));
  const std::byte* p = array + 12;
  for (std::string_view& item : out) {
    item = {reinterpret_cast<const char*>(p + 8), static_cast<size_t>(Load<uint64_t>(p))};
    p += 8 + item.size();
  }
  return out;
}

StatusOr<std::vector<int64_t>> GgufFile::GetInts(std::string_view key) const {
  ASSIGN_OR_RETURN(const std::byte* array, RequireArray(key, "an array of integers"));
  const GgufType type = static_cast<GgufType>(Load<uint32_t>(array));
  const uint64_t size = ScalarBytes(type);
  std::vector<int64_t> out(Load<uint64_t>(array + 4));
  for (size_t i = 0; i < out.size(); ++i) {
    const std::byte* p = array + 12 + i * size;
    const std::optional<int64_t> item = type == GgufType::kBool ? Load<uint8_t>(p) : IntAt(type, p);
    if (!item) return WrongType(key, "an array of integers");
    out[i] = *item;
  }
  return out;
}

StatusOr<std::vector<float>> GgufFile::GetFloats(std::string_view key) const {
  ASSIGN_OR_RETURN(const std::byte* array, RequireArray(key, "an array of f32"));
  if (static_cast<GgufType>(Load<uint32_t>(array)) != GgufType::kFloat32) return WrongType(key, "an array of f32");
  std::vector<float> out(Load<uint64_t>(array + 4));
  if (!out.empty()) std::memcpy(out.data(), array + 12, out.size() * sizeof(float));
  return out;
}

}  // namespace optiq
