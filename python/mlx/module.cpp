// The extension module gqmm.mlx._mlx: functions over arrays of MLX. Their signatures are those of mlx.core in MLX 0.32.4, and in
// the earlier versions that the module can be built for.
#include "activation_arguments.hpp"
#include "attention.hpp"
#include "convolution_arguments.hpp"
#include "evaluation_errors.hpp"
#include "exchange.hpp"
#include "functions.hpp"
#include "gated_delta_arguments.hpp"
#include "grouped.hpp"
#include "layers.hpp"
#include "lent_arrays.hpp"
#include "moe_arguments.hpp"
#include "packed_parameters.hpp"
#include "quantized_attention.hpp"
#include "ssm_arguments.hpp"
#include "task_time.hpp"
#include "weight_arguments.hpp"

#include "../src/gil.hpp"
#include "../src/module_init.hpp"
#include "../src/sealed_class.hpp"

#include <gqmm/ops.hpp>

#include <mlx/stream.h>
#include <mlx/transforms.h>
#include <mlx/version.h>
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <numeric>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace nb = nanobind;
using namespace nb::literals;

namespace gqmm::mlx {
namespace {

mx::array call_gather_qmm(const mx::array& x, nb::handle w, const OptionalArray& scales, const OptionalArray& biases,
                          const OptionalArray& lhs_indices, const OptionalArray& rhs_indices, std::optional<bool> transpose,
                          std::optional<int> group_size, std::optional<int> bits, const std::optional<std::string>& mode,
                          const OptionalArray& global_scale, bool sorted_indices, const std::optional<std::string>& precision,
                          const mx::StreamOrDevice& stream) {
  QuantizedArguments arguments =
      arguments_of("gather_qmm", {nb::borrow(w), scales, biases, global_scale, transpose, group_size, bits, mode}, precision);
  arguments.lhs_indices = lhs_indices;
  arguments.rhs_indices = rhs_indices;
  arguments.sorted_indices = sorted_indices;
  arguments.stream = stream;
  return gather_qmm(x, arguments);
}

mx::array call_quantized_matmul(const mx::array& x, nb::handle w, const OptionalArray& scales, const OptionalArray& biases,
                                std::optional<bool> transpose, std::optional<int> group_size, std::optional<int> bits,
                                const std::optional<std::string>& mode, const std::optional<std::string>& precision,
                                const mx::StreamOrDevice& stream) {
  QuantizedArguments arguments = arguments_of(
      "quantized_matmul", {nb::borrow(w), scales, biases, std::nullopt, transpose, group_size, bits, mode}, precision);
  arguments.stream = stream;
  return quantized_matmul(x, arguments);
}

using PassedMask = std::variant<std::monostate, std::string, mx::array>;

/// Sets the mask of arguments of attention. Throws std::invalid_argument for another string than "causal".
template <class Arguments>
void set_mask(const char* op, const PassedMask& mask, Arguments& arguments) {
  if (const auto* name = std::get_if<std::string>(&mask)) {
    if (*name != "causal") {
      throw std::invalid_argument(std::string("[") + op + "] mask = \"" + *name +
                                  "\" is unknown; use \"causal\", an array or None");
    }
    arguments.causal = true;
  } else if (const auto* given = std::get_if<mx::array>(&mask)) {
    arguments.mask = *given;
  }
}

mx::array call_attention(const mx::array& q, const mx::array& k, const mx::array& v, float scale, const PassedMask& mask,
                         const OptionalArray& sinks, const OptionalArray& origin, bool force_fused, mx::StreamOrDevice stream) {
  AttentionArguments arguments = {.scale = scale, .sinks = sinks, .origin = origin, .force_fused = force_fused, .stream = stream};
  set_mask("scaled_dot_product_attention", mask, arguments);
  return scaled_dot_product_attention(q, k, v, arguments);
}

mx::array call_softmax(const mx::array& a, const std::variant<std::monostate, int, std::vector<int>>& axis, bool precise,
                       mx::StreamOrDevice stream) {
  std::vector<int> axes;
  if (const auto* one = std::get_if<int>(&axis)) {
    axes = {*one};
  } else if (const auto* several = std::get_if<std::vector<int>>(&axis)) {
    axes = *several;
  } else {
    axes.resize(a.ndim());
    std::iota(axes.begin(), axes.end(), 0);
  }
  return mlx::softmax(a, axes, precise, stream);
}

mx::array call_quantized_attention(const mx::array& q, const QuantizedHeads& q_keys, const QuantizedHeads& q_values, float scale,
                                   const PassedMask& mask, const OptionalArray& origin, int group_size, int bits,
                                   mx::StreamOrDevice stream) {
  QuantizedAttentionArguments arguments = {
      .scale = scale, .origin = origin, .group_size = group_size, .bits = bits, .stream = stream};
  set_mask("quantized_scaled_dot_product_attention", mask, arguments);
  return quantized_scaled_dot_product_attention(q, q_keys, q_values, arguments);
}

mx::array call_rope(const mx::array& x, int dims, bool traditional, std::optional<float> base, float scale,
                    const std::variant<int, mx::array>& offset, const OptionalArray& freqs, mx::StreamOrDevice stream) {
  return rope(x, {.dims = dims,
                  .traditional = traditional,
                  .base = base,
                  .scale = scale,
                  .offset = offset,
                  .freqs = freqs,
                  .stream = stream});
}

mx::array call_grouped_qmm(const mx::array& x, nb::handle weights, const mx::array& offsets, const std::string& rows,
                           const std::optional<std::string>& precision, const mx::StreamOrDevice& stream) {
  if (!is_quantized_weights(weights)) {
    throw nb::type_error(
        (std::string("[grouped_qmm] weights: expected gqmm.QuantizedWeights, got ") + class_of(weights)).c_str());
  }
  GivenWeights given;
  given.w = nb::borrow(weights);
  QuantizedArguments arguments = arguments_of("grouped_qmm", given, precision);
  arguments.stream = stream;
  return grouped_qmm(x, arguments, offsets, missing_from_name(rows, "grouped_qmm", "rows"));
}

mx::array call_grouped_mm(const mx::array& x, const mx::array& b, const mx::array& offsets, const std::string& rows,
                          const mx::StreamOrDevice& stream) {
  return grouped_mm(x, b, offsets, missing_from_name(rows, "grouped_mm", "rows"), stream);
}

void configure(const std::string& precision, bool pack, std::int64_t pack_limit) {
  defaults() = {.precision = precision_from_name(precision, "gqmm.mlx"), .pack = pack};
  limit_packed_copies(pack ? pack_limit : 0);
  if (!pack) {
    pack_cache().clear();
  }
}

nb::dict call_counts() {
  nb::dict result;
  const auto add = [&](const char* name, const CallCounts& calls) {
    result[name] = nb::make_tuple(calls.ours.load(), calls.stock.load());
  };
  add("gather_qmm", counts().gather_qmm);
  add("quantized_matmul", counts().quantized_matmul);
  add("gather_mm", counts().gather_mm);
  add("matmul", counts().matmul);
  add("moe", counts().moe_ffn);
  add("rms_norm", counts().rms_norm);
  add("layer_norm", counts().layer_norm);
  add("softmax", counts().softmax);
  add("activations", counts().activations);
  add("rope", counts().rope);
  add("conv1d", counts().conv1d);
  add("gated_delta_update", counts().gated_delta_update);
  add("ssm_update", counts().ssm_update);
  add("scaled_dot_product_attention", counts().scaled_dot_product_attention);
  add("quantized_scaled_dot_product_attention", counts().quantized_scaled_dot_product_attention);
  return result;
}

nb::tuple packed_copy_counts() {
  const PackedCopies copies = packed_copies();
  return nb::make_tuple(copies.held, copies.held_bytes, copies.so_far, copies.lent);
}

std::shared_ptr<PackedParameters> pack_parameters(const mx::array& w, const mx::array& scales, const OptionalArray& biases,
                                                  int group_size, int bits, const std::string& mode) {
  std::vector<mx::array> parts = {w, scales};
  if (biases) {
    parts.push_back(*biases);
  }
  const WeightSettings settings = {.mode = mode_from_name(mode, "pack_model"), .bits = bits, .group_size = group_size};
  const python::ReleasedGil released;
  mx::eval(parts);
  return PackedParameters::pack(parts, settings);
}

void bind_packed_parameters(nb::module_& m) {
  nb::class_<PackedParameters> packed(m, "PackedParameters", nb::is_final(),
                                      "The quantized parameters of a module in packed form.");
  packed
      .def("part", &PackedParameters::part, "index"_a,
           "Make an array without memory that stands for w (0), scales (1) or biases (2).")
      .def("is_part", &PackedParameters::is_part, "a"_a, "index"_a, "Whether an array stands for a part and has no memory yet.")
      .def_prop_ro("parts", &PackedParameters::parts, "The number of parts: 2, or 3 with biases.")
      .def_prop_ro(
          "nbytes", [](const PackedParameters& self) { return self.weights().nbytes(); },
          "The number of bytes of the packed weights.")
      .def_prop_ro("original_bytes", &PackedParameters::original_bytes, "The number of bytes of the arrays that were packed.");
  python::define_copies(packed);
  python::seal(packed);
  m.def("pack_parameters", &pack_parameters, "w"_a, "scales"_a, "biases"_a.none(), "group_size"_a, "bits"_a, "mode"_a,
        "Evaluate the arrays, and pack them for products with the transposed weights.");
  m.def(
      "packed_parameters",
      [] {
        const PackedParameterCounts counts = packed_parameter_counts();
        return nb::make_tuple(counts.held, counts.held_bytes);
      },
      nb::sig("def packed_parameters() -> tuple[int, int]"), "Return how many packed parameters are held, and their bytes.");
}

/// Binds the functions that gqmm.mlx._watch calls.
void bind_watching(nb::module_& m) {
  m.def("watch_buffers", &watch_buffers, "array_class"_a, "Mark as lent, from now on, the arrays whose buffers are requested.");
  m.def("mark_lent", &mark_lent, "a"_a, "Mark an array whose memory has been lent to another library.");
  m.def(
      "mark_failed",
      [](mx::array& a, std::string message) {
        if (is_error_of_task(message) && !a.is_tracer()) {
          fail_from_now_on(a, std::move(message));
        }
      },
      "a"_a, "message"_a,
      "Make an array raise this error of its evaluation at each later use. Errors that are not gqmm's are ignored.");
  m.def(
      "is_shared", [](const mx::array& a) { return a.data_shared_ptr() != nullptr && !a.is_donatable(); }, "a"_a,
      "Whether something other than this object holds the array or its memory.");
}

/// Binds the functions that gqmm.mlx._shard_experts calls.
void bind_exchanges(nb::module_& m) {
  m.def("exchange_begins", &exchange_begins, "a"_a, "Return the array. When a stream has computed it, an exchange has begun.");
  m.def("exchange_ended", &exchange_ended, "a"_a, "Return the array. When a stream has computed it, an exchange has ended.");
  m.def(
      "exchanges",
      [] {
        const Exchanges now = exchanges();
        return std::tuple(now.begun, now.ended, now.seconds_since_last);
      },
      nb::sig("def exchanges() -> tuple[int, int, float]"),
      "Return how many exchanges have begun and ended, and the seconds since the last of these events.");
}

void define_module(nb::module_& m) {
  python::register_error_translator();
  m.doc() = "The products of gqmm over arrays of MLX.";
  nb::module_::import_("mlx.core");
  m.attr("built_with") =
      std::to_string(MLX_VERSION_MAJOR) + "." + std::to_string(MLX_VERSION_MINOR) + "." + std::to_string(MLX_VERSION_PATCH);

  m.def(
      "gather_qmm", &call_gather_qmm, nb::arg(), nb::arg(), "scales"_a = nb::none(), "biases"_a = nb::none(),
      "lhs_indices"_a = nb::none(), "rhs_indices"_a = nb::none(), "transpose"_a = nb::none(), "group_size"_a = nb::none(),
      "bits"_a = nb::none(), "mode"_a = nb::none(), "global_scale"_a = nb::none(), nb::kw_only(), "sorted_indices"_a = false,
      "precision"_a = nb::none(), "stream"_a = nb::none(),
      nb::sig("def gather_qmm(x: mlx.core.array, w: mlx.core.array | gqmm.QuantizedWeights, /, "
              "scales: mlx.core.array | None = None, "
              "biases: mlx.core.array | None = None, lhs_indices: mlx.core.array | None = None, "
              "rhs_indices: mlx.core.array | None = None, transpose: bool = True, group_size: int | None = None, "
              "bits: int | None = None, mode: str = 'affine', global_scale: mlx.core.array | None = None, *, "
              "sorted_indices: bool = False, precision: str | None = None, "
              "stream: mlx.core.Stream | mlx.core.Device | None = None) -> mlx.core.array"),
      R"(Multiply gathered matrices of x by gathered quantized ones, as mlx.core.gather_qmm does: y[i] = x[lhs[i]] @ ŵ[rhs[i]].T.

Args:
    x: the activations, float16, bfloat16 or float32, shape (…, M, K).
    w, scales, biases: as mlx.core.quantize returns them, in any mode of MLX. w may also be gqmm.QuantizedWeights of MLX's arrays,
        which hold scales, biases, global_scale and all settings. Settings that the call repeats must agree with theirs.
    lhs_indices, rhs_indices: flat positions in the leading dimensions of x and w. They broadcast. None stands for 0, 1, … in the
        shape of those dimensions. If both are None, the leading dimensions of x and w broadcast.
    transpose, group_size, bits, mode: as for mlx.core.gather_qmm.
    global_scale: only for modes that have one, float32: one value, or one for each matrix of w.
    sorted_indices: accepted and not needed, because any order is as fast.
    precision: "default", "fast" or "float32", as in gqmm.gather_qmm. None stands for what install() was given.
    stream: a stream or device of MLX. On another device than the CPU the call runs MLX's own function.

Returns:
    A lazy array of shape (broadcast shape of the indices) + (M, N). In affine mode its type is the one that x, scales and biases
    promote to. In the other modes it is the type of x.

Raises:
    ValueError: shapes, types or settings contradict each other.
    RuntimeError: an index is out of range. It is raised when the result is evaluated.)");
  m.def("quantized_matmul", &call_quantized_matmul, nb::arg(), nb::arg(), "scales"_a = nb::none(), "biases"_a = nb::none(),
        "transpose"_a = nb::none(), "group_size"_a = nb::none(), "bits"_a = nb::none(), "mode"_a = nb::none(), nb::kw_only(),
        "precision"_a = nb::none(), "stream"_a = nb::none(),
        nb::sig("def quantized_matmul(x: mlx.core.array, w: mlx.core.array | gqmm.QuantizedWeights, /, "
                "scales: mlx.core.array | None = None, "
                "biases: mlx.core.array | None = None, transpose: bool = True, group_size: int | None = None, "
                "bits: int | None = None, mode: str = 'affine', *, precision: str | None = None, "
                "stream: mlx.core.Stream | mlx.core.Device | None = None) -> mlx.core.array"),
        R"(Multiply x by quantized matrices, as mlx.core.quantized_matmul does: y = x @ ŵ.T, or y = x @ ŵ without transpose.

Arguments, types and errors are those of gather_qmm. x has shape (…, M, K) or (K,). The leading dimensions of x and w broadcast.)");
  m.def("rms_norm", &rms_norm, "x"_a, "weight"_a.none(), "eps"_a, nb::kw_only(), "stream"_a = nb::none(),
        nb::sig("def rms_norm(x: mlx.core.array, weight: mlx.core.array | None, eps: float, *, "
                "stream: mlx.core.Stream | mlx.core.Device | None = None) -> mlx.core.array"),
        R"(Divide each row by its root mean square, as gqmm.rms_norm does, with the arguments of mx.fast.rms_norm.)");
  m.def("layer_norm", &layer_norm, "x"_a, "weight"_a.none(), "bias"_a.none(), "eps"_a, nb::kw_only(), "stream"_a = nb::none(),
        nb::sig("def layer_norm(x: mlx.core.array, weight: mlx.core.array | None, bias: mlx.core.array | None, eps: float, *, "
                "stream: mlx.core.Stream | mlx.core.Device | None = None) -> mlx.core.array"),
        R"(Normalize each row by its mean and standard deviation, as gqmm.layer_norm does, with the arguments of
mx.fast.layer_norm.)");
  m.def("softmax", &call_softmax, nb::arg(), "axis"_a = nb::none(), nb::kw_only(), "precise"_a = false, "stream"_a = nb::none(),
        nb::sig("def softmax(a: mlx.core.array, /, axis: int | collections.abc.Sequence[int] | None = None, *, "
                "precise: bool = False, stream: mlx.core.Stream | mlx.core.Device | None = None) -> mlx.core.array"),
        R"(Turn numbers into positive ones whose sum is 1, as gqmm.softmax does, with the arguments of mlx.core.softmax.)");
  m.def("rope", &call_rope, "a"_a, "dims"_a, nb::kw_only(), "traditional"_a, "base"_a.none(), "scale"_a, "offset"_a,
        "freqs"_a = nb::none(), "stream"_a = nb::none(),
        nb::sig("def rope(a: mlx.core.array, dims: int, *, traditional: bool, base: float | None, scale: float, "
                "offset: int | mlx.core.array, freqs: mlx.core.array | None = None, "
                "stream: mlx.core.Stream | mlx.core.Device | None = None) -> mlx.core.array"),
        R"(Rotate pairs of elements by their positions, as gqmm.rope does, with the arguments of mx.fast.rope.)");
  m.def("matmul", &matmul, nb::arg(), nb::arg(), nb::kw_only(), "stream"_a = nb::none(),
        nb::sig("def matmul(a: mlx.core.array, b: mlx.core.array, /, *, "
                "stream: mlx.core.Stream | mlx.core.Device | None = None) -> mlx.core.array"),
        R"(Multiply matrices, as mlx.core.matmul does. Sums are in float32, and a row has the same bits in any batch.

Args:
    a, b: float16, bfloat16 or float32, shapes (…, M, K) and (…, K, N); leading dimensions broadcast. A vector is a row in front
        and a column behind. Arrays of other types go to MLX's own function.
    stream: a stream or device of MLX. On another device than the CPU the call runs MLX's own function.

Returns:
    A lazy array of shape (…, M, N) and the type that a and b promote to.

Raises:
    ValueError: shapes contradict each other.)");
  m.def("addmm", &addmm, nb::arg(), nb::arg(), nb::arg(), "alpha"_a = 1.0F, "beta"_a = 1.0F, nb::kw_only(),
        "stream"_a = nb::none(),
        nb::sig("def addmm(c: mlx.core.array, a: mlx.core.array, b: mlx.core.array, /, alpha: float = 1.0, beta: float = 1.0, *, "
                "stream: mlx.core.Stream | mlx.core.Device | None = None) -> mlx.core.array"),
        R"(Compute beta · c + alpha · (a @ b), as mlx.core.addmm does. Types and errors are those of matmul.)");
  m.def(
      "scaled_dot_product_attention", &call_attention, "q"_a, "k"_a, "v"_a, nb::kw_only(), "scale"_a, "mask"_a = nb::none(),
      "sinks"_a = nb::none(), "origin"_a = nb::none(), "force_fused"_a = false, "stream"_a = nb::none(),
      nb::sig("def scaled_dot_product_attention(q: mlx.core.array, k: mlx.core.array, v: mlx.core.array, *, scale: float, "
              "mask: mlx.core.array | str | None = None, sinks: mlx.core.array | None = None, "
              "origin: mlx.core.array | None = None, force_fused: bool = False, "
              "stream: mlx.core.Stream | mlx.core.Device | None = None) -> mlx.core.array"),
      R"(Compute attention, as gqmm.scaled_dot_product_attention does, with the arguments of mx.fast.scaled_dot_product_attention.

Args:
    q: float16, bfloat16 or float32, shape (B, Hq, T, D).
    k, v: likewise, shapes (B, Hkv, L, D) and (B, Hkv, L, Dv).
    scale: the factor of the scores.
    mask: None, "causal", or an array that broadcasts to (B, Hq, T, L): bool, or a float that is added to the scores.
    sinks: None, or shape (Hq,): the score of one more key whose value is zero.
    origin: None, or integers of shape (B,): for each batch element the index along L of the key at position 0. With it, a
        sequence has the same bits behind padding as alone.
    force_fused: if it is true, MLX's own function takes the call.
    stream: a stream or device of MLX. On another device than the CPU the call runs MLX's own function.

Returns:
    A lazy array of shape (B, Hq, T, Dv) and the type that q, k and v promote to. MLX's own function computes its gradients.

Raises:
    ValueError: shapes or types contradict each other.)");
  m.def("quantized_scaled_dot_product_attention", &call_quantized_attention, "q"_a, "q_keys"_a, "q_values"_a, nb::kw_only(),
        "scale"_a, "mask"_a = nb::none(), "origin"_a = nb::none(), "group_size"_a = 64, "bits"_a = 8, "stream"_a = nb::none(),
        nb::sig("def quantized_scaled_dot_product_attention(q: mlx.core.array, "
                "q_keys: tuple[mlx.core.array, mlx.core.array, mlx.core.array], "
                "q_values: tuple[mlx.core.array, mlx.core.array, mlx.core.array], *, scale: float, "
                "mask: mlx.core.array | str | None = None, origin: mlx.core.array | None = None, group_size: int = 64, "
                "bits: int = 8, stream: mlx.core.Stream | mlx.core.Device | None = None) -> mlx.core.array"),
        R"(Compute attention over quantized keys and values, as gqmm.quantized_scaled_dot_product_attention does.

Args:
    q: float16, bfloat16 or float32, shape (B, Hq, T, D).
    q_keys, q_values: (w, scales, biases) as mlx.core.quantize returns them in affine mode, of (B, Hkv, L, D) and (B, Hkv, L, Dv).
    scale, mask, origin: as in scaled_dot_product_attention.
    group_size, bits: the settings of keys and values.
    stream: a stream or device of MLX. On another device than the CPU the call runs MLX's own functions.

Returns:
    A lazy array of shape (B, Hq, T, Dv) and the type that q, scales and biases promote to. Its gradients are those of
    mlx.core.quantized_matmul and softmax.

Raises:
    ValueError: shapes, types or settings contradict each other.)");
  bind_activations(m);
  bind_convolutions(m);
  bind_gated_delta(m);
  bind_ssm(m);
  bind_moe_ffn(m);
  m.def("moe_combine", &moe_combine, "slots"_a, "topk_weights"_a, nb::kw_only(), "stream"_a = nb::none(),
        nb::sig("def moe_combine(slots: mlx.core.array, topk_weights: mlx.core.array, *, "
                "stream: mlx.core.Stream | mlx.core.Device | None = None) -> mlx.core.array"),
        R"(Sum up each token's slots with its router's weights, as gqmm.moe_combine does, with the same bits.

Args:
    slots: float16, bfloat16 or float32, shape (…, k, H).
    topk_weights: float16, bfloat16 or float32, shape (…, k).
    stream: a stream or device of MLX. On another device than the CPU the sum is in MLX's own functions.

Returns:
    A lazy array of shape (…, H) and the type of slots.

Raises:
    ValueError: shapes or types contradict each other.)");
  m.def("grouped_qmm", &call_grouped_qmm, "x"_a, "weights"_a, "offsets"_a, nb::kw_only(), "rows"_a = "error",
        "precision"_a = nb::none(), "stream"_a = nb::none(),
        nb::sig("def grouped_qmm(x: mlx.core.array, weights: gqmm.QuantizedWeights, offsets: mlx.core.array, *, "
                "rows: str = 'error', precision: str | None = None, "
                "stream: mlx.core.Stream | mlx.core.Device | None = None) -> mlx.core.array"),
        R"(Multiply rows that are sorted by expert by the quantized matrices of their experts, as gqmm.grouped_qmm does.

Args:
    x: float16, bfloat16 or float32, shape (R, K).
    weights: gqmm.QuantizedWeights of MLX's arrays, (E, N, K), or (E, K, N) without transpose.
    offsets: int32 or int64, shape (E,) with the end of each group, or (E + 1,) with a 0 in front.
    rows: "error", or "zero" for results of zero behind the last group.
    precision: "default", "fast" or "float32". None stands for what install() was given.
    stream: a stream or device of MLX.

Returns:
    A lazy array of shape (R, N) and the type of gather_qmm's result.

Raises:
    ValueError: shapes, types or settings contradict each other.
    RuntimeError: the offsets do not divide the rows. It is raised when the result is evaluated.)");
  m.def("grouped_mm", &call_grouped_mm, "x"_a, "b"_a, "offsets"_a, nb::kw_only(), "rows"_a = "error", "stream"_a = nb::none(),
        nb::sig("def grouped_mm(x: mlx.core.array, b: mlx.core.array, offsets: mlx.core.array, *, rows: str = 'error', "
                "stream: mlx.core.Stream | mlx.core.Device | None = None) -> mlx.core.array"),
        R"(Multiply rows that are sorted by expert by the dense matrices of their experts, as gqmm.grouped_mm does.

b has shape (E, K, N). Other arguments and errors are those of grouped_qmm.)");
  m.def("gather_mm", &gather_mm, nb::arg(), nb::arg(), "lhs_indices"_a = nb::none(), "rhs_indices"_a = nb::none(), nb::kw_only(),
        "sorted_indices"_a = false, "stream"_a = nb::none(),
        nb::sig("def gather_mm(a: mlx.core.array, b: mlx.core.array, /, lhs_indices: mlx.core.array | None = None, "
                "rhs_indices: mlx.core.array | None = None, *, sorted_indices: bool = False, "
                "stream: mlx.core.Stream | mlx.core.Device | None = None) -> mlx.core.array"),
        R"(Multiply gathered dense matrices, as mlx.core.gather_mm does: y[i] = a[lhs[i]] @ b[rhs[i]].

a has shape (…, M, K) or (K,), and b has shape (…, K, N) or (K,). Both are float16, bfloat16 or float32. Sums are computed in
float32. Indices, errors and streams are as for gather_qmm. Without indices the call runs MLX's own dense product.)");

  m.def(
      "accepts", [](const mx::array&) { return true; }, nb::arg(), nb::sig("def accepts(a: mlx.core.array, /) -> bool"),
      "Return True if an array of the loaded mlx.core can be passed. Raises TypeError if its bindings have another ABI.");
  m.def("configure", &configure, "precision"_a, "pack"_a, "pack_limit"_a,
        "Set what calls do that give no settings of their own.");
  m.def("call_counts", &call_counts, nb::sig("def call_counts() -> dict[str, tuple[int, int]]"),
        "Return for each function how many calls gqmm computed, and how many MLX.");
  m.def("seconds_of_tasks", &seconds_of_tasks, "Return the seconds that MLX's streams have spent in gqmm's functions so far.");
  m.def(
      "packed_copies", &packed_copy_counts, nb::sig("def packed_copies() -> tuple[int, int, int, int]"),
      "Return four numbers: packed copies held, their bytes, copies made so far, and weights not packed because they were lent.");
  bind_packed_parameters(m);
  bind_watching(m);
  bind_exchanges(m);
  m.def("forget_packed_copies", [] { pack_cache().clear(); }, "Free the packed copies that no graph uses.");
}

}  // namespace
}  // namespace gqmm::mlx

NB_MODULE(_mlx_bindings, m) { gqmm::python::define_once(m, "gqmm.mlx._mlx", gqmm::mlx::define_module); }

/// The function that Python calls to import the module. It calls nanobind's own function after a check of the interpreter.
extern "C" NB_EXPORT PyObject* PyInit__mlx() {
  return gqmm::python::is_main_interpreter("gqmm.mlx") ? PyInit__mlx_bindings() : nullptr;
}
