#include "io/safetensors_writer.hpp"

#include "io/error.hpp"
#include "io/json.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <utility>

namespace gqmm::io {
namespace {

/// The data begin at a multiple of this, which is the size of a cache line. Tensors of wide types come first, so that every
/// tensor is aligned to its elements.
constexpr std::size_t data_alignment = 64;
constexpr std::size_t header_length_bytes = 8;  // the length of the header is stored in so many bytes

OutputPath checked_output(const std::filesystem::path& path, bool overwrite) {
  OutputPath target = inspect_output(path);
  if (target.mode && !overwrite) {
    throw FileError(path.native(), "exists already; remove it or choose another name");
  }
  return target;
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path, const std::vector<TensorLayout>& tensors,
                                     const Metadata& metadata, bool overwrite)
    : SafetensorsWriter(path, checked_output(path, overwrite), tensors, metadata) {
  overwrite_ = overwrite;
}

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path, OutputPath target,
                                     const std::vector<TensorLayout>& tensors, const Metadata& metadata)
    : SafetensorsWriter(PendingFile(folder_of(target.path), path.native()), tensors, metadata) {
  target_ = std::move(target);
}

SafetensorsWriter::SafetensorsWriter(PendingFile file, const std::vector<TensorLayout>& tensors, const Metadata& metadata)
    : file_(std::move(file)) {
  const std::string start = lay_out(tensors, metadata);
  file_.reserve(file_size_);
  file_.write_at(0, std::as_bytes(std::span(start)));
}

/// Fills slots_ and file_size_, and returns the bytes before the data.
std::string SafetensorsWriter::lay_out(const std::vector<TensorLayout>& tensors, const Metadata& metadata) {
  std::vector<const TensorLayout*> order;
  for (const TensorLayout& tensor : tensors) {
    order.push_back(&tensor);
  }
  std::sort(order.begin(), order.end(), [](const TensorLayout* a, const TensorLayout* b) {
    const int a_bits = bits_of_type(a->type).value_or(0);
    const int b_bits = bits_of_type(b->type).value_or(0);
    return a_bits != b_bits ? a_bits > b_bits : a->name < b->name;
  });
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) {
    header["__metadata__"] = metadata;
  }
  std::uint64_t offset = 0;
  for (const TensorLayout* tensor : order) {
    const auto size = byte_count(tensor->type, tensor->shape);
    if (!size) {
      fail(fmt::format("tensor {}: {} of shape {} cannot be stored; the bits of a tensor must fill whole bytes, 2^63 at most",
                       in_quotes(tensor->name), printable(tensor->type), to_string(tensor->shape)));
    }
    const auto bytes = static_cast<std::uint64_t>(*size);
    const Slot slot = {offset, bytes, bytes};
    if (tensor->name == "__metadata__") {
      fail("a tensor cannot have the name \"__metadata__\", which the format keeps for itself; rename it");
    }
    if (!slots_.emplace(tensor->name, slot).second) {
      fail(fmt::format("two tensors would have the name {}; rename one", in_quotes(tensor->name)));
    }
    offset += slot.size;
    header[tensor->name] = {{"dtype", tensor->type}, {"shape", tensor->shape}, {"data_offsets", {slot.offset, offset}}};
  }
  std::string text = header.dump();
  const std::size_t header_end = header_length_bytes + text.size();
  text.resize((header_end + data_alignment - 1) / data_alignment * data_alignment - header_length_bytes, ' ');
  std::string length;
  for (std::size_t i = 0; i < header_length_bytes; ++i) {
    length += static_cast<char>(text.size() >> (8 * i) & 0xffU);
  }
  for (auto& [name, slot] : slots_) {
    slot.offset += length.size() + text.size();
  }
  file_size_ = length.size() + text.size() + offset;
  return length + text;
}

void SafetensorsWriter::write_part(std::string_view name, std::uint64_t first, std::span<const std::byte> bytes) {
  const auto slot = slots_.find(name);
  assert(slot != slots_.end() && first + bytes.size() <= slot->second.size && bytes.size() <= slot->second.missing);
  file_.write_at(slot->second.offset + first, bytes);
  slot->second.missing -= bytes.size();
}

void SafetensorsWriter::commit() { publish(target_, overwrite_); }

void SafetensorsWriter::commit_as(const std::filesystem::path& path) { publish({path, std::nullopt}, false); }

void SafetensorsWriter::publish(const OutputPath& target, bool replace) {
  assert(std::all_of(slots_.begin(), slots_.end(), [](const auto& slot) { return slot.second.missing == 0; }));
  file_.publish(target, replace);
}

void SafetensorsWriter::fail(std::string_view problem) const { throw FileError(file_.origin(), problem); }

}  // namespace gqmm::io
