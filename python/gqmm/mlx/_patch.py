"""Puts gqmm's functions in the place of MLX's, and back."""

from __future__ import annotations

import atexit
import importlib.metadata
import os
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import mlx.core as mx

from gqmm._gqmm import version
from gqmm.mlx._load import extension
from gqmm.mlx._watch import watch

_NAMES = ("gather_qmm", "quantized_matmul", "gather_mm")
# The extension keeps them: when this module is imported again, mx may have gqmm's functions already.
_stock: dict[str, Any] = extension.__dict__.setdefault("stock_functions", {name: getattr(mx, name) for name in _NAMES})


@dataclass(frozen=True)
class _Settings:
    """What calls do unless they say otherwise."""

    precision: str = "default"
    pack: bool = False
    pack_limit: int = 0  # bytes


_settings = _Settings()

watch()
atexit.register(extension.forget_packed_copies)


class Installation:
    """What install() did. As a context manager it restores, at its end, the functions and settings that it replaced."""

    def __init__(self, functions: dict[str, Any], settings: _Settings):
        self._functions, self._settings = functions, settings

    def __repr__(self) -> str:
        """What a prompt shows of install()."""
        return f"<gqmm in the place of {', '.join(f'mx.{name}' for name in _NAMES)}>"

    def __enter__(self) -> Installation:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for name, function in self._functions.items():
            setattr(mx, name, function)
        _configure(self._settings)


@dataclass(frozen=True)
class Calls:
    """How many calls of a function became gqmm's products (ours) and how many MLX's own (stock).

    A function compiled by mx.compile calls once for each time that it is traced.
    """

    ours: int
    stock: int


@dataclass(frozen=True)
class Status:
    """What is installed, and how often it ran in this process."""

    installed: bool
    functions: tuple[str, ...]  # of mlx.core that are gqmm's now
    precision: str
    versions: dict[str, str]
    calls: dict[str, Calls]
    packed_arrays: int  # weights with a packed copy now
    packed_bytes: int  # of those copies
    packed_so_far: int  # copies made in this process, those that have been freed again included
    packed_modules: int  # sets of parameters that pack_model packed and models hold now
    packed_modules_bytes: int  # of those
    in_place_arrays: int  # weights used again that pack=True leaves in place: their memory has been lent to another library

    def __str__(self) -> str:
        """A few lines for people."""
        names = ", ".join(f"mx.{name}" for name in self.functions)
        lines = [f"gqmm {self.versions['gqmm']} on MLX {self.versions['mlx']}: {names or 'nothing'} replaced"]
        lines += [f"  {name}: {calls.ours} calls of gqmm's, {calls.stock} of MLX's" for name, calls in self.calls.items()]
        if self.packed_so_far:
            held = f"{self.packed_arrays} of them held, {self.packed_bytes / 1e6:.1f} MB"
            lines.append(f"  {self.packed_so_far} weights packed so far; {held}")
        if self.packed_modules:
            size = f"{self.packed_modules_bytes / 1e6:.1f} MB"
            lines.append(f"  {self.packed_modules} sets of parameters packed by pack_model, {size}")
        if self.in_place_arrays:
            lines.append(
                f"  {self.in_place_arrays} weights not packed, for another library has their memory and may write to it; "
                "gqmm.mlx.pack_model packs them all the same"
            )
        return "\n".join(lines)


def _configure(settings: _Settings) -> None:
    global _settings
    extension.configure(settings.precision, settings.pack, settings.pack_limit)
    _settings = settings


def _memory() -> int:
    """Bytes of the machine, or those that the cgroup allows."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        with open("/sys/fs/cgroup/memory.max") as file:
            return min(machine, int(file.read()))
    except (OSError, ValueError):  # no cgroup of version 2, or "max"
        return machine


def install(*, precision: str = "default", pack: bool = False, pack_limit: int | None = None) -> Installation:
    """Replace mx.gather_qmm, mx.quantized_matmul and mx.gather_mm by gqmm's, for the CPU.

    Programs that call them as ``mx.gather_qmm``, as mlx.nn and mlx-lm do, get gqmm's from now on; what mx.compile has traced
    before, and names imported by ``from mlx.core import …``, keep the functions of that time. Calls that gqmm does not serve
    (on a GPU's stream, in a mode or type that it does not know, gather_mm without indices) run MLX's own.

    Args:
        precision: "default", "fast" or "float32", as in gqmm.gather_qmm.
        pack: whether weights that are used again are copied, once, into the order in which the kernels read them. That is
            faster and takes their size in memory again; a copy is freed with its array.
        pack_limit: bytes of all copies together, beyond which weights are used in place. None: half of the memory that this
            process may have (the machine's, or its cgroup's limit).

    Returns:
        A context manager, which may be ignored: at its end it restores what was there before.

    Raises:
        ValueError: no such precision, or a pack_limit below 0.
    """
    if pack_limit is not None and pack_limit < 0:
        raise ValueError(f"[gqmm.mlx] pack_limit = {pack_limit} is negative; give bytes, or None for half of the memory")
    before = Installation({name: getattr(mx, name) for name in _NAMES}, _settings)
    if pack_limit is None:
        pack_limit = _memory() // 2
    _configure(_Settings(precision, pack, pack_limit))
    for name in _NAMES:
        setattr(mx, name, getattr(extension, name))
    return before


def uninstall() -> None:
    """Put MLX's own functions back, and drop packed copies."""
    for name, function in _stock.items():
        setattr(mx, name, function)
    _configure(_Settings())


def status() -> Status:
    """What is replaced at the moment, the versions, and how often gqmm's functions and MLX's ran."""
    functions = tuple(name for name in _NAMES if getattr(mx, name) is getattr(extension, name))
    held, size, so_far, lent = extension.packed_copies()
    modules, modules_size = extension.packed_parameters()
    return Status(
        installed=bool(functions),
        functions=functions,
        precision=_settings.precision,
        versions={"gqmm": version(), "mlx": importlib.metadata.version("mlx")},
        calls={name: Calls(*calls) for name, calls in extension.call_counts().items()},
        packed_arrays=held,
        packed_bytes=size,
        packed_so_far=so_far,
        packed_modules=modules,
        packed_modules_bytes=modules_size,
        in_place_arrays=lent,
    )
