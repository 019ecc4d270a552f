"""Products of rows that are sorted by expert. Each calls the compiled function of its name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gqmm import _gqmm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gqmm._gqmm import PackedWeights, QuantizedWeights, Stream
    from gqmm._types import Array


def grouped_qmm(
    x: Array,
    weights: QuantizedWeights | PackedWeights,
    offsets: Array,
    *,
    rows: str = "error",
    precision: str = "default",
    stream: Stream | None = None,
    out: Array | None = None,
) -> Any:
    """Multiply rows that are sorted by expert by the quantized matrices of their experts: y[r] = x[r] @ ŵ[e].T.

    The result has the bits of gather_qmm.

    Args:
        x: float16, bfloat16 or float32, shape (R, K). The rows of expert 0 come first, then those of expert 1, and so on.
        weights: (E, N, K), or (E, K, N) without transpose: a QuantizedWeights or a PackedWeights.
        offsets: int32 or int64. Shape (E,): the end of each group, as torch's grouped_mm has them. Shape (E + 1,): the same with
            a 0 in front. They do not decrease, and the last one is R.
        rows: what happens to rows behind the last group. "error": there may be none. "zero": their results are zero, and they
            are not read, so that x may be a buffer of fixed capacity.
        precision: as for gather_qmm.
        stream: None, or a Stream to choose the number of threads or the memory node.
        out: None, or the memory for the result, as for moe_ffn.

    Returns:
        out, or an array of x's library, of shape (R, N) and the type of gather_qmm's result.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: shapes, types or offsets contradict each other. Nothing has been written then.
    """
    return _gqmm.grouped_qmm(x, weights, offsets, rows, precision, stream, out)


def grouped_mm(
    x: Array,
    b: Array,
    offsets: Array,
    *,
    rows: str = "error",
    stream: Stream | None = None,
    out: Array | None = None,
) -> Any:
    """Multiply rows that are sorted by expert by the dense matrices of their experts: y[r] = x[r] @ b[e].

    The result has the bits of gather_mm.

    Args:
        x: float16, bfloat16 or float32, shape (R, K), sorted as for grouped_qmm.
        b: float16, bfloat16 or float32, shape (E, K, N), of any strides.
        offsets: as for grouped_qmm.
        rows: as for grouped_qmm.
        stream: None, or a Stream to choose the number of threads or the memory node.
        out: None, or the memory for the result, as for moe_ffn.

    Returns:
        out, or an array of x's library, of shape (R, N) and the type that x and b promote to.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: as grouped_qmm.
    """
    return _gqmm.grouped_mm(x, b, offsets, rows, stream, out)


def grouped_qmm_vjp(
    dy: Array,
    x: Array,
    weights: QuantizedWeights | PackedWeights,
    offsets: Array,
    /,
    *,
    rows: str = "error",
    wrt: Sequence[str] = ("x",),
    stream: Stream | None = None,
) -> dict[str, Any]:
    """Gradients of y = grouped_qmm(x, weights, offsets) from dy, the gradient of y.

    The sums are those of gather_qmm_vjp.

    Args:
        dy: float16, bfloat16 or float32, shape (R, N).
        x: as for grouped_qmm.
        weights: as for grouped_qmm.
        offsets: as for grouped_qmm.
        rows: as for grouped_qmm. The gradient of a row behind the last group is zero.
        wrt: as for gather_qmm_vjp.
        stream: None, or a Stream to choose the number of threads or the memory node.

    Returns:
        A dictionary as gather_qmm_vjp returns it.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: as gather_qmm_vjp.
    """
    return _gqmm.grouped_qmm_vjp(dy, x, weights, offsets, rows, wrt, stream)


def grouped_mm_vjp(
    dy: Array,
    x: Array,
    b: Array,
    offsets: Array,
    /,
    *,
    rows: str = "error",
    wrt: Sequence[str] = ("x", "b"),
    stream: Stream | None = None,
) -> dict[str, Any]:
    """Gradients of y = grouped_mm(x, b, offsets) from dy, the gradient of y.

    The sums are those of gather_mm_vjp.

    Args:
        dy: float16, bfloat16 or float32, shape (R, N).
        x: as for grouped_mm.
        b: as for grouped_mm.
        offsets: as for grouped_qmm.
        rows: as for grouped_qmm. The gradient of a row behind the last group is zero.
        wrt: what to differentiate by: a tuple of "x" and "b".
        stream: None, or a Stream to choose the number of threads or the memory node.

    Returns:
        A dictionary with an array of x's library for each name in wrt: the gradient, shape and type as x or b.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: as gather_mm_vjp.
    """
    return _gqmm.grouped_mm_vjp(dy, x, b, offsets, rows, wrt, stream)
