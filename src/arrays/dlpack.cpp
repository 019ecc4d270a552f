// Converts arrays from and to DLPack, the exchange structure of the Python array libraries (https://dmlc.github.io/dlpack).
#include <gqmm/array.hpp>

#include <dlpack/dlpack.h>
#include <fmt/format.h>

#include <memory>
#include <stdexcept>
#include <utility>

namespace gqmm {

namespace {

struct TypePair {
  Dtype dtype;
  std::uint8_t code;
  std::uint8_t bits;
};

// The value of kDLBool, which came with DLPack 0.8. Debian's header is older.
constexpr std::uint8_t dl_bool = 6;

constexpr TypePair type_table[] = {
    {Dtype::bool_, dl_bool, 8},       {Dtype::uint8, kDLUInt, 8},     {Dtype::uint16, kDLUInt, 16},
    {Dtype::uint32, kDLUInt, 32},     {Dtype::uint64, kDLUInt, 64},   {Dtype::int8, kDLInt, 8},
    {Dtype::int16, kDLInt, 16},       {Dtype::int32, kDLInt, 32},     {Dtype::int64, kDLInt, 64},
    {Dtype::float16, kDLFloat, 16},   {Dtype::float32, kDLFloat, 32}, {Dtype::float64, kDLFloat, 64},
    {Dtype::bfloat16, kDLBfloat, 16},
};

Dtype dtype_from(DLDataType type) {
  for (const TypePair& pair : type_table) {
    if (type.lanes == 1 && pair.code == type.code && pair.bits == type.bits) {
      return pair.dtype;
    }
  }
  throw std::invalid_argument(fmt::format(
      "[array] DLPack type (code {}, {} bits, {} lanes) is not supported; convert the tensor to a type that gqmm::Dtype has",
      int{type.code}, int{type.bits}, int{type.lanes}));
}

/// Owns a tensor. It calls the tensor's deleter when the last array that uses it is destroyed.
struct Import {
  DLManagedTensor* tensor = nullptr;

  Import() = default;
  Import(const Import&) = delete;
  Import& operator=(const Import&) = delete;
  ~Import() {
    if (tensor != nullptr && tensor->deleter != nullptr) {
      tensor->deleter(tensor);
    }
  }
};

/// What an exported tensor keeps alive, and its own shape and strides.
struct Export {
  array source;
  Strides strides;
  DLManagedTensor tensor;
};

}  // namespace

array array::from_dlpack(DLManagedTensor* tensor) {
  const DLTensor& view = tensor->dl_tensor;
  if (view.device.device_type != kDLCPU) {
    throw std::invalid_argument(fmt::format("[array] DLPack device type {} is not the CPU (1); copy the tensor to the CPU",
                                            static_cast<int>(view.device.device_type)));
  }
  const Dtype dtype = dtype_from(view.dtype);
  const auto itemsize = static_cast<std::int64_t>(size_of(dtype));
  Shape shape(view.shape, view.shape + view.ndim);
  Strides strides;
  if (view.strides != nullptr) {
    strides.assign(view.strides, view.strides + view.ndim);
    for (std::int64_t& stride : strides) {
      const std::int64_t elements = stride;
      if (__builtin_mul_overflow(elements, itemsize, &stride)) {
        throw std::invalid_argument(fmt::format(
            "[array] a DLPack stride of {} elements of {} bytes exceeds 64 bits; copy the tensor to contiguous memory", elements,
            itemsize));
      }
    }
  }
  void* data = view.data == nullptr ? nullptr : static_cast<std::byte*>(view.data) + view.byte_offset;
  const auto owner = std::make_shared<Import>();
  array result = borrow_mut(data, std::move(shape), dtype, std::move(strides), owner);
  owner->tensor = tensor;  // the array owns the tensor only from here on, where nothing can throw
  return result;
}

DLManagedTensor* array::to_dlpack() const {
  auto exported = std::make_unique<Export>();
  exported->source = *this;
  for (std::size_t axis = 0; axis < strides_.size(); ++axis) {
    const std::int64_t stride = strides_[axis];
    if (stride % itemsize() != 0 && shape_[axis] > 1) {
      throw std::invalid_argument(fmt::format(
          "[array] a stride of {} bytes is no multiple of the element size {}; DLPack cannot express it; copy the array first",
          stride, itemsize()));
    }
    exported->strides.push_back(stride / itemsize());
  }
  DLTensor& view = exported->tensor.dl_tensor;
  view.data = data_;
  view.device = {kDLCPU, 0};
  view.ndim = rank();
  for (const TypePair& pair : type_table) {
    if (pair.dtype == dtype_) {
      view.dtype = {pair.code, pair.bits, 1};
    }
  }
  view.shape = exported->source.shape_.data();
  view.strides = exported->strides.data();
  view.byte_offset = 0;
  exported->tensor.manager_ctx = exported.get();
  exported->tensor.deleter = [](DLManagedTensor* self) { delete static_cast<Export*>(self->manager_ctx); };
  return &exported.release()->tensor;
}

}  // namespace gqmm
