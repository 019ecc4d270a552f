"""The activations of feed-forward blocks. Each is a frozen class with its constants, which are checked when it is made."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Literal, TypeAlias, final

from gqmm import _gqmm


@dataclass(frozen=True, slots=True)
class _Checked:
    """What all activations share."""

    def __post_init__(self) -> None:
        _gqmm.check_activation(as_tuple(self))


@final
@dataclass(frozen=True, slots=True)
class SwiGLU(_Checked):
    """Gated: (u + bias) · g · sigmoid(alpha · g), where g = min(gate, limit) and u = up clipped to -limit … limit.

    The defaults give silu(gate) · up. gpt-oss has alpha = 1.702, limit = 7, bias = 1. Constants are rounded to float32. Raises
    ValueError unless alpha and limit are positive and finite, and bias is finite.
    """

    alpha: float = 1.0
    """The factor of g inside sigmoid."""
    limit: float | None = None
    """Where gate and up are clipped; None stands for nowhere."""
    bias: float = 0.0
    """What is added to up."""


@final
@dataclass(frozen=True, slots=True)
class GeGLU(_Checked):
    """Gated: gelu(gate) · up. Raises ValueError for another formula."""

    approximate: Literal["none", "tanh"] = "none"
    """The formula: "none" for x · ½ (1 + erf(x / √2)), "tanh" for x · ½ (1 + tanh(√(2/π) · (x + 0.044715 · x³)))."""


@final
@dataclass(frozen=True, slots=True)
class SiTU(_Checked):
    """Gated: beta · tanh(gate / beta) · sigmoid(gate) · u, where u = linear_beta · tanh(up / linear_beta).

    Constants are rounded to float32. Raises ValueError unless they are positive and finite.
    """

    beta: float
    """Where gate saturates."""
    linear_beta: float | None = None
    """Where up saturates; None stands for u = up."""


@final
@dataclass(frozen=True, slots=True)
class SwiGLUStep(_Checked):
    """Gated: min(silu(gate), limit) · u, where u = up clipped to -limit … limit.

    The limit is rounded to float32. Raises ValueError unless it is positive and finite.
    """

    limit: float
    """Where silu(gate) and up are clipped."""


@final
@dataclass(frozen=True, slots=True)
class SiLU(_Checked):
    """Not gated: gate · sigmoid(gate)."""


@final
@dataclass(frozen=True, slots=True)
class GELU(_Checked):
    """Not gated: gelu(gate). Raises ValueError for another formula."""

    approximate: Literal["none", "tanh"] = "none"
    """The formula, as of GeGLU."""


@final
@dataclass(frozen=True, slots=True)
class ReLU2(_Checked):
    """Not gated: max(gate, 0)²."""


Activation: TypeAlias = SwiGLU | GeGLU | SiTU | SwiGLUStep | SiLU | GELU | ReLU2
"""Any activation."""


def as_tuple(activation: _Checked) -> tuple[object, ...]:
    """Return what the compiled functions take for an activation: the name of its class and its constants."""
    return (type(activation).__name__, *astuple(activation))


def checked_tuple(activation: object, argument: str) -> tuple[object, ...]:
    """Return as_tuple of what a caller passed as an activation. Raises TypeError, whose message starts with `argument`."""
    if not isinstance(activation, Activation):
        raise TypeError(f"{argument}: expected an activation such as gqmm.SwiGLU(), got {activation!r}")
    return as_tuple(activation)
