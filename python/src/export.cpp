// Turns results into arrays of the Python libraries. The library's array shares the result's memory. An object of class Result
// owns that memory and lends it.
#include "arrays.hpp"
#include "sealed_class.hpp"

#include <dlpack/dlpack.h>
#include <nanobind/stl/tuple.h>

#include <array>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace gqmm::python {
namespace {

/// Owns a result's memory. The arrays of the libraries hold a reference to it.
struct Result {
  array memory;
};

// The address that an empty result lends: it has no memory, but a buffer must have an address.
std::byte nothing{};

// Lends the bytes without their type. NumPy gets the element type as a separate argument, because bfloat16 has no buffer format.
int get_buffer(PyObject* self, Py_buffer* buffer, int flags) noexcept {
  const array& memory = nb::inst_ptr<Result>(self)->memory;
  const auto length = static_cast<Py_ssize_t>(memory.nbytes());
  void* start = length == 0 ? &nothing : memory.mutable_bytes();
  return PyBuffer_FillInfo(buffer, self, start, length, 0, flags);
}

PyType_Slot result_slots[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(get_buffer)}, {0, nullptr}};

/// Gives the tensor back if nobody consumed the capsule, as DLPack asks.
void drop_capsule(PyObject* capsule) {
  if (PyCapsule_IsValid(capsule, "dltensor") != 0) {
    auto* tensor = static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule, "dltensor"));
    tensor->deleter(tensor);
  }
}

nb::object capsule_of(const array& memory) {
  DLManagedTensor* tensor = memory.to_dlpack();
  if (tensor->dl_tensor.data == nullptr) {
    tensor->dl_tensor.data = &nothing;
  }
  nb::object capsule = nb::steal(PyCapsule_New(tensor, "dltensor", drop_capsule));
  if (!capsule.is_valid()) {
    tensor->deleter(tensor);
    throw nb::python_error();
  }
  return capsule;
}

/// Returns the numpy.dtype of an element type. Each is created once and kept for the life of the process.
nb::handle numpy_dtype(Dtype dtype) {
  static std::array<nb::handle, static_cast<std::size_t>(Dtype::float64) + 1> cache;
  nb::handle& entry = cache[static_cast<std::size_t>(dtype)];
  if (!entry.is_valid()) {
    const std::string name(name_of(dtype));
    const nb::object numpy = nb::module_::import_("numpy");
    const nb::object type =
        dtype == Dtype::bfloat16 ? nb::module_::import_("ml_dtypes").attr("bfloat16") : nb::object(nb::str(name.c_str()));
    entry = numpy.attr("dtype")(type).release();
  }
  return entry;
}

nb::object numpy_array(array result) {
  static nb::handle numpy;
  nb::object shape = nb::steal(PyTuple_New(result.rank()));
  for (int axis = 0; axis < result.rank(); ++axis) {
    PyTuple_SET_ITEM(shape.ptr(), axis, PyLong_FromLongLong(result.dim(axis)));
  }
  const nb::handle dtype = numpy_dtype(result.dtype());
  return kept_module(numpy, "numpy").attr("ndarray")(shape, dtype, nb::cast(Result{std::move(result)}));
}

/// Makes an array on the device of `like`. JAX may have several CPU devices, and takes memory from DLPack as the first one's.
nb::object jax_array(nb::handle like, array result) {
  static nb::handle jax;
  static nb::handle dlpack;
  nb::object first = kept_module(dlpack, "jax.dlpack").attr("from_dlpack")(nb::cast(Result{std::move(result)}));
  const nb::object devices = like.attr("devices")();
  return devices.equal(first.attr("devices")()) ? first : kept_module(jax, "jax").attr("device_put")(first, *nb::iter(devices));
}

}  // namespace

void bind_result(nb::module_& module) {
  nb::class_<Result> result(module, "Result", nb::is_final(), nb::type_slots(result_slots),
                            "The owner of a result's memory. It lends the bytes (buffer protocol) and the array (DLPack).");
  result
      .def(
          "__dlpack__", [](const Result& self, const nb::kwargs&) { return capsule_of(self.memory); },
          nb::sig("def __dlpack__(self, **kwargs: object) -> object"))
      .def("__dlpack_device__", [](const Result&) { return std::make_tuple(static_cast<int>(kDLCPU), 0); });
  seal(result);
}

nb::object export_array(nb::handle like, array result) {
  static nb::handle torch;
  static nb::handle mlx;
  switch (like.is_none() ? Library::numpy : library_of(like)) {
    case Library::torch: return kept_module(torch, "torch.utils.dlpack").attr("from_dlpack")(capsule_of(result));
    case Library::jax: return jax_array(like, std::move(result));
    case Library::mlx: return kept_module(mlx, "mlx.core").attr("from_dlpack")(nb::cast(Result{std::move(result)}));
    case Library::numpy: break;
  }
  return numpy_array(std::move(result));
}

}  // namespace gqmm::python
