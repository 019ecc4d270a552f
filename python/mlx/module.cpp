// gqmm.mlx._mlx: functions over arrays of MLX, with the signatures of mlx.core's in MLX 0.32.4 (and of the earlier versions that
// it can be built for).
#include "evaluation_errors.hpp"
#include "functions.hpp"
#include "lent_arrays.hpp"
#include "pack_cache.hpp"
#include "packed_parameters.hpp"

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
#include <nanobind/stl/variant.h>

#include <string>
#include <utility>

namespace nb = nanobind;
using namespace nb::literals;

namespace gqmm::mlx {
namespace {

using OptionalArray = std::optional<mx::array>;

/// What install() sets. Guarded by the GIL.
struct Defaults {
  Precision precision = Precision::standard;
  bool pack = false;
};
Defaults defaults;

/// Never destroyed: Python is gone before static objects are.
PackCache& pack_cache() {
  static auto* cache = new PackCache;
  return *cache;
}

Precision precision_of(const std::optional<std::string>& name, const char* op) {
  return name ? precision_from_name(*name, op) : defaults.precision;
}

/// w as an array, and with it the arguments that come from the Python object.
QuantizedArguments arguments_of(const char* op, nb::handle w, const mx::array& scales, const OptionalArray& biases,
                                bool transpose, std::optional<int> group_size, std::optional<int> bits, const std::string& mode,
                                const std::optional<std::string>& precision, const mx::StreamOrDevice& stream) {
  mx::array* w_array = nullptr;
  if (!nb::try_cast(w, w_array) || w_array == nullptr) {
    throw nb::type_error((std::string("[") + op + "] w: expected an mlx.core.array, got " +
                          nb::cast<std::string>(nb::str(w.type().attr("__name__"))))
                             .c_str());
  }
  QuantizedArguments arguments = {.w = *w_array,
                                  .scales = scales,
                                  .biases = biases,
                                  .transpose = transpose,
                                  .group_size = group_size,
                                  .bits = bits,
                                  .mode = mode,
                                  .precision = precision_of(precision, op),
                                  .stream = stream};
  if (defaults.pack) {
    arguments.find_packed_copy = [w](std::vector<mx::array> weights, const PackOptions& options) {
      return pack_cache().find(w, std::move(weights), options);
    };
  }
  return arguments;
}

mx::array call_gather_qmm(const mx::array& x, nb::handle w, const mx::array& scales, const OptionalArray& biases,
                          const OptionalArray& lhs_indices, const OptionalArray& rhs_indices, bool transpose,
                          std::optional<int> group_size, std::optional<int> bits, const std::string& mode,
                          const OptionalArray& global_scale, bool sorted_indices, const std::optional<std::string>& precision,
                          const mx::StreamOrDevice& stream) {
  QuantizedArguments arguments =
      arguments_of("gather_qmm", w, scales, biases, transpose, group_size, bits, mode, precision, stream);
  arguments.lhs_indices = lhs_indices;
  arguments.rhs_indices = rhs_indices;
  arguments.global_scale = global_scale;
  arguments.sorted_indices = sorted_indices;
  return gather_qmm(x, arguments);
}

mx::array call_quantized_matmul(const mx::array& x, nb::handle w, const mx::array& scales, const OptionalArray& biases,
                                bool transpose, std::optional<int> group_size, std::optional<int> bits, const std::string& mode,
                                const std::optional<std::string>& precision, const mx::StreamOrDevice& stream) {
  return quantized_matmul(
      x, arguments_of("quantized_matmul", w, scales, biases, transpose, group_size, bits, mode, precision, stream));
}

void configure(const std::string& precision, bool pack, std::int64_t pack_limit) {
  defaults = {.precision = precision_from_name(precision, "gqmm.mlx"), .pack = pack};
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
  const PackOptions options = {.group_size = group_size, .bits = bits, .mode = mode_from_name(mode, "pack_model")};
  const python::ReleasedGil released;
  mx::eval(parts);
  return PackedParameters::pack(parts, options);
}

void bind_packed_parameters(nb::module_& m) {
  nb::class_<PackedParameters> packed(m, "PackedParameters", nb::is_final(), "Quantized parameters of a module, packed.");
  packed
      .def("part", &PackedParameters::part, "index"_a, "An array without memory that stands for w (0), scales (1) or biases (2).")
      .def("is_part", &PackedParameters::is_part, "a"_a, "index"_a, "Whether an array stands for a part, and has no memory yet.")
      .def_prop_ro("parts", &PackedParameters::parts, "2, or 3 with biases.")
      .def_prop_ro(
          "nbytes", [](const PackedParameters& self) { return self.weights().nbytes(); }, "Bytes of memory held.")
      .def_prop_ro("original_bytes", &PackedParameters::original_bytes, "Bytes of the arrays that were packed.");
  python::define_copies(packed);
  python::seal(packed);
  m.def("pack_parameters", &pack_parameters, "w"_a, "scales"_a, "biases"_a.none(), "group_size"_a, "bits"_a, "mode"_a,
        "Evaluates the arrays and packs them for products with the transposed weights.");
  m.def(
      "packed_parameters",
      [] {
        const PackedParameterCounts counts = packed_parameter_counts();
        return nb::make_tuple(counts.held, counts.held_bytes);
      },
      nb::sig("def packed_parameters() -> tuple[int, int]"), "Packed parameters that are held, and their bytes.");
}

/// For gqmm.mlx._watch.
void bind_watching(nb::module_& m) {
  m.def("watch_buffers", &watch_buffers, "array_class"_a, "Marks from now on the arrays whose buffers are asked for as lent.");
  m.def("mark_lent", &mark_lent, "a"_a, "Marks an array whose memory another library has got.");
  m.def(
      "mark_failed",
      [](mx::array& a, std::string message) {
        if (is_error_of_task(message) && !a.is_tracer()) {
          fail_from_now_on(a, std::move(message));
        }
      },
      "a"_a, "message"_a, "Makes an array raise this error of its evaluation at each later use, if it is one of ours.");
  m.def(
      "is_shared", [](const mx::array& a) { return a.data_shared_ptr() != nullptr && !a.is_donatable(); }, "a"_a,
      "Whether something beside this object holds the array or its memory.");
}

void define_module(nb::module_& m) {
  python::register_interrupt_translator();
  m.doc() = "Products of gqmm over arrays of MLX.";
  nb::module_::import_("mlx.core");
  m.attr("built_with") =
      std::to_string(MLX_VERSION_MAJOR) + "." + std::to_string(MLX_VERSION_MINOR) + "." + std::to_string(MLX_VERSION_PATCH);

  m.def(
      "gather_qmm", &call_gather_qmm, nb::arg(), nb::arg(), "scales"_a, "biases"_a = nb::none(), "lhs_indices"_a = nb::none(),
      "rhs_indices"_a = nb::none(), "transpose"_a = true, "group_size"_a = nb::none(), "bits"_a = nb::none(), "mode"_a = "affine",
      "global_scale"_a = nb::none(), nb::kw_only(), "sorted_indices"_a = false, "precision"_a = nb::none(),
      "stream"_a = nb::none(),
      nb::sig("def gather_qmm(x: mlx.core.array, w: mlx.core.array, /, scales: mlx.core.array, "
              "biases: mlx.core.array | None = None, lhs_indices: mlx.core.array | None = None, "
              "rhs_indices: mlx.core.array | None = None, transpose: bool = True, group_size: int | None = None, "
              "bits: int | None = None, mode: str = 'affine', global_scale: mlx.core.array | None = None, *, "
              "sorted_indices: bool = False, precision: str | None = None, "
              "stream: mlx.core.Stream | mlx.core.Device | None = None) -> mlx.core.array"),
      R"(Multiply gathered matrices of x by gathered quantized ones, as mlx.core.gather_qmm does: y[i] = x[lhs[i]] @ ŵ[rhs[i]].T.

Args:
    x: float16, bfloat16 or float32, shape (…, M, K).
    w, scales, biases: as mlx.core.quantize returns them, in any mode of MLX.
    lhs_indices, rhs_indices: flat positions in the leading dimensions of x and w; they broadcast. None: 0, 1, …; both None: the
        leading dimensions of x and w broadcast.
    transpose, group_size, bits, mode: as for mlx.core.gather_qmm.
    global_scale: nvfp4 only, float32: one value, or one for each matrix of w.
    sorted_indices: accepted and not needed: any order is as fast.
    precision: "default", "fast" or "float32", as in gqmm.gather_qmm. None: what install() was given.
    stream: MLX's stream or device. On another device than the CPU the call is MLX's own.

Returns:
    A lazy array of shape (broadcast shape of the indices) + (M, N), in the type that x, scales and biases promote to (affine) or
    x's (other modes).

Raises:
    ValueError: shapes, types or settings that contradict each other.
    RuntimeError: when the result is evaluated, an index that is out of range.)");
  m.def("quantized_matmul", &call_quantized_matmul, nb::arg(), nb::arg(), "scales"_a, "biases"_a = nb::none(),
        "transpose"_a = true, "group_size"_a = nb::none(), "bits"_a = nb::none(), "mode"_a = "affine", nb::kw_only(),
        "precision"_a = nb::none(), "stream"_a = nb::none(),
        nb::sig("def quantized_matmul(x: mlx.core.array, w: mlx.core.array, /, scales: mlx.core.array, "
                "biases: mlx.core.array | None = None, transpose: bool = True, group_size: int | None = None, "
                "bits: int | None = None, mode: str = 'affine', *, precision: str | None = None, "
                "stream: mlx.core.Stream | mlx.core.Device | None = None) -> mlx.core.array"),
        R"(Multiply x by quantized matrices, as mlx.core.quantized_matmul does: y = x @ ŵ.T, or x @ ŵ without transpose.

Arguments, types and errors are those of gather_qmm. The leading dimensions of x, of shape (…, M, K) or (K,), and of w broadcast.)");
  m.def("gather_mm", &gather_mm, nb::arg(), nb::arg(), "lhs_indices"_a = nb::none(), "rhs_indices"_a = nb::none(), nb::kw_only(),
        "sorted_indices"_a = false, "stream"_a = nb::none(),
        nb::sig("def gather_mm(a: mlx.core.array, b: mlx.core.array, /, lhs_indices: mlx.core.array | None = None, "
                "rhs_indices: mlx.core.array | None = None, *, sorted_indices: bool = False, "
                "stream: mlx.core.Stream | mlx.core.Device | None = None) -> mlx.core.array"),
        R"(Multiply gathered dense matrices, as mlx.core.gather_mm does: y[i] = a[lhs[i]] @ b[rhs[i]].

a is (…, M, K) or (K,), b (…, K, N) or (K,), of float16, bfloat16 or float32; sums are in float32. Indices, errors and streams are
as for gather_qmm. Without indices the call is MLX's own dense product.)");

  m.def(
      "accepts", [](const mx::array&) { return true; }, nb::arg(), nb::sig("def accepts(a: mlx.core.array, /) -> bool"),
      "Whether arrays of the mlx.core that is loaded can be passed: raises TypeError if its bindings have another ABI.");
  m.def("configure", &configure, "precision"_a, "pack"_a, "pack_limit"_a, "What calls do unless they say otherwise.");
  m.def("call_counts", &call_counts, nb::sig("def call_counts() -> dict[str, tuple[int, int]]"),
        "For each function, how many calls were ours and how many MLX's.");
  m.def("packed_copies", &packed_copy_counts, nb::sig("def packed_copies() -> tuple[int, int, int, int]"),
        "Packed copies that are held, their bytes, copies made so far, and weights that are not packed since they were lent.");
  bind_packed_parameters(m);
  bind_watching(m);
  m.def("forget_packed_copies", [] { pack_cache().clear(); }, "Drops the packed copies that no graph uses.");
}

}  // namespace
}  // namespace gqmm::mlx

NB_MODULE(_mlx_bindings, m) { gqmm::python::define_once(m, "gqmm.mlx._mlx", gqmm::mlx::define_module); }

/// What Python calls: nanobind's own function, behind a check of the interpreter.
extern "C" NB_EXPORT PyObject* PyInit__mlx() {
  return gqmm::python::is_main_interpreter("gqmm.mlx") ? PyInit__mlx_bindings() : nullptr;
}
