#include "io/safetensors.hpp"

#include "io/error.hpp"
#include "io/file_kind.hpp"
#include "io/json.hpp"
#include "io/mapped_file.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

namespace gqmm::io {
namespace {

using nlohmann::json;

constexpr std::size_t header_length_bytes = 8;

struct ElementType {
  std::string_view name;
  int bits;
  std::optional<Dtype> dtype = {};
};

constexpr ElementType types[] = {
    {"BOOL", 8, Dtype::bool_},
    {"U8", 8, Dtype::uint8},
    {"U16", 16, Dtype::uint16},
    {"U32", 32, Dtype::uint32},
    {"U64", 64, Dtype::uint64},
    {"I8", 8, Dtype::int8},
    {"I16", 16, Dtype::int16},
    {"I32", 32, Dtype::int32},
    {"I64", 64, Dtype::int64},
    {"F16", 16, Dtype::float16},
    {"BF16", 16, Dtype::bfloat16},
    {"F32", 32, Dtype::float32},
    {"F64", 64, Dtype::float64},
    {"F4", 4},
    {"F6_E2M3", 6},
    {"F6_E3M2", 6},
    {"F8_E4M3", 8},
    {"F8_E5M2", 8},
    {"F8_E8M0", 8},
    {"C64", 64},
};

const ElementType* find_type(std::string_view name) {
  const auto* found =
      std::find_if(std::begin(types), std::end(types), [&](const ElementType& type) { return type.name == name; });
  return found == std::end(types) ? nullptr : found;
}

/// The names of all types, for messages: "BOOL, U8, …".
std::string known_types() {
  std::string names;
  for (const ElementType& type : types) {
    names += fmt::format("{}{}", names.empty() ? "" : ", ", type.name);
  }
  return names;
}

/// Throws the FileError for a file without a safetensors header. The message describes the kind of the file if its beginning
/// tells it, and is `problem` otherwise.
[[noreturn]] void fail_as_other_kind(std::string_view text, std::string_view origin, const std::string& problem) {
  const std::string_view kind = text.empty() ? std::string_view() : describe_other_kind(text);
  if (kind.empty() && text.starts_with('{')) {
    throw FileError(origin, "is JSON text, not a safetensors file; name a safetensors file or the folder of a model");
  }
  throw FileError(origin, kind.empty() ? problem : std::string(kind));
}

/// Returns the header after a check of its length against the size of the file.
std::string_view header_of(std::span<const std::byte> bytes, std::string_view origin) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (bytes.size() < header_length_bytes) {
    fail_as_other_kind(
        text, origin,
        fmt::format("{} bytes are too few for a safetensors file, which begins with the 8-byte length of its header",
                    bytes.size()));
  }
  std::uint64_t length = 0;
  for (std::size_t i = header_length_bytes; i-- > 0;) {
    length = length << 8 | static_cast<std::uint64_t>(bytes[i]);
  }
  const std::size_t available = bytes.size() - header_length_bytes;
  if (length > available) {
    fail_as_other_kind(text, origin,
                       fmt::format("the header should take {} bytes but {} follow its length; the file is truncated or not a "
                                   "safetensors file",
                                   length, available));
  }
  if (length > max_json_bytes) {
    throw FileError(origin, fmt::format("has a header of {} bytes, more than the {} that are allowed", length, max_json_bytes));
  }
  const std::string_view header = text.substr(header_length_bytes, static_cast<std::size_t>(length));
  if (!header.starts_with('{')) {
    fail_as_other_kind(text, origin, "the header does not begin with \"{\"; this is not a safetensors file");
  }
  return header;
}

/// Makes tensors from the entries of the header. They are views of `data`.
class EntryReader {
 public:
  EntryReader(std::span<const std::byte> data, std::shared_ptr<const void> owner, std::string_view origin)
      : data_(data), owner_(std::move(owner)), origin_(origin) {}

  [[nodiscard]] Tensor read(const std::string& name, const json& entry) const {
    const std::string tensor = fmt::format("tensor {}", in_quotes(name));
    if (!entry.is_object()) {
      fail(tensor, fmt::format("its entry is {}, not a JSON object", printable(entry.dump())));
    }
    Tensor result;
    result.owner = owner_;
    result.type = type(tensor, entry);
    result.shape = shape(tensor, entry);
    const auto [begin, end] = offsets(tensor, entry);
    if (begin > end || end > data_.size()) {
      fail(tensor, fmt::format("data_offsets [{}, {}] do not lie in order within the {} bytes of data; the file is truncated or "
                               "damaged",
                               begin, end, data_.size()));
    }
    const auto expected = byte_count(result.type, result.shape);
    if (!expected || static_cast<std::uint64_t>(*expected) != end - begin) {
      fail(tensor, fmt::format("data_offsets [{}, {}] hold {} bytes but {} of shape {} takes {}", begin, end, end - begin,
                               result.type, printable(to_string(result.shape)),
                               expected ? fmt::format("{}", *expected) : "a number of bytes that cannot be stored"));
    }
    result.bytes = data_.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
    return result;
  }

 private:
  [[noreturn]] void fail(std::string_view tensor, std::string_view problem) const {
    throw FileError(origin_, fmt::format("{}: {}", tensor, problem));
  }

  [[nodiscard]] const json& field(const std::string& tensor, const json& entry, const char* key) const {
    const auto found = entry.find(key);
    if (found == entry.end()) {
      fail(tensor, fmt::format("{} is missing", key));
    }
    return *found;
  }

