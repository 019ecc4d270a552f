"""ggml, the library of llama.cpp, through its C interface."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np


class Ggml:
    """The functions of ggml that a product needs, through its C interface. The library comes with llama-cpp-python."""

    TYPES: ClassVar = {"q4_0": 2, "q8_0": 8, "q2_K": 10, "q3_K": 11, "q4_K": 12, "q5_K": 13, "q6_K": 14, "mxfp4": 39}  # ggml_type
    FLOAT32, INT32 = 0, 26

    def __init__(self, threads: int) -> None:
        spec = importlib.util.find_spec("llama_cpp")
        assert spec is not None
        assert spec.origin is not None
        folder = Path(spec.origin).parent / "lib"
        self.libraries = [ctypes.CDLL(str(folder / f"lib{name}.so"), ctypes.RTLD_GLOBAL) for name in ("ggml-base", "ggml-cpu")]
        self.quiet = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
        self.call("ggml_log_set", self.quiet, None)
        self.version = f"{importlib.metadata.version('llama-cpp-python')}, ggml {self.text('ggml_version')}"
        self.backend = self.pointer("ggml_backend_cpu_init")
        self.call("ggml_backend_cpu_set_n_threads", self.backend, ctypes.c_int(threads))
        self.device = self.pointer("ggml_backend_get_device", self.backend)

    def call(self, name: str, *arguments: Any, returns: Any = None) -> Any:
        for library in self.libraries:
            if hasattr(library, name):
                function = getattr(library, name)
                function.restype = returns
                return function(*arguments)
        raise AttributeError(f"ggml has no {name}")

    def pointer(self, name: str, *arguments: Any) -> ctypes.c_void_p:
        """Call a function that returns a pointer. The pointer keeps its type, because ctypes cuts a plain int to 32 bits."""
        return ctypes.c_void_p(self.call(name, *arguments, returns=ctypes.c_void_p))

    def text(self, name: str, *arguments: Any) -> str:
        return str(self.call(name, *arguments, returns=ctypes.c_char_p).decode())

    def context(self) -> ctypes.c_void_p:
        """Make a context for tensors and graphs, without memory for their data."""

        class Parameters(ctypes.Structure):
            _fields_ = [("size", ctypes.c_size_t), ("buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]

        return self.pointer("ggml_init", Parameters(1 << 20, None, True))

    def tensor(self, context: ctypes.c_void_p, kind: int, *shape: int) -> ctypes.c_void_p:
        """Make a tensor. Its first dimension is the contiguous one."""
        lengths = [ctypes.c_int64(length) for length in shape]
        return self.pointer(f"ggml_new_tensor_{len(shape)}d", context, ctypes.c_int(kind), *lengths)

    def store(self, tensor: ctypes.c_void_p, data: np.ndarray) -> None:
        data = np.ascontiguousarray(data)
        self.call("ggml_backend_tensor_set", tensor, data.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(0),
                  ctypes.c_size_t(data.nbytes))  # fmt: skip

    def load(self, tensor: ctypes.c_void_p, shape: tuple[int, ...]) -> np.ndarray:
        """Copy the values of a float32 tensor, the contiguous dimension last."""
        data = np.empty(shape, np.float32)
        self.call("ggml_backend_tensor_get", tensor, data.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(0),
                  ctypes.c_size_t(data.nbytes))  # fmt: skip
        return data

    def compute(self, graph: ctypes.c_void_p) -> None:
        if self.call("ggml_backend_graph_compute", self.backend, graph, returns=ctypes.c_int) != 0:
            raise RuntimeError("ggml_backend_graph_compute failed")

    def weight_buffers(self) -> Iterator[ctypes.c_void_p]:
        """Yield the kinds of memory for weights, in the order in which llama.cpp tries them.

        The first ones repack weights for this processor, and the last one is plain memory.
        """
        registry = self.pointer("ggml_backend_dev_backend_reg", self.device)
        address = self.pointer("ggml_backend_reg_get_proc_address", registry, b"ggml_backend_dev_get_extra_bufts")
        if address:
            kinds = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)(address.value)(self.device)
            for kind in kinds or ():
                if not kind:
                    break
                yield ctypes.c_void_p(kind)
        yield self.pointer("ggml_backend_cpu_buffer_type")

    def supports(self, product: ctypes.c_void_p, w: ctypes.c_void_p, kind: ctypes.c_void_p) -> bool:
        """Whether the product can read w from that kind of memory."""
        empty = self.pointer("ggml_backend_buft_alloc_buffer", kind, ctypes.c_size_t(0))
        buffer = ctypes.c_void_p.from_address((w.value or 0) + 8)  # ggml_tensor.buffer follows .type
        buffer.value = empty.value
        supported = self.call("ggml_backend_dev_supports_op", self.device, product, returns=ctypes.c_bool)
        buffer.value = None
        self.call("ggml_backend_buffer_free", empty)
        return bool(supported)
