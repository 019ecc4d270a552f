// Weights rearranged once, at load time, into the order in which the kernels read them.
#pragma once

#include <gqmm/array.hpp>
#include <gqmm/export.hpp>
#include <gqmm/stream.hpp>
#include <gqmm/types.hpp>

#include <filesystem>
#include <memory>
#include <optional>
#include <utility>

namespace gqmm {

/// The members mean what those of GatherQmmOptions do; products over the packed weights have these settings.
struct GQMM_API PackOptions {
  std::optional<array> biases = {};
  std::optional<int> group_size = {};
  std::optional<int> bits = {};
  Mode mode = Mode::affine;
  bool transpose = true;
  std::optional<array> global_scale = {};
  Stream stream = {};
};

/// An immutable, shared copy of quantized weights in kernel order, with its settings. Results are bit-identical to those from
/// the original arrays. Copies of the object share the memory.
class GQMM_API PackedWeights {
 public:
  struct Data;  // src/plan/packed.hpp
  explicit PackedWeights(std::shared_ptr<const Data> data) : data_(std::move(data)) {}

  [[nodiscard]] Mode mode() const noexcept;
  [[nodiscard]] int bits() const noexcept;
  [[nodiscard]] int group_size() const noexcept;
  [[nodiscard]] bool transpose() const noexcept;
  /// Shape of the dequantized weights: (…, N, K) when transpose, else (…, K, N).
  [[nodiscard]] const Shape& shape() const noexcept;
  /// Bytes of memory held.
  [[nodiscard]] std::size_t nbytes() const noexcept;

  /// Writes a file that load() reads: safetensors, with the settings and a version among its metadata (docs/formats.md). The file
  /// is whole or absent. An existing regular file is replaced in one step and keeps its permissions; a symbolic link is followed;
  /// anything else (a device, a named pipe, a folder) is never replaced. Throws std::runtime_error if it cannot be written.
  void save(const std::filesystem::path& path) const;
  /// Maps such a file into memory: nothing is read before a product needs it, and processes share it. Throws std::runtime_error
  /// if the file cannot be read or is not one that save() wrote.
  [[nodiscard]] static PackedWeights load(const std::filesystem::path& path);

  [[nodiscard]] const Data& data() const noexcept { return *data_; }

 private:
  std::shared_ptr<const Data> data_;
};

/// Copies w, scales and biases (shapes and types as in gather_qmm) into kernel order. Throws as gather_qmm does.
[[nodiscard]] GQMM_API PackedWeights pack(const array& w, const array& scales, const PackOptions& options = {});

struct GQMM_API UnpackedWeights {
  array w;                            ///< uint32 (…, N, K·bits/32) when transpose, else (…, K, N·bits/32)
  array scales;                       ///< (…, N, K/group_size) when transpose, else (…, K, N/group_size), in the type packed
  std::optional<array> biases;        ///< affine only: the shape of scales
  std::optional<array> global_scale;  ///< float32, the leading shape of w; nullopt if pack was given none
};

/// The inverse: row-major copies with every bit that pack was given, also of weights that were saved and loaded. (A single
/// global_scale comes back once per matrix.)
[[nodiscard]] GQMM_API UnpackedWeights unpack(const PackedWeights& packed);

}  // namespace gqmm
