#include "attention.hpp"

#include "arguments.hpp"
#include "arrays.hpp"
#include "define.hpp"
#include "gil.hpp"

#include <gqmm/attention.hpp>

#include <fmt/format.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

namespace gqmm::python {
namespace {

constexpr const char* op = "scaled_dot_product_attention";

/// A mask as Python gave it. It must be destroyed with the GIL held.
class PassedMask {
 public:
  explicit PassedMask(nb::handle mask) {
    if (mask.is_none()) {
      return;
    }
    if (!nb::isinstance<nb::str>(mask)) {
      operand_ = import_array({op, "mask"}, mask);
      mask_ = operand_->view;
      return;
    }
    const std::string name = nb::cast<std::string>(mask);
    if (name != "causal") {
      throw std::invalid_argument(fmt::format("[{}] mask = \"{}\" is unknown; use \"causal\", an array or None", op, name));
    }
    mask_ = CausalMask();
  }
  [[nodiscard]] const AttentionMask& mask() const noexcept { return mask_; }

 private:
  std::optional<Operand> operand_;
  AttentionMask mask_;
};

nb::object call_attention(nb::handle q, nb::handle k, nb::handle v, nb::handle scale, nb::handle mask, nb::handle sinks,
                          nb::handle origin, nb::handle out, nb::handle stream) {
  const Operand q_operand = import_array({op, "q"}, q);
  const Operand k_operand = import_array({op, "k"}, k);
  const Operand v_operand = import_array({op, "v"}, v);
  const PassedMask passed(mask);
  const std::optional<Operand> sinks_operand = import_optional_array({op, "sinks"}, sinks);
  const std::optional<Operand> origin_operand = import_optional_array({op, "origin"}, origin);
  const std::optional<Operand> out_operand =
      out.is_none() ? std::nullopt : std::optional(import_writable_array({op, "out"}, out));
  const float factor = parse_float({op, "scale"}, scale);
  const AttentionOptions options{.mask = passed.mask(),
                                 .sinks = view_of(sinks_operand),
                                 .origin = view_of(origin_operand),
                                 .stream = parse_stream(op, stream),
                                 .out = view_of(out_operand)};
  array result =
      without_gil([&] { return scaled_dot_product_attention(q_operand.view, k_operand.view, v_operand.view, factor, options); });
  return out_operand ? nb::borrow(out) : export_array(q, std::move(result));
}

}  // namespace

void bind_attention(nb::module_& m) {
  define(m, "scaled_dot_product_attention", &call_attention,
         "def scaled_dot_product_attention(q: object, k: object, v: object, scale: float, mask: object, sinks: object, "
         "origin: object, out: object, stream: object, /) -> typing.Any");
}

}  // namespace gqmm::python
