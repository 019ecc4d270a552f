"""Replace MLX's functions by gqmm's, and restore them."""

from __future__ import annotations

import atexit
import importlib.metadata
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gqmm._gqmm import version
from gqmm.mlx._attention import attention_of_models
from gqmm.mlx._load import extension
from gqmm.mlx._moe import take_over
from gqmm.mlx._operators import install_operators, installed_operators, selected_operators
from gqmm.mlx._watch import watch

if TYPE_CHECKING:
    from collections.abc import Collection
    from types import TracebackType


@dataclass(frozen=True)
class _Settings:
    """The settings of install(), which hold for calls that do not give their own."""

    precision: str = "default"
    pack: bool = False
    pack_limit: int = 0  # in bytes


_settings = _Settings()

watch()
atexit.register(extension.forget_packed_copies)


class Installation:
    """The result of install(): a context manager. At its end it restores the operators and settings that install() replaced."""

    def __init__(self, operators: tuple[str, ...], settings: _Settings):
        self._operators, self._settings = operators, settings

    def __repr__(self) -> str:
        """Describe the installation, for example at Python's prompt."""
        return f"<gqmm in the place of {', '.join(installed_operators()) or 'nothing'}>"

    def __enter__(self) -> Installation:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        install_operators(self._operators)
        _configure(self._settings)


@dataclass(frozen=True)
class Calls:
    """The numbers of a function's calls that became gqmm's products (ours) and MLX's own products (stock).

    A function compiled by mx.compile counts a call each time that MLX traces it. A moe_ffn counts its products as calls of
    gather_qmm or gather_mm as well. An expert layer of mlx-lm that gives the sum of its slots counts two calls of moe_ffn: the
    slots are in the graph as well, although they are never computed.
    """

    ours: int
    stock: int


@dataclass(frozen=True)
class Status:
    """The functions that are installed, and how often they ran in this process."""

    installed: bool
    operators: tuple[str, ...]  # those of gqmm.mlx.OPERATORS that are gqmm's now
    precision: str
    versions: dict[str, str]
    calls: dict[str, Calls]
    packed_arrays: int  # weights that have a packed copy now
    packed_bytes: int  # bytes of those copies
    packed_so_far: int  # copies made in this process; those that have been freed again are counted too
    packed_modules: int  # sets of parameters that pack_model packed and that models hold now
    packed_modules_bytes: int  # bytes of those sets
    in_place_arrays: int  # weights that pack=True leaves in place, because their memory has been lent to another library
    fused_layers: int  # expert layers of mlx-lm, among those that exist now, that are one moe_ffn
    summed_layers: int  # those of them that give the sum of their slots, weighted by the router
    other_layers: dict[str, int]  # why others are as mlx-lm has them, and how many
    other_caches: dict[str, int]  # calls of attention with caches whose positions are not known, by their class

    @property
    def functions(self) -> tuple[str, ...]:
        """Those of the operators that multiply by quantized or gathered matrices."""
        return tuple(name for name in self.operators if name in ("gather_qmm", "quantized_matmul", "gather_mm"))

    def __str__(self) -> str:
        """Describe the status in a few lines of text."""
        names = ", ".join(self.operators)
        lines = [f"gqmm {self.versions['gqmm']} on MLX {self.versions['mlx']}: {names or 'nothing'} replaced"]
        lines += [f"  {name}: {calls.ours} calls of gqmm's, {calls.stock} of MLX's" for name, calls in self.calls.items()]
        if self.fused_layers:
            lines.append(
                f"  {self.fused_layers} expert layers of mlx-lm are one moe_ffn each, {self.summed_layers} with the sum of slots"
            )
        lines += [f"  {count} expert layers of mlx-lm are not: {why}" for why, count in self.other_layers.items()]
        lines += [
            f"  {count} calls of attention had a {cache}, whose positions are not known: bits depend on padding"
            for cache, count in self.other_caches.items()
        ]
        if self.packed_so_far:
            held = f"{self.packed_arrays} of them held, {self.packed_bytes / 1e6:.1f} MB"
            lines.append(f"  {self.packed_so_far} weights packed so far; {held}")
        if self.packed_modules:
            size = f"{self.packed_modules_bytes / 1e6:.1f} MB"
            lines.append(f"  {self.packed_modules} sets of parameters packed by pack_model, {size}")
        if self.in_place_arrays:
            lines.append(
                f"  {self.in_place_arrays} weights not packed, because another library has their memory and may write to it; "
                "gqmm.mlx.pack_model packs them all the same"
            )
        return "\n".join(lines)


