// What must be equal on all ranks of a divided layer, in a few numbers.
#pragma once

#include "namespaces.hpp"

#include <gqmm/dispatch.hpp>
#include <gqmm/moe.hpp>

#include <cstdint>
#include <optional>

namespace gqmm::detail {

/// Digests of what ranks compare. Each is a number of 64 bits (FNV-1a), and none is 0.
struct LayerDigest {
  std::uint64_t version = 0;  // of the library
  std::uint64_t owners = 0;   // which ranks hold each expert
  std::uint64_t weights = 0;  // shapes and formats of an expert's weights and biases, and of those of shared experts
  std::uint64_t options = 0;  // activations, the order of gate and up, precision, chunks
};

/// The digest of a layer whose arguments are valid. chunks: 0 if each call decides. Packed weights have the digest of those that
/// they were made of. The values of weights and the number of experts on a rank are no part of it.
LayerDigest digest_of(const ExpertOwners& owners, const ExpertWeights& gate, const std::optional<ExpertWeights>& up,
                      const ExpertWeights& down, const MoeFfnOptions& options, int chunks);

}  // namespace gqmm::detail
