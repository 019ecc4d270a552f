#include "expert_layer.hpp"

#include "arguments.hpp"
#include "arrays.hpp"
#include "dispatch.hpp"
#include "gil.hpp"
#include "import.hpp"
#include "moe_operands.hpp"
#include "sealed_class.hpp"

#include <gqmm/expert_layer.hpp>
#include <gqmm/shape.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace gqmm::python {
namespace {

/// Owns a Python object for memory that may be released without the GIL.
std::shared_ptr<const void> owner_of(nb::object object) {
  return {object.release().ptr(), [](const void* held) {
            const nb::gil_scoped_acquire gil;
            nb::handle(static_cast<PyObject*>(const_cast<void*>(held))).dec_ref();
          }};
}

/// The rows of an array as bytes, (rows, bytes of a row). Engines only read them, but PyTorch warns of memory that it cannot
/// write.
array bytes_of_rows(const array& rows) {
  const Shape of_row(rows.shape().begin() + 1, rows.shape().end());
  const auto bytes = element_count(of_row) * static_cast<std::int64_t>(size_of(rows.dtype()));
  return array::borrow_mut(const_cast<std::byte*>(rows.bytes()), {rows.dim(0), bytes}, Dtype::uint8, {}, rows.owner());
}

nb::object export_counts(std::span<const std::int64_t> counts) {
  array copy = array::empty({std::ssize(counts)}, Dtype::int64);
  std::copy(counts.begin(), counts.end(), copy.mutable_data<std::int64_t>());
  return export_array(nb::none(), std::move(copy));
}

/// An engine that is an object of Python. It is called without the GIL, and destroyed with it.
class PythonEngine final : public DispatchEngine {
 public:
  explicit PythonEngine(nb::object engine)
      : engine_(std::move(engine)),
        rank_(parse_int({"ExpertLayer", "engine.rank"}, engine_.attr("rank"))),
        ranks_(parse_int({"ExpertLayer", "engine.ranks"}, engine_.attr("ranks"))) {}

  [[nodiscard]] int rank() const noexcept override { return rank_; }
  [[nodiscard]] int ranks() const noexcept override { return ranks_; }

  [[nodiscard]] std::vector<array> all_to_all(std::span<const array> arrays, std::span<const std::int64_t> send_counts,
                                              std::span<const std::int64_t> recv_counts) override {
    const nb::gil_scoped_acquire gil;
    nb::list sent;
    for (const array& rows : arrays) {
      sent.append(export_array(nb::none(), bytes_of_rows(rows)));
    }
    const nb::object came = engine_.attr("all_to_all")(sent, export_counts(send_counts), export_counts(recv_counts));
    const std::int64_t count = std::accumulate(recv_counts.begin(), recv_counts.end(), std::int64_t{0});
    std::vector<array> result;
    for (const array& rows : arrays) {
      result.push_back(as_rows_like(rows, count, came[result.size()]));
    }
    return result;
  }

  void abort(std::string_view why) override {
    const nb::gil_scoped_acquire gil;
    try {
      engine_.attr("abort")(nb::str(why.data(), why.size()));
    } catch (nb::python_error& error) {
      error.discard_as_unraisable("engine.abort");  // the caller has an error already, which says more
    }
  }

 private:
  /// An array of bytes that the engine returned, as `count` rows with the shape and type of those of `rows`.
  static array as_rows_like(const array& rows, std::int64_t count, nb::object returned) {
    constexpr ArgumentName name = {"ExpertLayer", "what engine.all_to_all returned"};
    Shape shape = rows.shape();
    shape[0] = count;
    Operand operand = import_array(name, returned);
    const auto bytes = static_cast<std::size_t>(element_count(shape)) * size_of(rows.dtype());
    if (operand.view.dtype() != Dtype::uint8 || operand.view.nbytes() != bytes || !operand.view.is_row_major()) {
      fail(name, fmt::format("expected {} bytes of uint8, row-major, got {} of shape {}", bytes, name_of(operand.view.dtype()),
                             to_string(operand.view.shape())));
    }
    return array::borrow(operand.view.bytes(), std::move(shape), rows.dtype(), {}, owner_of(std::move(operand.keep)));
  }