  [[nodiscard]] std::string type(const std::string& tensor, const json& entry) const {
    const json& value = field(tensor, entry, "dtype");
    if (!value.is_string()) {
      fail(tensor, fmt::format("dtype is {}, not a string", printable(value.dump())));
    }
    const auto& name = value.get_ref<const std::string&>();
    if (find_type(name) == nullptr) {
      fail(tensor, fmt::format("unknown dtype {}; {} can be read", in_quotes(name), known_types()));
    }
    return name;
  }

  [[nodiscard]] Shape shape(const std::string& tensor, const json& entry) const {
    const json& value = field(tensor, entry, "shape");
    if (!value.is_array()) {
      fail(tensor, fmt::format("shape is {}, not an array", printable(value.dump())));
    }
    Shape shape;
    for (const json& extent : value) {
      if (!extent.is_number_unsigned() || extent.get<std::uint64_t>() > std::numeric_limits<std::int64_t>::max()) {
        fail(tensor, fmt::format("shape holds {}, which is no extent", printable(extent.dump())));
      }
      shape.push_back(extent.get<std::int64_t>());
    }
    return shape;
  }

  [[nodiscard]] std::pair<std::uint64_t, std::uint64_t> offsets(const std::string& tensor, const json& entry) const {
    const json& value = field(tensor, entry, "data_offsets");
    if (!value.is_array() || value.size() != 2 || !value[0].is_number_unsigned() || !value[1].is_number_unsigned()) {
      fail(tensor, fmt::format("data_offsets is {}, not an array of two offsets", printable(value.dump())));
    }
    return {value[0].get<std::uint64_t>(), value[1].get<std::uint64_t>()};
  }

  std::span<const std::byte> data_;
  std::shared_ptr<const void> owner_;
  std::string_view origin_;
};

Metadata read_metadata(const json& value, std::string_view origin) {
  if (value.is_null()) {  // some tools write null if there are no metadata
    return {};
  }
  if (!value.is_object()) {
    throw FileError(origin, fmt::format("__metadata__ is {}, not a JSON object", printable(value.dump())));
  }
  Metadata metadata;
  for (const auto& [key, text] : value.items()) {
    if (!text.is_string()) {
      throw FileError(origin, fmt::format("__metadata__ {} is {}, not a string", in_quotes(key), printable(text.dump())));
    }
    metadata.emplace(key, text.get_ref<const std::string&>());
  }
  return metadata;
}

/// Throws FileError unless the tensors cover the data exactly once. The specification demands this. Otherwise two readers could
/// read the same file differently.
void check_tiling(const TensorMap& tensors, std::span<const std::byte> data, std::string_view origin) {
  std::vector<const TensorMap::value_type*> by_address;
  by_address.reserve(tensors.size());
  for (const auto& entry : tensors) {
    by_address.push_back(&entry);
  }
  const auto range = [&data](const TensorMap::value_type* entry) {
    const auto begin = static_cast<std::size_t>(entry->second.bytes.data() - data.data());
    return std::pair{begin, begin + entry->second.bytes.size()};
  };
  std::sort(by_address.begin(), by_address.end(), [&range](const auto* a, const auto* b) { return range(a) < range(b); });
  std::size_t covered = 0;
  for (const auto* entry : by_address) {
    const auto [begin, end] = range(entry);
    if (begin != covered) {
      throw FileError(
          origin, fmt::format("tensor {}: data_offsets [{}, {}] {} the data before it, which ends at {}", in_quotes(entry->first),
                              begin, end, begin < covered ? "overlap" : "leave a gap after", covered));
    }
    covered = end;
  }
  if (covered != data.size()) {
    throw FileError(origin, fmt::format("{} bytes after the last tensor belong to none", data.size() - covered));
  }
}

}  // namespace

std::optional<Dtype> Tensor::dtype() const {
  const ElementType* found = find_type(type);
  return found == nullptr ? std::nullopt : found->dtype;
}

array Tensor::view() const { return array::borrow(bytes.data(), shape, dtype().value(), {}, owner); }

std::optional<int> bits_of_type(std::string_view type) {
  const ElementType* found = find_type(type);
  return found == nullptr ? std::nullopt : std::optional(found->bits);
}

std::string_view type_name_of(Dtype dtype) {
  return std::find_if(std::begin(types), std::end(types), [&](const ElementType& type) { return type.dtype == dtype; })->name;
}

std::optional<std::int64_t> byte_count(std::string_view type, const Shape& shape) {
  const std::optional<int> bits = bits_of_type(type);
  if (!bits) {
    return std::nullopt;
  }
  // An extent of zero counts as one in the product. So (0, 2^40, 2^40) is refused too, because its strides would overflow.
  std::int64_t total = *bits;
  bool empty = false;
  for (const std::int64_t extent : shape) {
    empty = empty || extent == 0;
    if (extent < 0 || __builtin_mul_overflow(total, std::max<std::int64_t>(extent, 1), &total)) {
      return std::nullopt;
    }
  }
  if (empty) {
    return 0;
  }
  return total % 8 == 0 ? std::optional(total / 8) : std::nullopt;
}

SafetensorsFile parse_safetensors(std::span<const std::byte> bytes, std::shared_ptr<const void> owner, std::string_view origin) {
  const std::string_view header_text = header_of(bytes, origin);
  const json header = parse_json(header_text, origin);
  const std::span<const std::byte> data = bytes.subspan(header_length_bytes + header_text.size());
  const EntryReader reader(data, std::move(owner), origin);
  SafetensorsFile file;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") {
      file.metadata = read_metadata(entry, origin);
    } else {
      file.tensors.emplace(name, reader.read(name, entry));
    }
  }
  check_tiling(file.tensors, data, origin);
  return file;
}

SafetensorsFile open_safetensors(const std::filesystem::path& path) {
  const auto file = MappedFile::open(path);
  return parse_safetensors(file->bytes(), file, path.native());
}

}  // namespace gqmm::io
