// Views Python arrays as gqmm::array, without a copy. Each kind of object has its own way:
//
//   NumPy               __array_struct__. It says in C what __array_interface__ says in Python, and is five times as fast. It
//                       allows any strides, address and element type, and read-only memory.
//   PyTorch, JAX        DLPack (import_dlpack.cpp).
//   MLX                 The buffer protocol, which also has a name for MLX's bfloat16.
//   NumPy's scalars     They become arrays without dimensions, by a copy.
//   anything else       The first that the object has of: __array_interface__, the buffer protocol, DLPack.
#include "import.hpp"

#include "formats/registry.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace gqmm::python {
namespace {

// A bit of PyArrayInterface::flags: the bytes are in this machine's order (NumPy's "array interface", version 3).
constexpr int not_swapped = 0x200;

struct PyArrayInterface {
  int two;
  int nd;
  char typekind;
  int itemsize;
  int flags;
  Py_intptr_t* shape;
  Py_intptr_t* strides;  // in bytes
  void* data;
  PyObject* descr;
};

/// Refuses negative extents, and arrays of 2^63 bytes or more. Returns false if the array has no element.
bool check_extents(ArgumentName name, const Shape& shape, Dtype dtype) {
  auto bytes = static_cast<std::int64_t>(size_of(dtype));
  bool has_elements = true;
  bool overflow = false;
  for (const std::int64_t extent : shape) {
    if (extent < 0) {
      fail(name, fmt::format("shape {} has a negative extent; extents are 0 or more", to_string(shape)));
    }
    has_elements = has_elements && extent != 0;
    overflow = overflow || __builtin_mul_overflow(bytes, extent, &bytes);
  }
  if (overflow && has_elements) {
    fail(name, fmt::format("shape {} of {} exceeds 2^63 bytes; use a smaller one", to_string(shape), name_of(dtype)));
  }
  return has_elements;
}

std::string class_name_of(nb::handle object) { return nb::cast<std::string>(nb::str(object.type().attr("__name__"))); }

[[noreturn]] void fail_byte_order(ArgumentName name) {
  fail(name, "its bytes are in the order of another machine; convert it with x.astype(x.dtype.newbyteorder('='))");
}

/// Finds the element type of an object that describes itself with a NumPy typestring. NumPy shows bfloat16 as two opaque bytes,
/// so the object's dtype decides there.
ImportedType numpy_type(ArgumentName name, nb::handle object, char kind, std::int64_t itemsize) {
  std::optional<Dtype> dtype = kind == 'V' ? std::nullopt : find_dtype(kind, itemsize);
  std::string shown = fmt::format("'{}{}'", kind, itemsize);
  if (!dtype) {
    const nb::object type = nb::getattr(object, "dtype", nb::none());
    if (itemsize == 2 && bfloat16_type().is_valid() && nb::getattr(type, "type", nb::none()).is(bfloat16_type())) {
      dtype = Dtype::bfloat16;
    } else if (!type.is_none()) {
      shown = text_of(type);
    }
  }
  return element_type(name, dtype, shown);
}

bool is_instance(nb::handle object, nb::handle type) {
  return type.is_valid() && PyObject_TypeCheck(object.ptr(), reinterpret_cast<PyTypeObject*>(type.ptr())) != 0;
}

/// Returns a class of the numpy package if that has been imported, otherwise an invalid handle. `cached` keeps the class for the
/// life of the process.
nb::handle numpy_class(const char* class_name, nb::handle& cached) {
  if (!cached.is_valid()) {
    if (const nb::object module = imported_module("numpy"); module.is_valid()) {
      cached = nb::getattr(module, class_name, nb::handle()).release();
    }
  }
  return cached;
}

nb::handle ndarray_class() {
  static nb::handle cached;
  return numpy_class("ndarray", cached);
}

nb::handle numpy_scalar_class() {
  static nb::handle cached;
  return numpy_class("generic", cached);
}

Operand import_numpy(ArgumentName name, nb::handle object) {
  if (!object.type().is(ndarray_class()) && nb::hasattr(object, "mask") && nb::hasattr(object, "filled")) {
    fail_type(name, fmt::format("masked arrays are not supported; pass {}.filled(value)", name.name));
  }
  nb::object capsule = object.attr("__array_struct__");
  const auto* self = static_cast<const PyArrayInterface*>(PyCapsule_GetPointer(capsule.ptr(), nullptr));
  if (self == nullptr) {
    throw nb::python_error();
  }
  const ImportedType type = numpy_type(name, object, self->typekind, self->itemsize);
  if ((self->flags & not_swapped) == 0 && self->itemsize > 1) {
    fail_byte_order(name);
  }
  Shape shape(self->shape, self->shape + self->nd);
  Strides strides(self->strides, self->strides + self->nd);
  return lent_memory(name, self->data, std::move(shape), type, std::move(strides), std::move(capsule));
}

nb::object memoryview_of(ArgumentName name, nb::handle object) {
  try {
    nb::object memory = nb::steal(PyMemoryView_FromObject(object.ptr()));
    if (!memory.is_valid()) {
      throw nb::python_error();
    }
    return memory;
  } catch (nb::python_error& error) {
    fail_because(name, error);
  }
}

/// Finds the element type of a memoryview's format. That is one letter as in the struct module, or "bfloat16", which MLX writes.
ImportedType buffer_type(ArgumentName name, const Py_buffer& buffer) {
  std::string_view format = buffer.format == nullptr ? "B" : buffer.format;
  const std::string shown(format);
  if (format == "bfloat16") {
    return {.dtype = Dtype::bfloat16};
  }
  if (format.size() == 2 && std::string_view("@=<>!^").find(format[0]) != std::string_view::npos) {
    if ((format[0] == '>' || format[0] == '!') && buffer.itemsize > 1) {
      fail_byte_order(name);
    }
    format.remove_prefix(1);
  }
  char kind = '?';
  if (format.size() == 1) {
    const auto is_any_of = [&](std::string_view letters) { return letters.find(format[0]) != std::string_view::npos; };
    kind = is_any_of("bhilqn") ? 'i' : is_any_of("BHILQN") ? 'u' : is_any_of("efd") ? 'f' : is_any_of("?") ? 'b' : '?';
  }
  return element_type(name, find_dtype(kind, buffer.itemsize), fmt::format("'{}'", shown));
}

Operand import_buffer(ArgumentName name, nb::handle object) {
  nb::object memory = memoryview_of(name, object);
  const Py_buffer& buffer = *PyMemoryView_GET_BUFFER(memory.ptr());
  const ImportedType type = buffer_type(name, buffer);
  for (int axis = 0; buffer.suboffsets != nullptr && axis < buffer.ndim; ++axis) {
    if (buffer.suboffsets[axis] >= 0) {
      fail(name, "buffers of pointers (PIL style) are not supported; copy it into an array");
    }
  }
  Shape shape(buffer.shape, buffer.shape + buffer.ndim);
  Strides strides(buffer.strides, buffer.strides + buffer.ndim);
  return lent_memory(name, buffer.buf, std::move(shape), type, std::move(strides), std::move(memory));
}

Shape tuple_of_integers(ArgumentName name, const char* key, nb::handle value) {
  if (!PyTuple_Check(value.ptr())) {
    fail(name, fmt::format("malformed __array_interface__: {} = {} is not a tuple", key, text_of(value)));
  }
  Shape result;
  for (const nb::handle item : nb::borrow<nb::tuple>(value)) {
    std::int64_t number = 0;
    if (!nb::try_cast(item, number)) {
      fail(name, fmt::format("malformed __array_interface__: {} = {}", key, text_of(value)));
    }
    result.push_back(number);
  }
  return result;
}

/// Returns the start of a view into the buffer that an __array_interface__ names. The view must lie within the buffer.
void* buffer_memory(ArgumentName name, const Py_buffer& buffer, std::int64_t offset, const Shape& shape, const Strides& strides,
                    Dtype dtype) {
  if (!check_extents(name, shape, dtype)) {
    return buffer.buf;
  }
  auto first = static_cast<double>(offset);
  double last = first + static_cast<double>(size_of(dtype));
  for (std::size_t axis = 0; axis < shape.size(); ++axis) {
    // The doubles are exact for every view that lies within its buffer, because a buffer is shorter than 2^53 bytes.
    const double reach = static_cast<double>(shape[axis] - 1) * static_cast<double>(strides[axis]);
    (reach < 0 ? first : last) += reach;
  }
  if (first < 0 || last > static_cast<double>(buffer.len)) {
    fail(name, fmt::format("malformed __array_interface__: shape {} reaches outside its buffer of {} bytes", to_string(shape),
                           buffer.len));
  }
  return static_cast<std::byte*>(buffer.buf) + offset;
}

Operand import_interface(ArgumentName name, nb::handle object, const nb::object& interface) {
  if (!PyDict_Check(interface.ptr())) {
    fail(name, fmt::format("malformed __array_interface__: {} is not a dictionary", text_of(interface)));
  }
  const auto fields = nb::borrow<nb::dict>(interface);
  const auto field = [&](const char* key) { return fields.contains(key) ? nb::object(fields[key]) : nb::none(); };
  const nb::object typestr = field("typestr");
  if (!nb::isinstance<nb::str>(typestr)) {
    fail(name, fmt::format("malformed __array_interface__: typestr = {} is not a string", text_of(typestr)));
  }
  const std::string typestring = nb::cast<std::string>(typestr);
  const bool has_size = typestring.size() == 3 && typestring[2] >= '1' && typestring[2] <= '9';
  const ImportedType type =
      numpy_type(name, object, typestring.size() < 2 ? '?' : typestring[1], has_size ? typestring[2] - '0' : 0);
  if (typestring[0] == '>' && size_of(type.dtype) > 1) {
    fail_byte_order(name);
  }
  if (!field("mask").is_none()) {
    fail(name, fmt::format("masked arrays are not supported; pass {}.filled(value)", name.name));
  }
  Shape shape = tuple_of_integers(name, "shape", field("shape"));
  Strides strides = field("strides").is_none() ? row_major_strides(shape, size_of(type.dtype))
                                               : tuple_of_integers(name, "strides", field("strides"));
  if (strides.size() != shape.size()) {
    fail(name, fmt::format("malformed __array_interface__: {} strides for shape {}", strides.size(), to_string(shape)));
  }
  const nb::object data = field("data");
  if (PyTuple_Check(data.ptr()) && nb::len(data) == 2) {
    std::uintptr_t address = 0;
    if (!nb::try_cast(data[0], address)) {
      fail(name, fmt::format("malformed __array_interface__: data = {}", text_of(data)));
    }
    // The dictionary is kept, because it may hold the owner of the memory.
    return lent_memory(name, reinterpret_cast<void*>(address), std::move(shape), type, std::move(strides), interface);
  }
  nb::object memory = memoryview_of(name, data.is_none() ? object : nb::handle(data));
  std::int64_t offset = 0;
  if (!field("offset").is_none() && !nb::try_cast(field("offset"), offset)) {
    fail(name, fmt::format("malformed __array_interface__: offset = {} is not an integer", text_of(field("offset"))));
  }
  void* start = buffer_memory(name, *PyMemoryView_GET_BUFFER(memory.ptr()), offset, shape, strides, type.dtype);
  return lent_memory(name, start, std::move(shape), type, std::move(strides), std::move(memory));
}

/// Describes an array of MLX. Its memory might have to be computed first, which MLX refuses in transforms such as compile.
Operand outline_of_mlx(ArgumentName name, nb::handle object) {
  alignas(std::max_align_t) static std::byte nothing[1];
  std::string type = text_of(object.attr("dtype"));  // "mlx.core.float32"
  type.erase(0, type.rfind('.') + 1);
  constexpr Dtype dtypes[] = {Dtype::bool_,    Dtype::uint8,   Dtype::uint16, Dtype::uint32, Dtype::uint64,
                              Dtype::int8,     Dtype::int16,   Dtype::int32,  Dtype::int64,  Dtype::float16,
                              Dtype::bfloat16, Dtype::float32, Dtype::float64};
  const auto* const found =
      std::find_if(std::begin(dtypes), std::end(dtypes), [&](Dtype dtype) { return name_of(dtype) == type; });
  const std::optional<Dtype> dtype = found == std::end(dtypes) ? std::nullopt : std::optional(*found);
  Shape shape;
  for (const nb::handle extent : object.attr("shape")) {
    shape.push_back(nb::cast<std::int64_t>(extent));
  }
  return {.view = array::borrow(nothing, std::move(shape), element_type(name, dtype, type).dtype), .keep = nb::borrow(object)};
}

Operand import_other(ArgumentName name, nb::handle object) {
  if (is_instance(object, numpy_scalar_class())) {
    // A scalar's own __array_interface__ is of no use: it points to memory that is freed before the caller sees it.
    static nb::handle numpy;
    return import_numpy(name, kept_module(numpy, "numpy").attr("asarray")(object));
  }
  if (!object.is_type()) {  // a class is not an array, although it has the attributes that its arrays have
    if (const nb::object interface = nb::getattr(object, "__array_interface__", nb::none()); !interface.is_none()) {
      return import_interface(name, object, interface);
    }
    if (PyObject_CheckBuffer(object.ptr()) != 0) {
      return import_buffer(name, object);
    }
    if (nb::hasattr(object, "__dlpack__") && nb::hasattr(object, "__dlpack_device__")) {
      return import_dlpack(name, object);
    }
  }
  if (const nb::object jax = imported_module("jax"); jax.is_valid() && nb::isinstance(object, jax.attr("Array"))) {
    fail_type(name, "a traced JAX value has no memory to read; call gqmm outside jit, or through jax.pure_callback");
  }
  fail_type(name, fmt::format("expected an array (one with __array_interface__, a buffer, or DLPack on the CPU), got {}",
                              class_name_of(object)));
}

Operand read_array(ArgumentName name, nb::handle object) {
  if (is_instance(object, ndarray_class())) {
    return import_numpy(name, object);
  }
  switch (library_of(object)) {
    case Library::torch: return import_torch(name, object);
    case Library::mlx: return import_buffer(name, object);
    case Library::jax: return import_jax(name, object);
    case Library::numpy: break;
  }
  return import_other(name, object);
}

}  // namespace

