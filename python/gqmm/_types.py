"""The types that the operators take as arrays, and defaults that differ from the same value in a call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, cast

if TYPE_CHECKING:
    from typing_extensions import Buffer


class SupportsArrayInterface(Protocol):
    """An array that describes its memory as NumPy's arrays do."""

    @property
    def __array_interface__(self) -> dict[str, Any]: ...


class SupportsDLPack(Protocol):
    """An array that lends its memory through DLPack, as the arrays of PyTorch, JAX and MLX do."""

    def __dlpack__(self, *, stream: Any = ...) -> Any: ...


Array: TypeAlias = "SupportsArrayInterface | SupportsDLPack | Buffer"
"""An array on the CPU, of any strides and alignment. It is read in place."""


class _OmittedTrue(int):
    """A default that equals True and is shown as True, but is not the object that a caller would pass."""

    def __repr__(self) -> str:
        return "True"


class _OmittedString(str):
    """A default that equals a string, but is not the object that a caller would pass."""

    __slots__ = ()


TRANSPOSE: Final = cast(bool, _OmittedTrue(1))
"""The default of transpose: True, or the setting of a QuantizedWeights or PackedWeights."""

MODE: Final[str] = _OmittedString("affine")
"""The default of mode: affine, or the setting of a QuantizedWeights or PackedWeights."""
