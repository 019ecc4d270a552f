#include "lent_arrays.hpp"

#include "evaluation_errors.hpp"
#include "packed_copy.hpp"

#include <nanobind/stl/string.h>

#include <exception>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <unordered_map>

namespace gqmm::mlx {
namespace {

using Data = mx::array::Data;

struct LentMemory {
  std::mutex mutex;
  std::unordered_map<const Data*, std::weak_ptr<Data>> entries;
  std::size_t next_purge = 1024;
};

/// The one object of its kind. It is never destroyed, because streams may still evaluate while the process exits.
LentMemory& lent_memory() {
  static auto* const memory = new LentMemory;
  return *memory;
}

getbufferproc get_buffer_of_mlx = nullptr;

/// Returns the text of Python's current error, which stays raised.
std::string text_of_error() {
  PyObject* type = nullptr;
  PyObject* value = nullptr;
  PyObject* traceback = nullptr;
  PyErr_Fetch(&type, &value, &traceback);
  PyErr_NormalizeException(&type, &value, &traceback);
  const nb::object text = nb::steal(value == nullptr ? nullptr : PyObject_Str(value));
  std::string result = text.is_valid() ? nb::cast<std::string>(text) : std::string();
  PyErr_Restore(type, value, traceback);
  return result;
}

/// Evaluates an array. If that fails, raises an error of Python and returns false.
bool evaluate(mx::array& a) noexcept {
  try {
    const nb::gil_scoped_release released;
    a.eval();
    return true;
  } catch (const std::invalid_argument& error) {  // nanobind translates exceptions in the same way
    PyErr_SetString(PyExc_ValueError, error.what());
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return false;
}

int get_buffer(PyObject* self, Py_buffer* view, int flags) noexcept {
  if (!nb::inst_ready(self)) {
    return get_buffer_of_mlx(self, view, flags);
  }
  mx::array& a = *nb::inst_ptr<mx::array>(self);
  int result = -1;
  if (may_throw_in_buffer_request || evaluate(a)) {
    result = get_buffer_of_mlx(self, view, flags);
  } else {
    view->obj = nullptr;  // the protocol asks for this if a request fails
  }
  if (result == 0) {
    mark_lent(a);
  } else if (std::string message = text_of_error(); is_error_of_task(message) && !a.is_tracer()) {
    fail_from_now_on(a, std::move(message));
  }
  return result;
}

}  // namespace

bool is_lent(const mx::array& a) {
  LentMemory& memory = lent_memory();
  const std::lock_guard lock(memory.mutex);
  const auto found = memory.entries.find(a.data_shared_ptr().get());
  return found != memory.entries.end() && !found->second.expired();
}

void mark_lent(const mx::array& a) {
  const std::shared_ptr<Data>& data = a.data_shared_ptr();
  if (data == nullptr) {
    return;
  }
  {
    LentMemory& memory = lent_memory();
    const std::lock_guard lock(memory.mutex);
    memory.entries[data.get()] = data;
    if (memory.entries.size() > memory.next_purge) {
      std::erase_if(memory.entries, [](const auto& entry) { return entry.second.expired(); });
      memory.next_purge = 2 * memory.entries.size() + 1024;
    }
  }
  drop_packed_copies_of(data.get());
}

void watch_buffers(nb::handle array_class) {
  auto* const buffer = reinterpret_cast<PyTypeObject*>(array_class.ptr())->tp_as_buffer;
  get_buffer_of_mlx = buffer->bf_getbuffer;
  buffer->bf_getbuffer = get_buffer;
}

}  // namespace gqmm::mlx
