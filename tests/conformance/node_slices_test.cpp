// Slices of a product's outputs, each computed on a memory node of its own at the same time, have the bits of the whole product.
// The two nodes share out the processors of this machine. The thread sanitizer runs this suite.
#include "conformance/support/check.hpp"
#include "conformance/support/problems.hpp"
#include "formats/registry.hpp"
#include "threads/node_binding.hpp"
#include "threads/node_files.hpp"

#include <gqmm/gqmm.hpp>

#include <gtest/gtest.h>

#include <cstring>
#include <optional>
#include <thread>
#include <vector>

namespace gqmm::conformance {

using namespace detail;

namespace {

/// The outputs [first, last) of a product.
struct Slice {
  std::int64_t first;
  std::int64_t last;
};

/// Cuts N outputs into parts of about equal size, at multiples of `unit`.
std::vector<Slice> slices_of(std::int64_t N, int parts, std::int64_t unit) {
  std::vector<Slice> slices;
  for (int part = 0; part < parts; ++part) {
    slices.push_back({N / unit * part / parts * unit, part + 1 == parts ? N : N / unit * (part + 1) / parts * unit});
  }
  return slices;
}

/// A view of the elements [first, last) along an axis.
array view_of(const array& a, int axis, std::int64_t first, std::int64_t last) {
  Shape shape = a.shape();
  shape[static_cast<std::size_t>(axis < 0 ? axis + a.rank() : axis)] = last - first;
  return array::borrow(a.bytes() + first * a.stride(axis), std::move(shape), a.dtype(), a.strides(), a.owner());
}

/// Views of the part of the weights that gives the outputs of a slice.
QuantizedWeights slice_of(const QuantizedWeights& weights, const Slice& slice) {
  const QuantizedWeights resolved = weights.resolved();
  const int axis = weights.transpose ? -2 : -1;
  const auto view = [&](const array& a, std::int64_t outputs, std::int64_t elements) {
    return weights.transpose ? view_of(a, axis, slice.first, slice.last)
                             : view_of(a, axis, slice.first * elements / outputs, slice.last * elements / outputs);
  };
  QuantizedWeights part = weights;
  part.w = view(weights.w, 32, *resolved.bits);
  part.scales = view(weights.scales, *resolved.group_size, 1);
  if (weights.biases) {
    part.biases = view(*weights.biases, *resolved.group_size, 1);
  }
  return part;
}

/// Puts slices of the last dimension together.
array concatenated(const std::vector<array>& slices, const Shape& shape) {
  array whole = array::empty(shape, slices.front().dtype());
  const std::int64_t row = whole.dim(-1) * whole.itemsize();
  std::byte* to = whole.mutable_bytes();
  for (const array& slice : slices) {
    const std::int64_t width = slice.dim(-1) * slice.itemsize();
    for (std::int64_t i = 0; i < whole.size() / whole.dim(-1); ++i) {
      std::memcpy(to + i * row, slice.bytes() + i * width, static_cast<std::size_t>(width));
    }
    to += width;
  }
  return whole;
}

/// Computes every slice, those of even number on one node and the others on another, at the same time.
array by_nodes(const Operands& operands, const std::vector<Slice>& slices, bool packed, const Shape& shape) {
  const std::vector<threads::NodeProcessors> nodes = threads::two_nodes();
  std::vector<std::optional<array>> results(slices.size());
  std::vector<std::thread> callers;
  for (std::size_t node = 0; node < nodes.size(); ++node) {
    callers.emplace_back([&, node] {
      const threads::NodeBinding binding(nodes[node].node, nodes[node].processors);
      GatherQmmOptions options = operands.options;
      options.stream.threads = 2;
      for (std::size_t i = node; i < slices.size(); i += nodes.size()) {
        const QuantizedWeights weights = slice_of(operands.weights, slices[i]);
        results[i] = packed ? gather_qmm(operands.x, gqmm::pack(weights, {.stream = options.stream}), options)
                            : gather_qmm(operands.x, weights, options);
      }
    });
  }
  for (std::thread& caller : callers) {
    caller.join();
  }
  std::vector<array> parts;
  for (const std::optional<array>& result : results) {
    parts.push_back(*result);
  }
  return concatenated(parts, shape);
}

Spec spec_of(const Format& format, bool transpose, Dtype x_dtype) {
  Spec spec;
  spec.format = &format;
  spec.group_size = format.default_group_size;
  spec.x_dtype = x_dtype;
  spec.scale_dtype = x_dtype;
  spec.transpose = transpose;
  spec.N = transpose ? 203 : 8 * spec.group_size;
  spec.K = 2 * spec.group_size;
  spec.pairs = {1, 0, 70, 3};  // kernels for few rows and for many
  spec.seed = 910000;
  return spec;
}

class NodeSlices : public testing::TestWithParam<Format> {};

TEST_P(NodeSlices, OfTheOutputsHaveTheBitsOfTheWhole) {
  for (const bool transpose : {true, false}) {
    for (const Dtype x_dtype : {Dtype::float32, Dtype::bfloat16}) {
      const Spec spec = spec_of(GetParam(), transpose, x_dtype);
      SCOPED_TRACE(describe(spec));
      const Operands operands = make_operands(spec);
      const array whole = call(operands);
      for (const int parts : {2, 3, 4, 8}) {
        const std::vector<Slice> slices = slices_of(spec.N, parts, transpose ? 1 : spec.group_size);
        for (const bool packed : {false, true}) {
          EXPECT_TRUE(same_bits(whole, by_nodes(operands, slices, packed, whole.shape())))
              << parts << " parts" << (packed ? ", packed" : "");
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(EveryFormat, NodeSlices, testing::ValuesIn(formats().begin(), formats().end()), [](const auto& test) {
  return std::string(name_of(test.param.mode)) + std::to_string(test.param.bits);
});

// The node of a stream goes through the operator to its threads: while it runs, the caller has the processors of the node alone.
TEST(Streams, WithANodeGiveTheSameBitsAndTheCallerItsProcessorsBack) {
  const threads::ProcessorSet before = threads::ProcessorSet::of_thread();
  const Operands operands = make_operands(spec_of(formats().front(), true, Dtype::float32));
  const array expected = call(operands);
  for (const MemoryNode& node : memory_nodes()) {
    for (const int number : {0, 1, 3}) {
      Operands on_node = operands;
      on_node.options.stream = {.threads = number, .node = node.number};
      EXPECT_TRUE(same_bits(expected, call(on_node)));
      EXPECT_TRUE(same_bits(expected, gather_qmm(operands.x, pack(on_node), on_node.options)));
      EXPECT_EQ(threads::ProcessorSet::of_thread(), before);
    }
  }
}

}  // namespace
}  // namespace gqmm::conformance