void fail(ArgumentName name, const std::string& what) {
  throw std::invalid_argument(fmt::format("[{}] {}: {}", name.op, name.name, what));
}

void fail_type(ArgumentName name, const std::string& what) {
  throw nb::type_error(fmt::format("[{}] {}: {}", name.op, name.name, what).c_str());
}

std::string text_of(nb::handle object) { return nb::cast<std::string>(nb::str(object)); }

void fail_because(ArgumentName name, nb::python_error& error) {
  if (!error.matches(PyExc_Exception) || error.matches(PyExc_MemoryError)) {
    throw nb::python_error(std::move(error));
  }
  const std::string reason = text_of(error.value());
  nb::raise_from(error, PyExc_ValueError, "[%s] %s: its library does not lend the memory: %s", name.op, name.name,
                 reason.c_str());
}

ImportedType element_type(ArgumentName name, std::optional<Dtype> dtype, const std::string& shown) {
  if (!dtype && shown.starts_with("float8_")) {
    return {.dtype = Dtype::uint8, .float8 = shown};
  }
  if (!dtype) {
    fail(name, fmt::format("element type {} is not supported; use float16, bfloat16, float32, or an integer type", shown));
  }
  return {.dtype = *dtype};
}

Operand lent_memory(ArgumentName name, void* data, Shape shape, const ImportedType& type, Strides strides, nb::object keep) {
  if (check_extents(name, shape, type.dtype) && data == nullptr) {
    fail(name, fmt::format("no memory behind its shape {}; copy it first", to_string(shape)));
  }
  return {.view = array::borrow(data, std::move(shape), type.dtype, std::move(strides)),
          .keep = std::move(keep),
          .float8 = type.float8};
}

