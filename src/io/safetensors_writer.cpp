#include "io/safetensors_writer.hpp"

#include "io/error.hpp"
#include "io/json.hpp"

#include <fmt/format.h>

#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <system_error>
#include <utility>

namespace gqmm::io {
namespace {

/// The data begin at a multiple of this, a cache line, and wide types come first: every tensor is aligned to its own elements.
constexpr std::size_t data_alignment = 64;
constexpr std::size_t length_bytes = 8;  // of the header's length

/// What open(path, O_CREAT) would have given; mkstemp gives 0600. The process's mask can only be read by setting it.
::mode_t default_file_mode() {
  const ::mode_t mask = ::umask(022);
  ::umask(mask);
  return 0666 & ~mask;
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(std::filesystem::path path, const std::vector<TensorLayout>& tensors,
                                     const Metadata& metadata, bool overwrite)
    : path_(std::move(path)), overwrite_(overwrite) {
  std::error_code ignored;
  if (!overwrite && std::filesystem::exists(std::filesystem::symlink_status(path_, ignored))) {
    fail("exists already; remove it or choose another name");
  }
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
    const Slot slot = {offset, static_cast<std::uint64_t>(*size)};
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
  const std::size_t header_end = length_bytes + text.size();
  text.resize((header_end + data_alignment - 1) / data_alignment * data_alignment - length_bytes, ' ');
  std::string length;
  for (std::size_t i = 0; i < length_bytes; ++i) {
    length += static_cast<char>(text.size() >> (8 * i) & 0xffU);
  }
  for (auto& [name, slot] : slots_) {
    slot.offset += length.size() + text.size();
  }

  temporary_ = path_.native() + ".XXXXXX";
  fd_ = ::mkstemp(temporary_.data());
  if (fd_ < 0) {
    const int error = errno;
    temporary_.clear();
    fail(system_error_text("cannot create a file in its folder", error));
  }
  try {
    const std::string start = length + text;
    write_at(0, start.data(), start.size());
  } catch (...) {
    ::close(fd_);
    ::unlink(temporary_.c_str());
    throw;
  }
}

SafetensorsWriter::~SafetensorsWriter() {
  if (fd_ >= 0) {
    ::close(fd_);
  }
  if (!temporary_.empty()) {
    ::unlink(temporary_.c_str());
  }
}

void SafetensorsWriter::write(std::string_view name, std::span<const std::byte> bytes) {
  const auto slot = slots_.find(name);
  assert(slot != slots_.end() && slot->second.size == bytes.size());
  write_at(slot->second.offset, bytes.data(), bytes.size());
  slot->second.written = true;
}

void SafetensorsWriter::commit() {
  assert(std::all_of(slots_.begin(), slots_.end(), [](const auto& slot) { return slot.second.written; }));
  if (::fchmod(fd_, default_file_mode()) != 0 || ::fsync(fd_) != 0) {
    fail(system_error_text("cannot write", errno));
  }
  ::close(std::exchange(fd_, -1));
  if (!overwrite_) {
    // link() is the rename that never replaces. Where the file system has no hard links, rename() has to do.
    if (::link(temporary_.c_str(), path_.c_str()) == 0) {
      ::unlink(temporary_.c_str());
      temporary_.clear();
      return;
    }
    if (errno == EEXIST) {
      fail("exists already; remove it or choose another name");
    }
  }
  if (std::rename(temporary_.c_str(), path_.c_str()) != 0) {
    fail(system_error_text("cannot rename the finished file", errno));
  }
  temporary_.clear();
}

void SafetensorsWriter::write_at(std::uint64_t offset, const void* data, std::size_t size) {
  const auto* bytes = static_cast<const std::byte*>(data);
  while (size != 0) {
    const ::ssize_t written = ::pwrite(fd_, bytes, size, static_cast<::off_t>(offset));
    if (written < 0 && errno != EINTR) {
      fail(system_error_text("cannot write", errno));
    }
    if (written > 0) {
      bytes += written;
      offset += static_cast<std::uint64_t>(written);
      size -= static_cast<std::size_t>(written);
    }
  }
}

void SafetensorsWriter::fail(std::string_view problem) const { throw FileError(path_.native(), problem); }

}  // namespace gqmm::io
