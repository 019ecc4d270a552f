"""The experts that every token takes, as an argument of moe_ffn."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, final

from gqmm._activations import Activation, checked_tuple

if TYPE_CHECKING:
    from gqmm._gqmm import PackedWeights, QuantizedWeights
    from gqmm._types import Array


@final
@dataclass(frozen=True, slots=True, eq=False)
class SharedExperts:
    """Experts that every token takes. Several shared experts are one with their inner sizes added up.

    Weights have two dimensions, (outputs, inputs), or a leading dimension of 1. moe_ffn checks them.
    """

    gate: QuantizedWeights | PackedWeights | Array
    """Shape (I, H), or (2·I, H) if the activation is gated and up is None."""
    up: QuantizedWeights | PackedWeights | Array | None
    """Shape (I, H), or None."""
    down: QuantizedWeights | PackedWeights | Array
    """Shape (H, I)."""
    _: KW_ONLY
    gate_bias: Array | None = None
    """None, or float16, bfloat16 or float32, shape (I,) or (2·I,)."""
    up_bias: Array | None = None
    """None, or float16, bfloat16 or float32, shape (I,)."""
    down_bias: Array | None = None
    """None, or float16, bfloat16 or float32, shape (H,)."""
    activation: Activation | None = None
    """None stands for the activation of the call."""
    scale: Array | None = None
    """The factor of each token's result, shape (…) or (…, 1) with the leading dimensions of x. None: it is added as it is."""

    def _as_tuple(self) -> tuple[object, ...]:
        activation = None if self.activation is None else checked_tuple(self.activation, "[moe_ffn] shared.activation")
        biases = (self.gate_bias, self.up_bias, self.down_bias)
        return (self.gate, self.up, self.down, *biases, activation, self.scale)