std::optional<Dtype> find_dtype(char kind, std::int64_t itemsize) {
  struct Entry {
    char kind;
    std::int64_t itemsize;
    Dtype dtype;
  };
  constexpr Entry table[] = {
      {'f', 4, Dtype::float32}, {'f', 2, Dtype::float16}, {'V', 2, Dtype::bfloat16}, {'u', 4, Dtype::uint32},
      {'u', 1, Dtype::uint8},   {'u', 2, Dtype::uint16},  {'u', 8, Dtype::uint64},   {'i', 4, Dtype::int32},
      {'i', 8, Dtype::int64},   {'i', 1, Dtype::int8},    {'i', 2, Dtype::int16},    {'f', 8, Dtype::float64},
      {'b', 1, Dtype::bool_},
  };
  for (const Entry& entry : table) {
    if (entry.kind == kind && entry.itemsize == itemsize) {
      return entry.dtype;
    }
  }
  return std::nullopt;
}

namespace {

Operand without_float8(ArgumentName name, Operand operand) {
  if (!operand.float8.empty()) {
    fail(name,
         fmt::format("element type {} is taken for scales alone; convert the values to float16, bfloat16 or float32, or, if "
                     "they are codes of quantized weights, pass their bytes with {}.view(uint32)",
                     operand.float8, name.name));
  }
  return operand;
}

Operand read_outline(ArgumentName name, nb::handle object) {
  return library_of(object) == Library::mlx ? outline_of_mlx(name, object) : read_array(name, object);
}

}  // namespace