def _configure(settings: _Settings) -> None:
    global _settings
    extension.configure(settings.precision, settings.pack, settings.pack_limit)
    _settings = settings


def _memory() -> int:
    """Return the memory of the machine in bytes, or the limit of the cgroup if that is smaller."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        with open("/sys/fs/cgroup/memory.max") as file:
            return min(machine, int(file.read()))
    except (OSError, ValueError):  # there is no cgroup of version 2, or its limit is "max"
        return machine


def install(
    *,
    only: Collection[str] | None = None,
    without: Collection[str] = (),
    precision: str = "default",
    pack: bool = False,
    pack_limit: int | None = None,
) -> Installation:
    """Replace operators of MLX and mlx-lm by gqmm's, for the CPU. The last call wins.

    Programs that call ``mx.gather_qmm``, as mlx.nn and mlx-lm do, call gqmm's function from now on. Functions that mx.compile has
    traced before, and names imported by ``from mlx.core import …``, keep the functions of that time. Some calls still run MLX's
    own functions: those on a GPU's stream, in a mode or type that gqmm does not know, and gather_mm without indices.

    The expert layers of mlx-lm (SwitchGLU, SwitchMLP) become one moe_ffn each, whether mlx-lm is imported before or after. A
    layer with an activation or a linear layer that gqmm does not know stays as it is; status() says why. In most blocks of
    mlx-lm the same moe_ffn adds up the slots with the router's weights.

    Attention of mlx-lm's models knows the positions of their caches, quantized ones among them. So a request has the same bits
    alone and in a batch.

    Args:
        only: names of gqmm.mlx.OPERATORS to replace. None stands for all of them.
        without: names of operators to leave as they are.
        precision: "default", "fast" or "float32", as in gqmm.gather_qmm.
        pack: whether weights that are used again are copied once into the order in which the kernels read them. Products are
            then faster, and the weights take their size in memory twice. A copy is freed with its array.
        pack_limit: the number of bytes that all copies together may take. Further weights are used in place. None stands for
            half of the memory that this process may have: the machine's, or the limit of its cgroup.

    Returns:
        A context manager. At its end it restores what was there before. It may be ignored.

    Raises:
        TypeError: only or without is one string.
        ValueError: only and without are both given, or name an unknown operator; there is no such precision; or pack_limit is
            below 0.
    """
    operators = selected_operators(only, without)
    if pack_limit is not None and pack_limit < 0:
        raise ValueError(f"[gqmm.mlx] pack_limit = {pack_limit} is negative; give bytes, or None for half of the memory")
    before = Installation(installed_operators(), _settings)
    if pack_limit is None:
        pack_limit = _memory() // 2
    _configure(_Settings(precision, pack, pack_limit))
    install_operators(operators)
    return before


def uninstall() -> None:
    """Restore MLX's own functions, and free the packed copies."""
    install_operators(())
    _configure(_Settings())


def status() -> Status:
    """Return which functions are replaced at the moment, the versions, and how often gqmm's and MLX's functions ran."""
    operators = installed_operators()
    held, size, so_far, lent = extension.packed_copies()
    modules, modules_size = extension.packed_parameters()
    return Status(
        installed=bool(operators),
        operators=operators,
        precision=_settings.precision,
        versions={"gqmm": version(), "mlx": importlib.metadata.version("mlx")},
        calls={name: Calls(*calls) for name, calls in extension.call_counts().items()},
        packed_arrays=held,
        packed_bytes=size,
        packed_so_far=so_far,
        packed_modules=modules,
        packed_modules_bytes=modules_size,
        in_place_arrays=lent,
        fused_layers=take_over.fused_layers,
        summed_layers=take_over.summed_layers,
        other_layers=take_over.other_layers,
        other_caches=dict(attention_of_models.other_caches),
    )
