// Packed weights: quantized weights that were rearranged once, at load time, into the order in which the kernels read them.
#pragma once

#include <gqmm/array.hpp>
#include <gqmm/export.hpp>
#include <gqmm/file_error.hpp>  // IWYU pragma: export
#include <gqmm/quantized_weights.hpp>
#include <gqmm/stream.hpp>
#include <gqmm/types.hpp>

#include <filesystem>
#include <memory>
#include <string_view>
#include <utility>

namespace gqmm {

/// Options of pack.
struct GQMM_API PackOptions {
  Stream stream = {};  ///< threads that copy; each writes a share of the memory first, which then lies on its memory node
};

/// An immutable copy of quantized weights in kernel order, together with their settings. Products have the same bits as with the
/// original arrays. Copies of the object share the memory. Any number of threads may use one object, or copies of it, at the same
/// time.
class GQMM_API PackedWeights {
 public:
  struct Data;  // defined in src/plan/packed.hpp
  /// For use in the library itself. Programs make packed weights by pack() and load().
  explicit PackedWeights(std::shared_ptr<const Data> data) : data_(std::move(data)) {}

  /// The weight format.
  [[nodiscard]] Mode mode() const noexcept;
  /// The number of bits of a code.
  [[nodiscard]] int bits() const noexcept;
  /// The number of weights that share a scale.
  [[nodiscard]] int group_size() const noexcept;
  /// Whether products are x @ ŵ.T.
  [[nodiscard]] bool transpose() const noexcept;
  /// The shape of the dequantized weights: (…, N, K) if transpose() is true, else (…, K, N).
  [[nodiscard]] const Shape& shape() const noexcept;
  /// The number of bytes of memory that the weights occupy.
  [[nodiscard]] std::size_t nbytes() const noexcept;

  /// Returns the same weights with a global scale; both objects share the memory. This is for nvfp4 only. `global_scale` is
  /// float32 and has one value for each leading matrix, or a single value for all of them. Throws std::invalid_argument, whose
  /// message starts with "[op] ", if these weights have a global scale already or if `global_scale` does not fit them.
  [[nodiscard]] PackedWeights with_global_scale(const array& global_scale, std::string_view op = "with_global_scale") const;

  /// Writes a file that load() reads. Its format is safetensors, with the settings and a version in its metadata
  /// (docs/reference/formats.md). The file is complete or absent. An existing regular file is replaced in one step and keeps its
  /// permissions. A symbolic link is followed. Anything else (a device, a named pipe, a folder) is never replaced. Throws
  /// FileError if the file cannot be written. Throws Interrupted, before there is a file, if this thread's
  /// InterruptCheck asked to stop.
  void save(const std::filesystem::path& path) const;
  /// Maps such a file into memory. Nothing is read before a product needs it, and processes share the memory. Throws
  /// FileError if the file cannot be read or was not written by save().
  [[nodiscard]] static PackedWeights load(const std::filesystem::path& path);

  /// For use in the library itself.
  [[nodiscard]] const Data& data() const noexcept { return *data_; }

 private:
  std::shared_ptr<const Data> data_;
};

/// Copies the arrays of the weights into kernel order. The packed weights keep the settings. Throws std::invalid_argument as
/// gather_qmm does.
[[nodiscard]] GQMM_API PackedWeights pack(const QuantizedWeights& weights, const PackOptions& options = {});

/// The inverse of pack: returns row-major copies with every bit that pack was given, and every setting filled in. This holds for
/// weights that were saved and loaded, too. A single global_scale comes back as one value for each matrix.
[[nodiscard]] GQMM_API QuantizedWeights unpack(const PackedWeights& packed);

}  // namespace gqmm
