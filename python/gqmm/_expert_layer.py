"""A layer of experts that are divided over ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from gqmm import _gqmm
from gqmm._activations import Activation, SwiGLU, checked_tuple
from gqmm._shared_experts import SharedExperts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gqmm._engines import Engine
    from gqmm._gqmm import ExpertOwners, PackedWeights, QuantizedWeights, Stream
    from gqmm._types import Array


@final
class ExpertLayer:
    """A layer of experts of which each rank holds some. Ranks have tokens of their own, and the result has the bits of one rank.

    All ranks make the layer, and all call it, in the same order; a rank without tokens passes arrays with 0 of them. Errors in
    values are found before rows are sent, and then every rank raises: the one with the error says what it is, and the others name
    it. Any other exception in the middle of a call ends all ranks (Engine.abort).
    """

    __slots__ = ("_layer",)

    def __init__(
        self,
        engine: Engine,
        gate: QuantizedWeights | PackedWeights | Array,
        up: QuantizedWeights | PackedWeights | Array | None,
        down: QuantizedWeights | PackedWeights | Array,
        *,
        owners: ExpertOwners | Array | Sequence[int | Sequence[int]],
        activation: Activation = SwiGLU(),  # noqa: B008  (it is frozen)
        gate_up_order: str = "gate_up",
        gate_bias: Array | None = None,
        up_bias: Array | None = None,
        down_bias: Array | None = None,
        shared: SharedExperts | None = None,
        precision: str = "default",
        stream: Stream | None = None,
    ) -> None:
        """Compare what the ranks' layers are made of: version, owner map, options, and shapes and formats of weights.

        Args:
            engine: what carries messages, such as gqmm.mpi.Engine() or gqmm.torch_dist.Engine().
            gate: as in moe_ffn, with this rank's experts alone, in the order of owners.experts_of(engine.rank).
            up: likewise, or None.
            down: likewise.
            owners: an ExpertOwners, or what it is made of; the same on all ranks.
            activation: as in moe_ffn; the same on all ranks.
            gate_up_order: as in moe_ffn; the same on all ranks.
            gate_bias: as in moe_ffn, for this rank's experts.
            up_bias: likewise.
            down_bias: likewise.
            shared: None, or the experts that every token takes as well, whole on all ranks and without a scale. Each rank
                computes them for its own tokens.
            precision: as in moe_ffn; the same on all ranks.
            stream: None, or a Stream to choose the number of threads or the memory node.

        Raises:
            TypeError: an argument is of a wrong kind.
            ValueError: arguments do not fit each other, or differ between the ranks. All ranks raise it.
        """
        if shared is not None and not isinstance(shared, SharedExperts):
            raise TypeError(f"[ExpertLayer] shared: expected gqmm.SharedExperts or None, got {shared!r}")
        self._layer = _gqmm.ExpertLayer(
            engine,
            gate,
            up,
            down,
            owners,
            checked_tuple(activation, "[ExpertLayer] activation"),
            gate_up_order,
            gate_bias,
            up_bias,
            down_bias,
            None if shared is None else shared._as_tuple(),
            precision,
            stream,
        )

    def __call__(self, x: Array, topk_ids: Array, topk_weights: Array, *, shared_scale: Array | None = None) -> Any:
        """Compute the layer for this rank's tokens.

        Args:
            x: the tokens, float16, bfloat16 or float32, shape (…, H); of one type on all ranks.
            topk_ids: the experts of each token among all experts, any integer type, shape (…, k); k is the same on all ranks. A
                slot with a negative id is nobody's; it is zero.
            topk_weights: the router's weights, float16, bfloat16 or float32, shape (…, k).
            shared_scale: None, or the factor of each token's shared result, shape (…) or (…, 1).

        Returns:
            An array of x's library and type, of shape (…, H), with the bits of moe_ffn over all experts.

        Raises:
            TypeError: an argument is of a wrong kind.
            ValueError: an argument of some rank is wrong, or k or the type of x differ. All ranks raise it.
        """
        return self._layer(x, topk_ids, topk_weights, shared_scale)