Operand import_array(ArgumentName name, nb::handle object) { return without_float8(name, read_array(name, object)); }

Operand import_outline(ArgumentName name, nb::handle object) { return without_float8(name, read_outline(name, object)); }

Operand import_writable_array(ArgumentName name, nb::handle object) {
  const bool numpy = is_instance(object, ndarray_class());
  if (!numpy && library_of(object) != Library::torch) {
    fail_type(name, fmt::format("expected a NumPy array or a PyTorch tensor, whose memory can be written, got {}; leave it out",
                                class_name_of(object)));
  }
  if (numpy && !nb::cast<bool>(object.attr("flags").attr("writeable"))) {
    fail(name, "the array is read-only; pass one that can be written");
  }
  Operand operand = import_array(name, object);
  const array& view = operand.view;
  operand.view = array::borrow_mut(const_cast<std::byte*>(view.bytes()), view.shape(), view.dtype(), view.strides());
  return operand;
}

std::optional<Operand> import_optional_array(ArgumentName name, nb::handle object) {
  if (object.is_none()) {
    return std::nullopt;
  }
  return import_array(name, object);
}

namespace {

Operand with_fitting_type(ArgumentName name, Operand operand, Mode mode) {
  const std::string fitting = float8_name(detail::default_format(mode).scale_encoding);
  if (operand.float8.empty() || operand.float8 == fitting) {
    return operand;
  }
  fail(name,
       fmt::format("element type {} does not fit mode \"{}\", whose scales are {}; {}", operand.float8, name_of(mode),
                   fitting.empty() ? "float16, bfloat16 or float32" : fmt::format("{}, or their bytes as uint8", fitting),
                   fitting.empty() ? "name the mode that they were made for"
                                   : "if these bytes are such scales, pass scales.view(uint8), which does not change them"));
}

}  // namespace

Operand import_scales(const char* op, nb::handle object, Mode mode) {
  const ArgumentName name = {op, "scales"};
  return with_fitting_type(name, read_array(name, object), mode);
}

Operand import_outline_of_scales(const char* op, nb::handle object, Mode mode) {
  const ArgumentName name = {op, "scales"};
  return with_fitting_type(name, read_outline(name, object), mode);
}

nb::tuple tuple_of(const Shape& shape) {
  nb::list extents;
  for (const std::int64_t extent : shape) {
    extents.append(extent);
  }
  return nb::tuple(extents);
}

}  // namespace gqmm::python