  nb::object engine_;
  int rank_;
  int ranks_;
};

/// A layer, and the operands that it views. It must be destroyed with the GIL held.
class BoundLayer {
 public:
  /// The arguments of the class, as the package passes them.
  struct Passed {
    nb::handle engine;
    nb::handle gate;
    nb::handle up;
    nb::handle down;
    nb::handle owners;
    nb::handle activation;
    nb::handle gate_up_order;
    nb::handle gate_bias;
    nb::handle up_bias;
    nb::handle down_bias;
    nb::handle shared;
    nb::handle precision;
    nb::handle stream;
  };

  explicit BoundLayer(const Passed& p)
      : block_(op, routed_names, {p.gate, p.up, p.down, p.gate_bias, p.up_bias, p.down_bias}),
        shared_(p.shared.is_none() ? std::nullopt
                                   : std::optional<SharedOperands>(std::in_place, op, nb::borrow<nb::tuple>(p.shared))),
        layer_(made(p)) {}

  [[nodiscard]] nb::object operator()(nb::handle x, nb::handle topk_ids, nb::handle topk_weights, nb::handle shared_scale) const {
    const Operand x_operand = import_array({op, "x"}, x);
    const Operand ids = import_array({op, "topk_ids"}, topk_ids);
    const Operand weights = import_array({op, "topk_weights"}, topk_weights);
    const std::optional<Operand> scale = import_optional_array({op, "shared_scale"}, shared_scale);
    return export_array(x, without_gil([&] { return layer_(x_operand.view, ids.view, weights.view, view_of(scale)); }));
  }

 private:
  static constexpr const char* op = "ExpertLayer";

  [[nodiscard]] ExpertLayer made(const Passed& p) const {
    const MoeFfnOptions options{.activation = parse_activation(op, p.activation),
                                .gate_up_order = parse_gate_up_order(op, p.gate_up_order),
                                .gate_bias = view_of(block_.gate_bias),
                                .up_bias = view_of(block_.up_bias),
                                .down_bias = view_of(block_.down_bias),
                                .shared = shared_ ? std::optional(shared_->view()) : std::nullopt,
                                .precision = parse_precision(op, p.precision),
                                .stream = parse_stream(op, p.stream)};
    const auto engine = std::make_shared<PythonEngine>(nb::borrow(p.engine));
    const ExpertOwners owners = parse_owners(p.owners);
    return without_gil(
        [&] { return ExpertLayer(engine, view_of(block_.gate), block_.up_view(), view_of(block_.down), owners, options); });
  }

  BlockOperands block_;
  std::optional<SharedOperands> shared_;
  ExpertLayer layer_;
};

}  // namespace

void bind_expert_layer(nb::module_& m) {
  nb::class_<BoundLayer> layer(m, "ExpertLayer", nb::is_final());
  layer
      .def(
          "__init__",
          [](BoundLayer* self, nb::handle engine, nb::handle gate, nb::handle up, nb::handle down, nb::handle owners,
             nb::handle activation, nb::handle gate_up_order, nb::handle gate_bias, nb::handle up_bias, nb::handle down_bias,
             nb::handle shared, nb::handle precision, nb::handle stream) {
            new (self) BoundLayer({engine, gate, up, down, owners, activation, gate_up_order, gate_bias, up_bias, down_bias,
                                   shared, precision, stream});
          },
          nb::arg(), nb::arg(), nb::arg().none(), nb::arg(), nb::arg().none(), nb::arg(), nb::arg(), nb::arg().none(),
          nb::arg().none(), nb::arg().none(), nb::arg().none(), nb::arg(), nb::arg().none(),
          nb::sig("def __init__(self, engine: object, gate: object, up: object, down: object, owners: object, "
                  "activation: tuple[object, ...], gate_up_order: str, gate_bias: object, up_bias: object, down_bias: object, "
                  "shared: tuple[object, ...] | None, precision: str, stream: object, /) -> None"))
      .def("__call__", &BoundLayer::operator(), nb::arg().none(), nb::arg().none(), nb::arg().none(), nb::arg().none(),
           nb::sig(
               "def __call__(self, x: object, topk_ids: object, topk_weights: object, shared_scale: object, /) -> typing.Any"));
  seal(layer);
}

}  // namespace gqmm::python
