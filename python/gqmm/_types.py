"""What the operators take as an array, and defaults that can be told from the same value given explicitly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, cast

if TYPE_CHECKING:
    from typing_extensions import Buffer


class SupportsArrayInterface(Protocol):
    """An array that describes its memory the way NumPy's do."""

    @property
    def __array_interface__(self) -> dict[str, Any]: ...


class SupportsDLPack(Protocol):
    """An array that lends its memory through DLPack, as those of PyTorch, JAX and MLX do."""

    def __dlpack__(self, *, stream: Any = ...) -> Any: ...


Array: TypeAlias = "SupportsArrayInterface | SupportsDLPack | Buffer"
"""An array on the CPU, of any strides and alignment; read in place."""


class _OmittedTrue(int):
    """True, unless the caller says otherwise: equal to True and shown as True, but not the object that a caller would pass."""

    def __repr__(self) -> str:
        return "True"


class _OmittedString(str):
    """The same for a string."""

    __slots__ = ()


TRANSPOSE: Final = cast(bool, _OmittedTrue(1))
"""Default of transpose: True, or whatever a PackedWeights says."""

MODE: Final[str] = _OmittedString("affine")
"""Default of mode: affine, or whatever a PackedWeights says."""
