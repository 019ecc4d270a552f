#include "io/packed_file.hpp"

#include "io/error.hpp"
#include "io/safetensors_writer.hpp"

#include "api/check.hpp"
#include "formats/registry.hpp"
#include "plan/packed.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace gqmm {

using namespace detail;

namespace {

using io::FileError;
using Data = PackedWeights::Data;

constexpr std::string_view version_key = "gqmm.packed_weights";
constexpr std::string_view version = "1";
constexpr std::string_view pack_again = "the file is damaged: pack the weights and save them again";

/// An array of the file, its shape and the types that it may have.
struct PackedArray {
  std::string_view name;
  array Data::* member;
  Shape shape;
  std::vector<Dtype> types;
};

/// The arrays that a file with the settings of `data` must have. Throws std::invalid_argument for settings that contradict each
/// other. Its message begins with "[origin] ".
std::vector<PackedArray> packed_arrays_of(const Data& data, bool has_global_scale, std::string_view origin) {
  const auto& [format, group_size] = data.settings;
  const std::int64_t rows = data.shape[data.shape.size() - 2];
  const std::int64_t row = data.shape.back();
  if (row % group_size != 0) {
    fail(origin, "rows of {} do not hold a whole number of groups of {}; {}", row, group_size, pack_again);
  }
  const auto shaped = [&](std::int64_t cols) {
    return data.transpose ? Shape{data.experts, strips_of(rows), cols, strip_width} : Shape{data.experts, rows, cols};
  };
  const std::int64_t groups = row / group_size;
  const std::int64_t words = checked_product(origin, "words in a row", groups, std::int64_t{group_size} * format->bits / 32);
  const std::vector<Dtype> floats = {Dtype::float32, Dtype::float16, Dtype::bfloat16};
  std::vector<PackedArray> parts = {
      {"codes", &Data::codes, shaped(words), {Dtype::uint32}},
      {"scales", &Data::scales, shaped(groups),
       format->scale_encoding == ScaleEncoding::floating ? floats : std::vector<Dtype>{Dtype::uint8}}};
  if (format->has_biases) {
    parts.push_back({"biases", &Data::biases, shaped(groups), floats});
  }
  if (has_global_scale) {
    parts.push_back({"global_scale", &Data::global_scale, {data.experts}, {Dtype::float32}});
  }
  return parts;
}

class MetadataReader {
 public:
  MetadataReader(const io::Metadata& metadata, std::string_view origin) : metadata_(metadata), origin_(origin) {}

  [[nodiscard]] std::string_view text(std::string_view key) const {
    const auto found = metadata_.find(key);
    if (found == metadata_.end()) {
      throw FileError(origin_, fmt::format("its metadata have no {}; {}", key, pack_again));
    }
    return found->second;
  }
  [[nodiscard]] int integer(std::string_view key) const {
    const std::int64_t value = number(key, text(key));
    if (value > 1'000'000) {
      throw FileError(origin_, fmt::format("{} = {} is out of range; {}", key, value, pack_again));
    }
    return static_cast<int>(value);
  }
  [[nodiscard]] Shape shape(std::string_view key) const {
    Shape result;
    std::string_view left = text(key);
    while (true) {
      const std::size_t comma = left.find(',');
      result.push_back(number(key, left.substr(0, comma)));
      if (comma == std::string_view::npos) {
        return result;
      }
      left.remove_prefix(comma + 1);
    }
  }

 private:
  [[nodiscard]] std::int64_t number(std::string_view key, std::string_view digits) const {
    std::int64_t value = -1;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (error != std::errc() || end != digits.data() + digits.size() || value < 0) {
      throw FileError(origin_, fmt::format("{} = {} is not what it should be; {}", key, io::in_quotes(text(key)), pack_again));
    }
    return value;
  }

