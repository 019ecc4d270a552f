#include "packed_parameters.hpp"

#include "arrays.hpp"
#include "evaluation_errors.hpp"

#include <mlx/allocator.h>
#include <mlx/backend/cpu/encoder.h>
#include <mlx/primitives.h>

#include <atomic>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace gqmm::mlx {
namespace {

constexpr std::size_t biases_part = 2;

std::atomic<std::int64_t> held_count = 0;
std::atomic<std::int64_t> held_bytes = 0;

/// The primitive of an array that stands for a part. Its evaluation unpacks the part.
class UnpackedPart final : public mx::UnaryPrimitive {
 public:
  UnpackedPart(mx::Stream stream, std::shared_ptr<const PackedParameters> packed, std::size_t index)
      : UnaryPrimitive(stream), packed_(std::move(packed)), index_(index) {}

  [[nodiscard]] const char* name() const override { return "GqmmUnpackedPart"; }
  [[nodiscard]] bool is_equivalent(const Primitive& other) const override {
    const auto& that = static_cast<const UnpackedPart&>(other);
    return packed_ == that.packed_ && index_ == that.index_;
  }
  void eval_cpu(const std::vector<mx::array>&, mx::array& out) override {
    out.set_data(mx::allocator::malloc(out.nbytes()));
    mx::cpu::get_command_encoder(stream()).dispatch(
        remembering_errors([packed = packed_, index = index_, out = mx::array::unsafe_weak_copy(out)]() mutable {
          const QuantizedWeights unpacked = unpack(packed->weights());
          const array& part = index == 0 ? unpacked.w : index == biases_part ? unpacked.biases.value() : unpacked.scales;
          if (out.size() != 0) {
            std::memcpy(out.data<std::byte>(), part.bytes(), out.nbytes());
          }
        }));
  }
  void eval_gpu(const std::vector<mx::array>&, mx::array&) override {
    throw std::runtime_error("packed parameters are unpacked on the CPU only");
  }

  [[nodiscard]] const std::shared_ptr<const PackedParameters>& packed() const { return packed_; }
  [[nodiscard]] std::size_t index() const { return index_; }

 private:
  std::shared_ptr<const PackedParameters> packed_;
  std::size_t index_;
};

const UnpackedPart* part_of(const mx::array& a) {
  return a.status() == mx::array::Status::unscheduled && a.has_primitive() ? dynamic_cast<const UnpackedPart*>(&a.primitive())
                                                                           : nullptr;
}

}  // namespace

PackedParameters::PackedParameters(PackedWeights weights, std::vector<Outline> outlines)
    : weights_(std::move(weights)), outlines_(std::move(outlines)) {
  held_count += 1;
  held_bytes += static_cast<std::int64_t>(weights_.nbytes());
}

PackedParameters::~PackedParameters() {
  held_count -= 1;
  held_bytes -= static_cast<std::int64_t>(weights_.nbytes());
}

std::shared_ptr<PackedParameters> PackedParameters::pack(const std::vector<mx::array>& parts, const WeightSettings& settings) {
  QuantizedWeights arrays = settings.without_arrays();
  arrays.w = view_of(parts[0]);
  arrays.scales = view_of(parts[1]);
  if (parts.size() > biases_part) {
    arrays.biases = view_of(parts[biases_part]);
  }
  PackedWeights weights = gqmm::pack(arrays);
  std::vector<Outline> outlines;
  for (const mx::array& part : parts) {
    outlines.push_back({part.shape(), part.dtype()});
  }
  return std::shared_ptr<PackedParameters>(new PackedParameters(std::move(weights), std::move(outlines)));
}

std::int64_t PackedParameters::original_bytes() const {
  std::int64_t bytes = 0;
  for (std::size_t index = 0; index < parts(); ++index) {
    bytes += static_cast<std::int64_t>(part(index).nbytes());
  }
  return bytes;
}

mx::array PackedParameters::part(std::size_t index) const {
  const auto& [shape, dtype] = outlines_.at(index);
  return mx::array(shape, dtype,
                   std::make_shared<UnpackedPart>(mx::default_stream(mx::Device(mx::Device::cpu)), shared_from_this(), index),
                   {});
}

bool PackedParameters::is_part(const mx::array& a, std::size_t index) const {
  const UnpackedPart* part = part_of(a);
  return part != nullptr && part->packed().get() == this && part->index() == index;
}

std::shared_ptr<const PackedParameters> PackedParameters::of_parts(const std::vector<mx::array>& arrays) {
  const UnpackedPart* first = part_of(arrays.front());
  if (first == nullptr || first->packed()->parts() != arrays.size()) {
    return nullptr;
  }
  for (std::size_t index = 0; index < arrays.size(); ++index) {
    if (!first->packed()->is_part(arrays[index], index)) {
      return nullptr;
    }
  }
  return first->packed();
}

PackedParameterCounts packed_parameter_counts() { return {held_count, held_bytes}; }

}  // namespace gqmm::mlx
