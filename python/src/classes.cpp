// The classes that users see: Device, Stream, PackedWeights and InstructionSet. QuantizedWeights is in weights.cpp.
#include "classes.hpp"

#include "arguments.hpp"
#include "gil.hpp"
#include "sealed_class.hpp"
#include "weights.hpp"

#include <gqmm/packed_weights.hpp>
#include <gqmm/stream.hpp>
#include <gqmm/system.hpp>

#include <fmt/format.h>
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <exception>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>

namespace gqmm::python {
namespace {

namespace nb = nanobind;

Device make_device(std::string_view type, int index) {
  if (type != "cpu" || index != 0) {
    throw std::invalid_argument(fmt::format("[Device] unsupported device {}:{}; there is cpu:0", type, index));
  }
  return {};
}

Stream make_stream(int threads, Device device, std::optional<int> node) {
  if (threads < 0) {
    throw std::invalid_argument(
        fmt::format("[Stream] threads = {} is negative; give a positive number, or 0 for all that are available", threads));
  }
  if (threads > Stream::max_threads) {
    throw std::invalid_argument(
        fmt::format("[Stream] threads = {} exceeds {}; give 0 for all that are available", threads, Stream::max_threads));
  }
  if (node && *node < 0) {
    throw std::invalid_argument(
        fmt::format("[Stream] node = {} is negative; give the number of one of gqmm.memory_nodes(), or None for any", *node));
  }
  return {.device = device, .threads = threads, .node = node};
}

std::string describe(const Device& device) { return fmt::format("gqmm.Device('cpu', {})", device.index); }

std::string describe(const Stream& stream) {
  return fmt::format("gqmm.Stream(threads={}, device={}{})", stream.threads, describe(stream.device),
                     stream.node ? fmt::format(", node={}", *stream.node) : "");
}

bool device_equals(const Device& self, nb::handle other) {
  Device device;
  return nb::try_cast(other, device) && self == device;
}

bool stream_equals(const Stream& self, nb::handle other) {
  Stream stream;
  return nb::try_cast(other, stream) && self == stream;
}

const nb::sig reduce_signature("def __reduce__(self) -> tuple[typing.Any, ...]");

nb::object pickle_function(const char* name) { return nb::module_::import_("gqmm._pickle").attr(name); }

nb::tuple reduce_packed_weights(nb::handle self) {
  return nb::make_tuple(pickle_function("packed_weights"),
                        nb::make_tuple(nb::module_::import_("gqmm._gqmm").attr("unpack")(self, nb::none()),
                                       self.attr("group_size"), self.attr("bits"), self.attr("mode"), self.attr("transpose")));
}

void bind_streams(nb::module_& m) {
  nb::class_<Device> device(m, "Device", nb::is_final(), "A processor that operators run on. There is one: the CPU.");
  device
      .def(
          "__init__", [](Device* self, std::string_view type, int index) { new (self) Device(make_device(type, index)); },
          nb::arg("type") = "cpu", nb::arg("index") = 0, "Raises ValueError for anything but ('cpu', 0).")
      .def_prop_ro(
          "type", [](const Device&) { return "cpu"; }, "The kind of device: 'cpu'.")
      .def_ro("index", &Device::index, "The number among the devices of this kind: 0.")
      .def("__eq__", &device_equals, nb::arg().none(), nb::sig("def __eq__(self, other: object, /) -> bool"))
      .def("__hash__", [](const Device& self) { return nb::hash(nb::make_tuple(static_cast<int>(self.type), self.index)); })
      .def("__repr__", [](const Device& self) { return describe(self); })
      .def(
          "__reduce__",
          [](nb::handle self) { return nb::make_tuple(self.type(), nb::make_tuple(self.attr("type"), self.attr("index"))); },
          reduce_signature);
  define_copies(device);
  seal(device);

  nb::class_<Stream> stream(
      m, "Stream", nb::is_final(),
      "A stream says where an operator runs, and with how many threads. A CPU stream has no queue: an operator runs in the "
      "caller's thread and has finished when it returns.\n\n"
      "With a node, the threads of a call, and the caller while the call runs, are bound to the processors of that memory node. "
      "Memory that they write first lies on the node: that of results and of packed weights. A node has threads of its own, so "
      "calls for several nodes run at once if each has a Python thread of its own.");
  stream
      .def(
          "__init__",
          [](Stream* self, int threads, const Device& device, std::optional<int> node) {
            new (self) Stream(make_stream(threads, device, node));
          },
          nb::arg("threads") = 0, nb::arg("device") = Device{}, nb::arg("node") = nb::none(),
          nb::sig("def __init__(self, threads: int = 0, device: Device = Device(), node: int | None = None) -> None"),
          "threads: the number of threads of a call, with the caller's; 0 stands for get_num_threads(), and with a node for not "
          "more than its processors. node: the number of one of memory_nodes(), or None for any. Raises ValueError if threads is "
          "negative or above 4096, or if node is negative. A call raises ValueError if its thread may use no processor of the "
          "node.")
      .def_ro("threads", &Stream::threads, "The number of threads of a call; 0 stands for get_num_threads().")
      .def_ro("device", &Stream::device, "The stream's device.")
      .def_ro("node", &Stream::node, "The memory node on which calls run; None for any.")
      .def("__eq__", &stream_equals, nb::arg().none(), nb::sig("def __eq__(self, other: object, /) -> bool"))
      .def("__hash__", [](const Stream& self) { return nb::hash(nb::make_tuple(self.device.index, self.threads, self.node)); })
      .def("__repr__", [](const Stream& self) { return describe(self); })
      .def(
          "__reduce__",
          [](nb::handle self) {
            return nb::make_tuple(self.type(), nb::make_tuple(self.attr("threads"), self.attr("device"), self.attr("node")));
          },
          reduce_signature);
  define_copies(stream);
  seal(stream);
}

void bind_packed_weights(nb::module_& m) {
  nb::register_exception_translator([](const std::exception_ptr& thrown, void*) {
    try {
      std::rethrow_exception(thrown);
    } catch (const FileError& error) {
      PyErr_SetString(PyExc_OSError, error.what());
    }
  });
  nb::class_<PackedWeights> packed_weights(
      m, "PackedWeights", nb::is_final(),
      "Quantized weights in the order in which the kernels read them. pack() makes them, and unpack() gives the arrays back. "
      "They are passed as w, without scales and biases. They are immutable. Results are bit-identical to those from the original "
      "arrays. A pickle holds the arrays, and reading it packs them again.");
  packed_weights.def_prop_ro(
                    "mode", [](const PackedWeights& self) { return name_of(self.mode()); }, "The quantization mode.")
      .def_prop_ro("bits", &PackedWeights::bits, "The number of bits of a code.")
      .def_prop_ro("group_size", &PackedWeights::group_size, "The number of weights that share a scale.")
      .def_prop_ro("transpose", &PackedWeights::transpose, "Whether products are x @ w.T.")
      .def_prop_ro(
          "shape", [](const PackedWeights& self) { return tuple_of(self.shape()); },
          nb::sig("def shape(self) -> tuple[int, ...]"),
          "The shape of the dequantized weights: (…, N, K) when transpose, else (…, K, N).")
      .def_prop_ro("nbytes", &PackedWeights::nbytes, "The number of bytes that the packed weights take.")
      .def("save", &PackedWeights::save, nb::arg("path"), nb::call_guard<ReleasedGil>(),
           nb::sig("def save(self, path: str | os.PathLike[str]) -> None"),
           "Write a file that load() reads. It is a safetensors file with the settings in its metadata. The file is whole or "
           "absent. An existing regular file is replaced in one step and keeps its permissions. A symbolic link is followed. "
           "Anything else (a device, a named pipe, a folder) is never replaced. Raises OSError if the file cannot be written.")
      .def_static("load", &PackedWeights::load, nb::arg("path"), nb::call_guard<ReleasedGil>(),
                  nb::sig("def load(path: str | os.PathLike[str]) -> PackedWeights"),
                  "Map into memory a file that save() wrote. Nothing is read before a product needs it, and processes share the "
                  "memory. Raises OSError if the file cannot be read or is not such a file.")
      .def("__repr__",
           [](const PackedWeights& self) {
             return fmt::format("<gqmm.PackedWeights {} {} {}-bit, groups of {}, {}{} bytes>", to_string(self.shape()),
                                name_of(self.mode()), self.bits(), self.group_size(), self.transpose() ? "" : "transpose=False, ",
                                self.nbytes());
           })
      .def("__reduce__", &reduce_packed_weights, reduce_signature);
  define_copies(packed_weights);
  seal(packed_weights);
}

void bind_system(nb::module_& m) {
  nb::class_<InstructionSet> instruction_set(m, "InstructionSet", nb::is_final(),
                                             "A family of CPU instructions that gqmm has kernels for.");
  instruction_set
      .def_ro("name", &InstructionSet::name, "The name that the environment variable GQMM_ISA takes, e.g. 'avx512vnni'.")
      .def_ro("description", &InstructionSet::description, "The extensions that it needs.")
      .def_ro("supported", &InstructionSet::supported, "Whether this machine has them.")
      .def("__repr__",
           [](const InstructionSet& self) {
             return fmt::format("<gqmm.InstructionSet '{}'{}>", self.name,
                                self.supported ? "" : ", not supported by this machine");
           })
      .def(
          "__reduce__",
          [](const InstructionSet& self) {
            return nb::make_tuple(pickle_function("instruction_set"), nb::make_tuple(self.name));
          },
          reduce_signature);
  define_copies(instruction_set);
  seal(instruction_set);
  m.def("instruction_sets", &instruction_sets,
        "List every instruction set that gqmm was built with, from the least to the most capable.");
  m.def("active_instruction_set", &active_instruction_set,
        "Return the name of the instruction set in use. It is the most capable one that this machine supports, or the one that\n"
        "the environment variable GQMM_ISA names. Raises ValueError if GQMM_ISA names one that is unknown or unsupported.");
  m.def(
      "available_threads", &available_threads,
      "Return the number of threads that the machine grants this process. It is the smallest of three numbers: the CPUs of the\n"
      "affinity mask, the CPU quota of the control group (rounded up), and GQMM_NUM_THREADS, or OMP_NUM_THREADS if that is\n"
      "not set. A changed mask counts at once, and a changed quota within a second. The variables are read once. Raises\n"
      "ValueError if GQMM_NUM_THREADS is not a whole number from 1 to 4096.");
  m.def(
      "memory_nodes",
      [] {
        nb::list nodes;
        for (const MemoryNode& node : memory_nodes()) {
          nodes.append(nb::make_tuple(node.number, nb::tuple(nb::cast(node.processors))));
        }
        return nodes;
      },
      nb::sig("def memory_nodes() -> list[tuple[int, tuple[int, ...]]]"));
  m.def("get_num_threads", &get_num_threads,
        "Return the number of threads of a call whose stream gives none. It is what set_num_threads() was given last, or\n"
        "available_threads().");
  m.def(
      "set_num_threads", [](nb::handle threads) { set_num_threads(parse_int({"set_num_threads", "threads"}, threads)); },
      nb::arg("threads").none(), nb::sig("def set_num_threads(threads: int) -> None"),
      "Set the number of threads of calls whose stream gives none. It holds for the whole process, from the next call on. It "
      "may\n"
      "be larger than available_threads(). 0 stands for available_threads(). Raises ValueError if the number is negative or\n"
      "above 4096, and TypeError if it is not an integer.");
  m.def("version", &version, "Return the version of the library.");
  m.def("numerics_contract", &numerics_contract,
        "Return the version of the contract about bits: 1, 2, …. It is raised by one when any result of any operator may get "
        "other\n"
        "bits, and stays the same otherwise. So results of two builds can be compared bit by bit if, and only if, their versions "
        "are\n"
        "equal, whatever version() says. A new operator does not raise it.");
}

}  // namespace

void bind_classes(nb::module_& module) {
  register_error_translator();
  bind_streams(module);
  bind_quantized_weights(module);
  bind_packed_weights(module);
  bind_system(module);
}

}  // namespace gqmm::python
