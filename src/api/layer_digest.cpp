#include "api/layer_digest.hpp"

#include "api/weight_source.hpp"

#include <gqmm/system.hpp>

#include <bit>
#include <cstddef>
#include <string_view>
#include <type_traits>
#include <variant>

namespace gqmm::detail {
namespace {

/// FNV-1a over 64 bits (Fowler, Noll, Vo): xor a byte, multiply by the prime. It is no protection against intent.
class Fnv {
 public:
  void add(std::uint64_t number) {
    for (int byte = 0; byte < 8; ++byte) {
      add_byte(static_cast<std::uint8_t>(number >> 8 * byte));
    }
  }
  template <class T>
    requires(std::is_integral_v<T> || std::is_enum_v<T>)
  void add(T value) {
    add(static_cast<std::uint64_t>(value));
  }
  void add(float value) { add(std::bit_cast<std::uint32_t>(value)); }
  void add(std::string_view text) {
    add(text.size());
    for (const char character : text) {
      add_byte(static_cast<std::uint8_t>(character));
    }
  }
  /// Adds whether there is a value, and the value by `add_value`.
  template <class T, class Add>
  void add(const std::optional<T>& value, const Add& add_value) {
    add(value.has_value());
    if (value) {
      add_value(*value);
    }
  }
  [[nodiscard]] std::uint64_t value() const { return value_ == 0 ? 1 : value_; }

 private:
  void add_byte(std::uint8_t byte) { value_ = (value_ ^ byte) * 0x100000001b3; }

  std::uint64_t value_ = 0xcbf29ce484222325;
};

struct AddWeights {
  Fnv& digest;

  void operator()(const array& dense) const {
    digest.add(dense.dtype());
    digest.add(dense.dim(-2));
    digest.add(dense.dim(-1));
  }
  void operator()(const QuantizedWeights& weights) const { add(weights, weights.transpose); }
  void operator()(const PackedWeights& weights) const { add(weights, weights.transpose()); }

 private:
  template <class Weights>
  void add(const Weights& weights, bool transpose) const {
    const WeightSource source = source_of("ExpertLayer", weights, std::nullopt);
    digest.add(source.settings.format->mode);
    digest.add(source.settings.format->bits);
    digest.add(source.settings.group_size);
    digest.add(source.extents.N);
    digest.add(source.extents.K);
    digest.add(source.scales);
    digest.add(source.biases);
    digest.add(transpose);
  }
};

struct AddConstants {
  Fnv& digest;

  void operator()(const SwiGLU& of) const {
    digest.add(of.alpha);
    digest.add(of.limit, [&](float limit) { digest.add(limit); });
    digest.add(of.bias);
  }
  void operator()(const GeGLU& of) const { digest.add(of.approximate); }
  void operator()(const SiTU& of) const {
    digest.add(of.beta);
    digest.add(of.linear_beta, [&](float linear_beta) { digest.add(linear_beta); });
  }
  void operator()(const SwiGLUStep& of) const { digest.add(of.limit); }
  void operator()(const SiLU& /*of*/) const {}
  void operator()(const GELU& of) const { digest.add(of.approximate); }
  void operator()(const ReLU2& /*of*/) const {}
};

void add_weights(Fnv& digest, const ExpertWeights& weights, const std::optional<array>& bias) {
  digest.add(std::holds_alternative<array>(weights));
  std::visit(AddWeights{digest}, weights);
  digest.add(bias, [&](const array& of) { digest.add(of.dtype()); });
}

void add_activation(Fnv& digest, const Activation& activation) {
  digest.add(name_of(activation));
  std::visit(AddConstants{digest}, activation);
}

/// The layers of a block: gate, up and down of MoeFfnOptions or of SharedExperts.
template <class Biases>
void add_block(Fnv& digest, const ExpertWeights& gate, const std::optional<ExpertWeights>& up, const ExpertWeights& down,
               const Biases& biases) {
  add_weights(digest, gate, biases.gate_bias);
  digest.add(up, [&](const ExpertWeights& of) { add_weights(digest, of, biases.up_bias); });
  add_weights(digest, down, biases.down_bias);
}

std::uint64_t digest_of_version() {
  Fnv digest;
  digest.add(version());
  return digest.value();
}

std::uint64_t digest_of_owners(const ExpertOwners& owners) {
  Fnv digest;
  for (std::int64_t expert = 0; expert < owners.num_experts(); ++expert) {
    const std::span<const int> ranks = owners.ranks_of(expert);
    digest.add(ranks.size());
    for (const int rank : ranks) {
      digest.add(rank);
    }
  }
  return digest.value();
}

}  // namespace

LayerDigest digest_of(const ExpertOwners& owners, const ExpertWeights& gate, const std::optional<ExpertWeights>& up,
                      const ExpertWeights& down, const MoeFfnOptions& options, int chunks) {
  Fnv weights;
  add_block(weights, gate, up, down, options);
  weights.add(options.shared,
              [&](const SharedExperts& shared) { add_block(weights, shared.gate, shared.up, shared.down, shared); });
  Fnv others;
  add_activation(others, options.activation);
  others.add(options.gate_up_order);
  others.add(options.precision);
  others.add(chunks);
  if (options.shared) {
    add_activation(others, options.shared->activation.value_or(options.activation));
  }
  return {
      .version = digest_of_version(), .owners = digest_of_owners(owners), .weights = weights.value(), .options = others.value()};
}

}  // namespace gqmm::detail