  const io::Metadata& metadata_;
  std::string_view origin_;
};

Data read_settings(const io::SafetensorsFile& file, std::string_view origin) {
  const auto found = file.metadata.find(version_key);
  if (found == file.metadata.end()) {
    throw FileError(origin, "is no file of packed weights; make one with PackedWeights.save");
  }
  if (found->second != version) {
    throw FileError(origin, fmt::format("holds packed weights of version {}, and this library reads {}; pack again",
                                        io::in_quotes(found->second), version));
  }
  const MetadataReader metadata(file.metadata, origin);
  const int bits = metadata.integer("bits");
  const int group_size = metadata.integer("group_size");
  Data data;
  data.settings = resolve_settings(origin, mode_from_name(metadata.text("mode"), origin), &bits, &group_size);
  data.transpose = metadata.integer("transpose") != 0;
  data.shape = metadata.shape("shape");
  if (data.shape.size() < 2) {
    throw FileError(origin, fmt::format("shape {} has fewer than two dimensions; {}", to_string(data.shape), pack_again));
  }
  const std::int64_t K = data.transpose ? data.shape.back() : data.shape[data.shape.size() - 2];
  if (K == 0) {  // pack refuses this, because products divide by K
    throw FileError(origin, fmt::format("shape {} has K = 0; {}", to_string(data.shape), pack_again));
  }
  data.experts = checked_count(origin, "the part before the matrices", Shape(data.shape.begin(), data.shape.end() - 2));
  return data;
}

array view_of(const io::SafetensorsFile& file, const PackedArray& part, std::string_view origin) {
  const auto found = file.tensors.find(part.name);
  if (found == file.tensors.end()) {
    throw FileError(origin, fmt::format("there is no tensor {}; {}", part.name, pack_again));
  }
  const io::Tensor& tensor = found->second;
  const auto dtype = tensor.dtype();
  if (!dtype || std::find(part.types.begin(), part.types.end(), *dtype) == part.types.end() || tensor.shape != part.shape) {
    std::vector<std::string_view> types;
    for (const Dtype type : part.types) {
      types.push_back(io::type_name_of(type));
    }
    throw FileError(origin, fmt::format("tensor {} is {} of shape {} where the settings need {} of shape {}; {}", part.name,
                                        io::printable(tensor.type), io::printable(to_string(tensor.shape)),
                                        fmt::join(types, " or "), to_string(part.shape), pack_again));
  }
  return tensor.view();
}

}  // namespace

void PackedWeights::save(const std::filesystem::path& path) const {
  const Data& data = *data_;
  const std::vector<PackedArray> parts = packed_arrays_of(data, data.global_scale.size() != 0, path.native());
  std::vector<io::TensorLayout> layouts;
  for (const PackedArray& part : parts) {
    layouts.push_back({std::string(part.name), std::string(io::type_name_of((data.*part.member).dtype())), part.shape});
  }
  const io::Metadata metadata = {{std::string(version_key), std::string(version)},
                                 {"mode", std::string(name_of(mode()))},
                                 {"bits", fmt::to_string(bits())},
                                 {"group_size", fmt::to_string(group_size())},
                                 {"transpose", transpose() ? "1" : "0"},
                                 {"shape", fmt::format("{}", fmt::join(shape(), ","))}};
  io::SafetensorsWriter writer(path, layouts, metadata, true);
  for (const PackedArray& part : parts) {
    const array& a = data.*part.member;
    writer.write(part.name, {a.bytes(), a.nbytes()});
  }
  writer.commit();
}

PackedWeights PackedWeights::load(const std::filesystem::path& path) {
  return io::packed_weights_of(io::open_safetensors(path), path.native());
}

PackedWeights io::packed_weights_of(const SafetensorsFile& file, std::string_view path) {
  const std::string origin = printable(path);
  try {
    auto data = std::make_shared<Data>(read_settings(file, origin));
    for (const PackedArray& part : packed_arrays_of(*data, file.tensors.contains("global_scale"), origin)) {
      (*data).*part.member = view_of(file, part, origin);
    }
    if (data->global_scale.size() != 0 && !data->format().has_global_scale) {
      throw FileError(origin, fmt::format("mode \"{}\" has no global_scale; {}", name_of(data->format().mode), pack_again));
    }
    return PackedWeights(std::move(data));
  } catch (const std::invalid_argument& error) {  // thrown for settings that contradict each other
    throw FileError(error.what());
  }
}

}  // namespace gqmm
