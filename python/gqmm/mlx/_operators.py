"""What gqmm can replace in MLX and mlx-lm: one operator for each name that install() knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import mlx.core as mx

from gqmm.mlx._attention import attention_of_models, quantized_attention_of_models
from gqmm.mlx._einsum import einsum
from gqmm.mlx._gated_delta import gated_delta_of_models, gated_delta_update
from gqmm.mlx._load import extension
from gqmm.mlx._model_activations import activations_of_models
from gqmm.mlx._moe import take_over
from gqmm.mlx._ssm import ssm_of_models

if TYPE_CHECKING:
    from types import ModuleType


class Operator(Protocol):
    """Something that can be replaced and restored. Doing either twice changes nothing."""

    @property
    def installed(self) -> bool:
        """Whether it is gqmm's now."""

    def install(self) -> None:
        """Replace it by gqmm's."""

    def uninstall(self) -> None:
        """Restore MLX's or mlx-lm's own."""


class _Function:
    """A function of MLX. The extension has gqmm's with the same name, unless `ours` is given."""

    def __init__(self, module: ModuleType, name: str, ours: Any = None) -> None:
        self._module, self._name = module, name
        self._ours = getattr(extension, name) if ours is None else ours
        # MLX's own function. The extension keeps it, because MLX may have gqmm's when this module is imported again.
        stock: dict[str, Any] = extension.__dict__.setdefault("stock_functions", {})
        self._stock = stock.setdefault(name, getattr(module, name))

    @property
    def installed(self) -> bool:
        return getattr(self._module, self._name) is self._ours

    def install(self) -> None:
        setattr(self._module, self._name, self._ours)

    def uninstall(self) -> None:
        setattr(self._module, self._name, self._stock)


class _MatmulOfArrays:
    """The operator @ of MLX's arrays."""

    def __init__(self) -> None:
        stock: Any = extension.__dict__.setdefault("stock_matmul_of_arrays", mx.array.__matmul__)

        def matmul(a: mx.array, b: Any) -> Any:
            return extension.matmul(a, b) if isinstance(b, mx.array) else stock(a, b)

        self._stock = stock
        self._ours: Any = extension.__dict__.setdefault("matmul_of_arrays", matmul)  # this module may be imported again

    @property
    def installed(self) -> bool:
        return mx.array.__matmul__ is self._ours

    def install(self) -> None:
        mx.array.__matmul__ = self._ours  # type: ignore[method-assign]

    def uninstall(self) -> None:
        mx.array.__matmul__ = self._stock  # type: ignore[method-assign]


class _Together:
    """Operators that are replaced together."""

    def __init__(self, *parts: Operator) -> None:
        self._parts = parts

    @property
    def installed(self) -> bool:
        return all(part.installed for part in self._parts)

    def install(self) -> None:
        for part in self._parts:
            part.install()

    def uninstall(self) -> None:
        for part in reversed(self._parts):
            part.uninstall()


# Earlier versions of MLX lack this function.
_gated_delta_of_mlx = (
    (_Function(mx.fast, "gated_delta_update", extension.__dict__.setdefault("gated_delta_of_mlx", gated_delta_update)),)
    if hasattr(mx.fast, "gated_delta_update")
    else ()
)
_einsum: Any = extension.__dict__.setdefault("einsum", einsum)  # this module may be imported again
_OPERATORS: dict[str, Operator] = {
    "gather_qmm": _Function(mx, "gather_qmm"),
    "quantized_matmul": _Function(mx, "quantized_matmul"),
    "gather_mm": _Function(mx, "gather_mm"),
    "matmul": _Together(
        _Function(mx, "matmul"),
        _Function(mx, "addmm"),
        _Function(mx, "einsum", _einsum),
        _MatmulOfArrays(),
    ),
    "moe": take_over,
    "rms_norm": _Function(mx.fast, "rms_norm"),
    "layer_norm": _Function(mx.fast, "layer_norm"),
    "softmax": _Function(mx, "softmax"),
    "activations": activations_of_models,
    "rope": _Function(mx.fast, "rope"),
    "conv1d": _Together(_Function(mx, "conv1d"), _Function(mx, "conv_general")),
    "gated_delta_update": _Together(*_gated_delta_of_mlx, gated_delta_of_models),
    "ssm_update": ssm_of_models,
    "scaled_dot_product_attention": _Together(_Function(mx.fast, "scaled_dot_product_attention"), attention_of_models),
    "quantized_scaled_dot_product_attention": quantized_attention_of_models,
}
OPERATORS = tuple(_OPERATORS)


def installed_operators() -> tuple[str, ...]:
    """Return the names of the operators that are gqmm's now."""
    return tuple(name for name, operator in _OPERATORS.items() if operator.installed)


def install_operators(names: tuple[str, ...]) -> None:
    """Replace the operators of these names, and restore all others."""
    for name, operator in _OPERATORS.items():
        if name in names:
            operator.install()
        else:
            operator.uninstall()


def selected_operators(only: Any, without: Any) -> tuple[str, ...]:
    """Return the names that the arguments of install() select.

    Raises:
        TypeError: an argument is no collection of names.
        ValueError: both are given, or a name is unknown.
    """
    if only is not None and tuple(without):
        raise ValueError(f"[gqmm.mlx] only = {only!r} and without = {without!r} are both given; use one of them")
    for argument, names in (("only", () if only is None else only), ("without", without)):
        if isinstance(names, str):
            raise TypeError(f"[gqmm.mlx] {argument} = {names!r} is one string; pass a collection of names, ({names!r},)")
        unknown = [name for name in names if name not in _OPERATORS]
        if unknown:
            known = ", ".join(map(repr, OPERATORS))
            raise ValueError(f"[gqmm.mlx] {argument} names {unknown[0]!r}, which is no operator; use some of {known}")
    return tuple(name for name in OPERATORS if (only is None or name in tuple(only)) and name not in tuple(without))
