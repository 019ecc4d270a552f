"""Operators of whole expert layers. Each calls the compiled function of its name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gqmm import _gqmm
from gqmm._activations import Activation, SwiGLU, checked_tuple
from gqmm._shared_experts import SharedExperts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gqmm._gqmm import PackedWeights, QuantizedWeights, Stream
    from gqmm._types import Array


def activate(
    gate: Array, up: Array | None, activation: Activation, *, stream: Stream | None = None, out: Array | None = None
) -> Any:
    """Compute the activation of a feed-forward block, element by element: activation(gate, up).

    The result is computed in float32 and rounded once. NaN passes through every clip. docs/reference/numerics.md states the
    order of operations and the error bounds.

    Args:
        gate: float16, bfloat16 or float32, of any shape and strides.
        up: an array of gate's shape and type; nothing broadcasts. Gated activations (SwiGLU, GeGLU, SiTU, SwiGLUStep) need it;
            for the others (SiLU, GELU, ReLU2) it is None.
        activation: an object of one of these classes, such as gqmm.SwiGLU().
        stream: None, or a Stream to choose the number of threads or the memory node.
        out: None, or the memory for the result: a NumPy array or a PyTorch tensor of the result's shape and type, row-major,
            which overlaps no operand.

    Returns:
        out, or an array of gate's library, shape and type.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: shapes or types contradict each other, up is given or missing against the activation, or out cannot take the
            result. Nothing has been written then.
    """
    return _gqmm.activate(gate, up, checked_tuple(activation, "[activate] activation"), out, stream)


def moe_combine(slots: Array, topk_weights: Array, *, out: Array | None = None, stream: Stream | None = None) -> Any:
    """Sum up each token's slots with its router's weights: y = Σ_j topk_weights[…, j] · slots[…, j, :].

    The sum starts as 0 and adds the slots by fma in float32, j ascending. It is rounded once. So it does not matter where the
    slots were computed.

    Args:
        slots: the results of each token's k experts, float16, bfloat16 or float32, shape (…, k, H), of any strides.
        topk_weights: float16, bfloat16 or float32, shape (…, k), with the leading dimensions of slots; nothing broadcasts.
        out: None, or the memory for the result: a NumPy array or a PyTorch tensor of the result's shape and type, row-major,
            which overlaps no operand.
        stream: None, or a Stream to choose the number of threads or the memory node.

    Returns:
        out, or an array of slots' library, of shape (…, H) and the type of slots.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: shapes or types contradict each other, or out cannot take the result. Nothing has been written then.
    """
    return _gqmm.moe_combine(slots, topk_weights, out, stream)


def moe_ffn(
    x: Array,
    topk_ids: Array,
    topk_weights: Array | None,
    gate: QuantizedWeights | PackedWeights | Array,
    up: QuantizedWeights | PackedWeights | Array | None,
    down: QuantizedWeights | PackedWeights | Array,
    *,
    activation: Activation = SwiGLU(),  # noqa: B008  (it is frozen)
    gate_up_order: str = "gate_up",
    gate_bias: Array | None = None,
    up_bias: Array | None = None,
    down_bias: Array | None = None,
    router_weight_on_input: bool = False,
    missing: str = "error",
    local_experts: tuple[int, int] | None = None,
    shared: SharedExperts | None = None,
    precision: str = "default",
    stream: Stream | None = None,
    out: Array | None = None,
) -> Any:
    """Compute the feed-forward layer of a mixture of experts in one call.

    With e = topk_ids[t, j], h[t, j] = activation(x[t] @ gate[e].T + gate_bias[e], x[t] @ up[e].T + up_bias[e]), and
    y[t] = Σ_j topk_weights[t, j] · (h[t, j] @ down[e].T + down_bias[e]). Each slot (t, j) is rounded once to the type of x, and
    then the slots are added up as moe_combine adds them. A token's result has the same bits alone and in any batch, with any
    number of threads. docs/reference/numerics.md states the order of operations and the error bound.

    Args:
        x: the tokens, float16, bfloat16 or float32, shape (…, H), of any strides.
        topk_ids: the experts of each token, any integer type, shape (…, k), with the leading dimensions of x.
        topk_weights: the router's weights, float16, bfloat16 or float32, shape (…, k). None: the slots are not added up.
        gate: weights of shape (E, I, H): a QuantizedWeights, a PackedWeights, or a dense array of float16, bfloat16 or float32.
            If the activation is gated and up is None, gate holds both, (E, 2·I, H) in gate_up_order.
        up: weights of shape (E, I, H), or None. An activation that is not gated has no up.
        down: weights of shape (E, H, I). gate, up and down may have formats of their own.
        activation: an object such as gqmm.SwiGLU().
        gate_up_order: "gate_up" (vLLM, transformers), "up_gate" (FlashInfer) or "interleaved" (gpt-oss).
        gate_bias: None, or float16, bfloat16 or float32, shape (E, I), or (E, 2·I) in gate_up_order.
        up_bias: None, or as gate_bias, shape (E, I).
        down_bias: None, or as gate_bias, shape (E, H).
        router_weight_on_input: whether topk_weights multiply x, rounded to its type, instead of the results.
        missing: what a negative id means. "error": it is refused. "zero": the slot is zero, and reads nothing.
        local_experts: None, or (first, count): the weights hold only these experts, while ids count all. Slots of other experts
            are zero.
        shared: None, or the SharedExperts that every token takes as well. Their result is added last.
        precision: as for gather_qmm; the default is that of x's type.
        stream: None, or a Stream to choose the number of threads or the memory node.
        out: None, or the memory for the result: a NumPy array or a PyTorch tensor of the result's shape and type, row-major,
            which overlaps no operand.

    Returns:
        out, or an array of x's library and type, of shape (…, H). Without topk_weights its shape is (…, k, H).

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: shapes, types or settings contradict each other, or ids are out of range. Nothing has been written then.
    """
    if shared is not None and not isinstance(shared, SharedExperts):
        raise TypeError(f"[moe_ffn] shared: expected gqmm.SharedExperts or None, got {shared!r}")
    return _gqmm.moe_ffn(
        x,
        topk_ids,
        topk_weights,
        gate,
        up,
        down,
        checked_tuple(activation, "[moe_ffn] activation"),
        gate_up_order,
        gate_bias,
        up_bias,
        down_bias,
        router_weight_on_input,
        missing,
        local_experts,
        None if shared is None else shared._as_tuple(),
        precision,
        stream,
        out,
    )


def moe_ffn_vjp(
    dy: Array,
    x: Array,
    topk_ids: Array,
    topk_weights: Array | None,
    gate: QuantizedWeights | PackedWeights | Array,
    up: QuantizedWeights | PackedWeights | Array | None,
    down: QuantizedWeights | PackedWeights | Array,
    *,
    activation: Activation = SwiGLU(),  # noqa: B008  (it is frozen)
    gate_up_order: str = "gate_up",
    gate_bias: Array | None = None,
    up_bias: Array | None = None,
    down_bias: Array | None = None,
    router_weight_on_input: bool = False,
    missing: str = "error",
    local_experts: tuple[int, int] | None = None,
    shared: SharedExperts | None = None,
    precision: str = "default",
    wrt: Sequence[str] = ("x",),
    stream: Stream | None = None,
) -> dict[str, Any]:
    """Gradients of y = moe_ffn(x, topk_ids, topk_weights, gate, up, down, …) from dy, the gradient of y.

    The layer is computed again in float32 for them, and nothing is kept from the forward. Sums are in float32 and rounded once,
    to the type of the operand. Where a value was clipped, the gradient is zero. Shared experts take part in the gradient of x;
    their own parameters have none here.

    Beside the operands and the gradients, a call takes up to 8 · S · I + 4 · S · H + 6 · T · H float32, and what its products
    need. T is the number of tokens, S that of slots with an expert, and I the length of h. Shared experts are computed after the
    routed ones have freed their part, with a slot for each token.

    Args:
        dy: float16, bfloat16 or float32, shape of y.
        x: as for moe_ffn.
        topk_ids: as for moe_ffn.
        topk_weights: as for moe_ffn.
        gate: as for moe_ffn.
        up: as for moe_ffn.
        down: as for moe_ffn.
        activation: as for moe_ffn.
        gate_up_order: as for moe_ffn.
        gate_bias: as for moe_ffn.
        up_bias: as for moe_ffn.
        down_bias: as for moe_ffn.
        router_weight_on_input: as for moe_ffn.
        missing: as for moe_ffn.
        local_experts: as for moe_ffn.
        shared: as for moe_ffn.
        precision: as for moe_ffn. It makes no difference: gradients are float32's.
        wrt: what to differentiate by: a tuple of "x", "topk_weights", "gate_bias", "up_bias" and "down_bias"; for affine weights
            "gate.scales", "gate.biases" and so on; for dense layers "gate", "up" and "down".
        stream: None, or a Stream to choose the number of threads or the memory node.

    Returns:
        A dictionary with an array of x's library for each name in wrt: the gradient, shape and type as its operand; of a
        PackedWeights, as unpack returns these.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: as moe_ffn; or wrt is empty, or has a name twice or one that has no gradient.
    """
    if shared is not None and not isinstance(shared, SharedExperts):
        raise TypeError(f"[moe_ffn_vjp] shared: expected gqmm.SharedExperts or None, got {shared!r}")
    return _gqmm.moe_ffn_vjp(
        dy,
        x,
        topk_ids,
        topk_weights,
        gate,
        up,
        down,
        checked_tuple(activation, "[moe_ffn_vjp] activation"),
        gate_up_order,
        gate_bias,
        up_bias,
        down_bias,
        router_weight_on_input,
        missing,
        local_experts,
        None if shared is None else shared._as_tuple(),
        precision,
        wrt,
        stream,
    )
