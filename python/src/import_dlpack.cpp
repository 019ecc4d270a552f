// Views arrays through DLPack: those of PyTorch and JAX, and any other object that has __dlpack__.
#include "import.hpp"

#include <dlpack/dlpack.h>
#include <fmt/format.h>
#include <nanobind/stl/pair.h>

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

namespace gqmm::python {
namespace {

/// The content of a capsule "dltensor_versioned". DLPack 1.0 introduced it. It is defined here because Debian's header is older.
struct VersionedTensor {
  struct {
    std::uint32_t major;
    std::uint32_t minor;
  } version;
  void* manager_ctx;
  void (*deleter)(VersionedTensor* self);
  std::uint64_t flags;  // one of them says whether the memory is read-only
  DLTensor dl_tensor;
};
constexpr std::uint32_t known_major_version = 1;

/// The names that ml_dtypes gives to DLPack 1.1's narrow float types, by their codes. A code up to 6 is a kind of any size.
constexpr std::array<std::string_view, 18> narrow_floats = {"",
                                                            "",
                                                            "",
                                                            "",
                                                            "",
                                                            "",
                                                            "",
                                                            "float8_e3m4",
                                                            "float8_e4m3",
                                                            "float8_e4m3b11fnuz",
                                                            "float8_e4m3fn",
                                                            "float8_e4m3fnuz",
                                                            "float8_e5m2",
                                                            "float8_e5m2fnuz",
                                                            "float8_e8m0fnu",
                                                            "float6_e2m3fn",
                                                            "float6_e3m2fn",
                                                            "float4_e2m1fn"};

ImportedType dlpack_type(ArgumentName name, DLDataType type) {
  // The letters are in the order of DLPack's codes: int, uint, float, opaque, bfloat, complex, bool.
  constexpr char kinds[] = {'i', 'u', 'f', '?', 'V', 'c', 'b'};
  const bool known = type.code < sizeof(kinds) && type.lanes == 1 && type.bits % 8 == 0;
  const std::string shown =
      type.code < narrow_floats.size() && !narrow_floats[type.code].empty()
          ? std::string(narrow_floats[type.code])
          : fmt::format("DLPack (code {}, {} bits, {} lanes)", int{type.code}, int{type.bits}, int{type.lanes});
  return element_type(name, known ? find_dtype(kinds[type.code], type.bits / 8) : std::nullopt, shown);
}

[[noreturn]] void fail_device(ArgumentName name, long type, long index) {
  constexpr int cuda = kDLCUDA;
  fail(name, fmt::format("its memory is on {} {}, and gqmm reads the CPU's; copy it there first, e.g. {}.cpu()",
                         type == cuda ? std::string("CUDA device") : fmt::format("DLPack device type {}, index", type), index,
                         name.name));
}

bool is_cpu(long device_type) { return device_type == kDLCPU || device_type == kDLCUDAHost || device_type == kDLROCMHost; }

template <class Managed>
Managed* managed_tensor(nb::handle capsule, const char* kind) {
  return PyCapsule_IsValid(capsule.ptr(), kind) == 0 ? nullptr : static_cast<Managed*>(PyCapsule_GetPointer(capsule.ptr(), kind));
}

const DLTensor& tensor_of(ArgumentName name, nb::handle capsule) {
  if (const auto* managed = managed_tensor<DLManagedTensor>(capsule, "dltensor")) {
    return managed->dl_tensor;
  }
  if (const auto* managed = managed_tensor<VersionedTensor>(capsule, "dltensor_versioned")) {
    if (managed->version.major != known_major_version) {
      fail(name, fmt::format("its library lends it as DLPack {}.{}, and gqmm reads version {}; copy it into an array of NumPy",
                             managed->version.major, managed->version.minor, known_major_version));
    }
    return managed->dl_tensor;
  }
  fail_type(name, fmt::format("__dlpack__ returned no \"dltensor\" capsule but {}", text_of(nb::repr(capsule))));
}

/// Views the tensor of a capsule. The capsule is kept and not consumed, so that its own destructor gives the tensor back.
Operand import_capsule(ArgumentName name, nb::object capsule) {
  const DLTensor& tensor = tensor_of(name, capsule);
  if (!is_cpu(tensor.device.device_type)) {
    fail_device(name, tensor.device.device_type, tensor.device.device_id);
  }
  const ImportedType type = dlpack_type(name, tensor.dtype);
  const auto itemsize = static_cast<std::int64_t>(size_of(type.dtype));
  Shape shape(tensor.shape, tensor.shape + tensor.ndim);
  Strides strides;
  if (tensor.strides != nullptr) {
    for (std::int32_t axis = 0; axis < tensor.ndim; ++axis) {
      std::int64_t bytes = 0;
      if (__builtin_mul_overflow(tensor.strides[axis], itemsize, &bytes)) {
        fail(name, fmt::format("a DLPack stride of {} elements of {} bytes exceeds 64 bits; copy it first", tensor.strides[axis],
                               itemsize));
      }
      strides.push_back(bytes);
    }
  }
  void* data = tensor.data == nullptr ? nullptr : static_cast<std::byte*>(tensor.data) + tensor.byte_offset;
  return lent_memory(name, data, std::move(shape), type, std::move(strides), std::move(capsule));
}

/// Asks an object for a capsule of DLPack 1. Only that version can say that memory is read-only, and many libraries refuse to
/// lend such memory without it. An exporter from before DLPack 1 does not know the argument and is asked without it.
nb::object ask_for_capsule(nb::handle object) {
  const nb::object exporter = object.attr("__dlpack__");
  try {
    return exporter(nb::arg("max_version") = nb::make_tuple(known_major_version, 0));
  } catch (nb::python_error& error) {
    if (!error.matches(PyExc_TypeError) && !error.matches(PyExc_BufferError)) {
      throw;
    }
  }
  return exporter();
}

}  // namespace

Operand import_dlpack(ArgumentName name, nb::handle object) {
  nb::object capsule;
  try {
    const nb::object device = object.attr("__dlpack_device__")();
    std::pair<long, long> type_and_index;
    if (!nb::try_cast(device, type_and_index)) {
      fail(name, fmt::format("malformed __dlpack_device__: {}", text_of(device)));
    }
    if (!is_cpu(type_and_index.first)) {
      fail_device(name, type_and_index.first, type_and_index.second);
    }
    capsule = ask_for_capsule(object);
  } catch (nb::python_error& error) {
    fail_because(name, error);
  }
  return import_capsule(name, std::move(capsule));
}

Operand import_torch(ArgumentName name, nb::handle object) {
  if (nb::cast<bool>(object.attr("requires_grad"))) {
    fail(name,
         fmt::format("it requires grad, which gqmm does not record; pass {}.detach(), and use gqmm's vjp functions for gradients",
                     name.name));
  }
  static nb::handle dlpack;
  nb::object capsule;
  try {
    // A lazily negated tensor shares memory with the original and must be resolved, which copies it. Other tensors are not
    // copied.
    const nb::object resolved = nb::cast<bool>(object.attr("is_neg")()) ? object.attr("resolve_neg")() : nb::borrow(object);
    capsule = kept_module(dlpack, "torch.utils.dlpack").attr("to_dlpack")(resolved);
  } catch (nb::python_error& error) {
    fail_because(name, error);
  }
  return import_capsule(name, std::move(capsule));
}

Operand import_jax(ArgumentName name, nb::handle object) {
  bool is_deleted = false;
  std::size_t devices = 1;
  try {
    is_deleted = nb::cast<bool>(object.attr("is_deleted")());
    devices = is_deleted ? 1 : nb::len(object.attr("devices")());
  } catch (nb::python_error& error) {
    fail_because(name, error);
  }
  if (is_deleted) {
    fail(name,
         fmt::format("its memory is gone: the array was deleted, or donated to a function of jax.jit; pass one that is still "
                     "there, such as jax.numpy.copy({}) made before",
                     name.name));
  }
  if (devices != 1) {
    fail(name, fmt::format("it is spread over {} devices; move it to one first, with jax.device_put({}, jax.devices('cpu')[0])",
                           devices, name.name));
  }
  return import_dlpack(name, object);
}

}  // namespace gqmm::python
