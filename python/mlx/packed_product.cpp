#include "packed_product.hpp"

#include "arrays.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace gqmm::mlx {
namespace {

/// The primitive of a product with packed parameters. Its inputs are those of a QuantizedProduct without w, scales and biases: x,
/// the global_scale if there is one, and the index arrays that were given.
class PackedProduct final : public mx::UnaryPrimitive {
 public:
  PackedProduct(mx::Stream stream, const ProductArrays& operands, const QuantizedProductSettings& settings,
                std::shared_ptr<const PackedParameters> packed)
      : UnaryPrimitive(stream), in_place_(stream, operands, settings, nullptr), settings_(settings), packed_(std::move(packed)) {}

  [[nodiscard]] const char* name() const override { return "GqmmPackedProduct"; }
  [[nodiscard]] bool is_equivalent(const Primitive& other) const override {
    const auto& that = static_cast<const PackedProduct&>(other);
    return packed_ == that.packed_ && in_place_.is_equivalent(that.in_place_);
  }
  std::vector<mx::Shape> output_shapes(const std::vector<mx::array>& inputs) override {
    return in_place_.output_shapes(with_parts(inputs));
  }

  void eval_cpu(const std::vector<mx::array>& inputs, mx::array& out) override {
    const ProductArrays weak = in_place_.operands_of(with_parts(weak_copies(inputs)));
    if (out.size() != 0) {
      in_place_.check_known_indices(weak);
    }
    evaluate_on_stream(stream(), inputs, out, [operands = weak, settings = settings_, packed = packed_](mx::array& y) {
      multiply_by_packed(operands, settings, packed->weights(), y);
    });
  }
  void eval_gpu(const std::vector<mx::array>&, mx::array&) override {
    throw std::runtime_error("GqmmPackedProduct runs on the CPU only; packed parameters are the CPU's.");
  }

  // The transforms are those of the product in place. Its parts are unpacked where they are needed.
  std::vector<mx::array> jvp(const std::vector<mx::array>& primals, const std::vector<mx::array>& tangents,
                             const std::vector<int>& argnums) override {
    return in_place_.jvp(with_parts(primals), tangents, with_parts(argnums));
  }
  std::vector<mx::array> vjp(const std::vector<mx::array>& primals, const std::vector<mx::array>& cotangents,
                             const std::vector<int>& argnums, const std::vector<mx::array>& outputs) override {
    return in_place_.vjp(with_parts(primals), cotangents, with_parts(argnums), outputs);
  }
  std::pair<std::vector<mx::array>, std::vector<int>> vmap(const std::vector<mx::array>& inputs,
                                                           const std::vector<int>& axes) override {
    std::vector<int> all_axes = axes;
    all_axes.insert(all_axes.begin() + 1, packed_->parts(), -1);
    return in_place_.vmap(with_parts(inputs), all_axes);
  }

 private:
  [[nodiscard]] std::vector<mx::array> with_parts(std::vector<mx::array> inputs) const {
    for (std::size_t index = packed_->parts(); index-- > 0;) {
      inputs.insert(inputs.begin() + 1, packed_->part(index));
    }
    return inputs;
  }
  [[nodiscard]] std::vector<int> with_parts(std::vector<int> argnums) const {
    for (int& argnum : argnums) {
      argnum += argnum == 0 ? 0 : static_cast<int>(packed_->parts());
    }
    return argnums;
  }

  QuantizedProduct in_place_;
  QuantizedProductSettings settings_;
  std::shared_ptr<const PackedParameters> packed_;
};

}  // namespace

mx::array packed_product(const ProductArrays& operands, const QuantizedProductSettings& settings, mx::Stream stream,
                         std::shared_ptr<const PackedParameters> packed) {
  const ResultType result = result_of_quantized_product(operands, settings);
  std::vector<mx::array> inputs = operands.flatten();
  inputs.erase(inputs.begin() + 1, inputs.begin() + 1 + static_cast<std::ptrdiff_t>(packed->parts()));
  return mx::array({result.shape.begin(), result.shape.end()}, mlx_dtype(result.dtype),
                   std::make_shared<PackedProduct>(stream, operands, settings, std::move(packed)), std::move(inputs));
}

}  // namespace gqmm::mlx
