"""The operators, with their public signatures and documentation. Each calls the compiled function of its name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from gqmm import _gqmm
from gqmm._formats import documented
from gqmm._gqmm import PackedWeights, QuantizedWeights, Stream
from gqmm._types import MODE, TRANSPOSE, Array

if TYPE_CHECKING:
    from collections.abc import Sequence


@documented
def gather_qmm(
    x: Array,
    w: Array | QuantizedWeights | PackedWeights,
    /,
    scales: Array | None = None,
    biases: Array | None = None,
    lhs_indices: Array | None = None,
    rhs_indices: Array | None = None,
    transpose: bool | None = TRANSPOSE,
    group_size: int | None = None,
    bits: int | None = None,
    mode: str | None = MODE,
    global_scale: Array | None = None,
    *,
    sorted_indices: bool = False,
    missing: str = "error",
    precision: str = "default",
    stream: Stream | None = None,
) -> Any:
    """Multiply gathered matrices of x by gathered quantized matrices: y[i] = x[lhs_indices[i]] @ ŵ[rhs_indices[i]].T.

    Args:
        x: the activations, float16, bfloat16 or float32, shape (…, M, K).
        w: the codes, uint32, shape (…, N, K·bits/32) when transpose, else (…, K, N·bits/32). Each row is one little-endian bit
            stream, and its first code is in the lowest bits. w may also be a QuantizedWeights, without scales, biases and
            global_scale. Or it may be a PackedWeights, without scales and biases. Then the settings of w hold, and settings that
            the call repeats must agree with them.
        scales: shape (…, N, K/group_size) when transpose, else (…, K, N/group_size), with the leading dimensions of w. Affine
            mode takes float16, bfloat16 or float32. The other modes take bytes, as uint8 or as {scale_types}.
        biases: affine mode needs them, and the other modes have none. Shape and types are as for scales.
        lhs_indices: flat positions in the leading dimensions of x, of any integer type and shape. None stands for 0, 1, … in the
            shape of those dimensions.
        rhs_indices: flat positions in the leading dimensions of w, like lhs_indices, with which they broadcast. If both are
            None, the leading dimensions of x and w broadcast.
        transpose: whether to multiply by the transposed weights.
        group_size: the number of weights that share a scale: {group_sizes}.
        bits: the number of bits of a code: {bits}.
        mode: {modes}.
        global_scale: only for {modes_with_global_scale}, float32: one value for each matrix of w, or a single one. Packed
            weights take it too.
        sorted_indices: a promise that the flattened rhs_indices ascend. The promise is checked. It is ignored without
            rhs_indices.
        missing: what a negative entry of rhs_indices means. "error": it is refused. "zero": the result is zero there, and no row
            of x is read. With sorted_indices, negative entries come first.
        precision: "default", "fast" or "float32". The default is as exact as float32 for float32 results, and has 16-bit
            activations for half types. "fast" has 8-bit activations. "float32" is as exact as float32 until the result is
            rounded to its type.
        stream: None, or a Stream to choose the number of threads or the memory node.

    Returns:
        An array of x's library, of shape (broadcast shape of the indices) + (M, N). In affine mode its type is the one that x,
        scales and biases promote to. In the other modes it is the type of x.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: shapes, types, settings or indices contradict each other or are out of range. Nothing has been computed
            then.
    """
    return _gqmm.gather_qmm(
        x,
        w,
        scales,
        biases,
        lhs_indices,
        rhs_indices,
        None if transpose is TRANSPOSE else transpose,
        group_size,
        bits,
        None if mode is MODE else mode,
        global_scale,
        sorted_indices,
        missing,
        precision,
        stream,
    )


@documented
def quantized_matmul(
    x: Array,
    w: Array | QuantizedWeights | PackedWeights,
    /,
    scales: Array | None = None,
    biases: Array | None = None,
    transpose: bool | None = TRANSPOSE,
    group_size: int | None = None,
    bits: int | None = None,
    mode: str | None = MODE,
    *,
    precision: str = "default",
    stream: Stream | None = None,
) -> Any:
    """Multiply x by quantized matrices: y = x @ ŵ.T, or y = x @ ŵ without transpose. Leading dimensions broadcast.

    Args:
        x: the activations, float16, bfloat16 or float32, shape (…, M, K) or (K,).
        w: as for gather_qmm.
        scales: as for gather_qmm.
        biases: as for gather_qmm.
        transpose: whether to multiply by the transposed weights.
        group_size: as for gather_qmm.
        bits: as for gather_qmm.
        mode: {modes}.
        precision: as for gather_qmm.
        stream: None, or a Stream to choose the number of threads or the memory node.

    Returns:
        An array of x's library, of shape (…, M, N), or (…, N) for a one-dimensional x. Its type is that of gather_qmm's result.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: shapes, types or settings contradict each other or are out of range.
    """
    return _gqmm.quantized_matmul(
        x,
        w,
        scales,
        biases,
        None if transpose is TRANSPOSE else transpose,
        group_size,
        bits,
        None if mode is MODE else mode,
        precision,
        stream,
    )


def gather_mm(
    a: Array,
    b: Array,
    /,
    lhs_indices: Array | None = None,
    rhs_indices: Array | None = None,
    *,
    sorted_indices: bool = False,
    stream: Stream | None = None,
) -> Any:
    """Multiply gathered dense matrices: y[i] = a[lhs_indices[i]] @ b[rhs_indices[i]].

    Sums are computed in float32, whatever the type.

    Args:
        a: float16, bfloat16 or float32, shape (…, M, K). A one-dimensional a is a row, and the result lacks the dimension M.
        b: float16, bfloat16 or float32, shape (…, K, N). A one-dimensional b is a column, and the result lacks the dimension N.
        lhs_indices: flat positions in the leading dimensions of a, as for gather_qmm.
        rhs_indices: flat positions in the leading dimensions of b, as for gather_qmm.
        sorted_indices: a promise that the flattened rhs_indices ascend. The promise is checked. It is ignored without
            rhs_indices.
        stream: None, or a Stream to choose the number of threads or the memory node.

    Returns:
        An array of a's library, of shape (broadcast shape of the indices) + (M, N) and of the type that a and b promote to.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: shapes, types or indices contradict each other or are out of range.
    """
    return _gqmm.gather_mm(a, b, lhs_indices, rhs_indices, sorted_indices, stream)


def gather_qmm_vjp(
    dy: Array,
    x: Array,
    weights: QuantizedWeights | PackedWeights,
    /,
    *,
    lhs_indices: Array | None = None,
    rhs_indices: Array | None = None,
    sorted_indices: bool = False,
    missing: str = "error",
    wrt: Sequence[str] = ("x",),
    stream: Stream | None = None,
) -> dict[str, Any]:
    """Gradients of y = gather_qmm(x, weights, …) from dy, the gradient of y.

    dx[l] sums dy[i] @ ŵ[rhs_indices[i]] over the pairs i with lhs_indices[i] = l. The gradient of a scale sums
    dy · x · code over the weights of its group, in all pairs that use its matrix, and that of a bias sums dy · x. Matrices that
    no pair uses have gradient zero. Sums are in float32 and rounded once; docs/reference/numerics.md states the error bound.

    Args:
        dy: float16, bfloat16 or float32, shape of y: (broadcast shape of the indices) + (M, N).
        x: as for gather_qmm.
        weights: a QuantizedWeights or a PackedWeights. The gradients are the same, bit by bit.
        lhs_indices: as for gather_qmm.
        rhs_indices: as for gather_qmm.
        sorted_indices: as for gather_qmm.
        missing: as for gather_qmm. A pair without an expert adds nothing to any gradient.
        wrt: what to differentiate by: a tuple of "x", "scales" and "biases". The last two are there in affine mode only.
        stream: None, or a Stream to choose the number of threads or the memory node.

    Returns:
        A dictionary with an array of x's library for each name in wrt: the gradient, shape and type as x, scales or biases; of a
        PackedWeights, as unpack returns these.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: shapes, types or indices that contradict each other or are out of range; wrt is empty, or has a name twice or
            one that has no gradient. Nothing has been computed then.
    """
    return _gqmm.gather_qmm_vjp(dy, x, weights, lhs_indices, rhs_indices, sorted_indices, missing, wrt, stream)


def quantized_matmul_vjp(
    dy: Array,
    x: Array,
    weights: QuantizedWeights | PackedWeights,
    /,
    *,
    wrt: Sequence[str] = ("x",),
    stream: Stream | None = None,
) -> dict[str, Any]:
    """Gradients of y = quantized_matmul(x, weights) from dy, the gradient of y.

    Dimensions along which x or the weights were broadcast are summed over. The sums are those of gather_qmm_vjp.

    Args:
        dy: float16, bfloat16 or float32, shape of y: (…, M, N), or (…, N) for a one-dimensional x.
        x: as for quantized_matmul.
        weights: as for gather_qmm_vjp.
        wrt: as for gather_qmm_vjp.
        stream: None, or a Stream to choose the number of threads or the memory node.

    Returns:
        A dictionary as gather_qmm_vjp returns it.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: as gather_qmm_vjp.
    """
    return _gqmm.quantized_matmul_vjp(dy, x, weights, wrt, stream)


def gather_mm_vjp(
    dy: Array,
    a: Array,
    b: Array,
    /,
    *,
    lhs_indices: Array | None = None,
    rhs_indices: Array | None = None,
    sorted_indices: bool = False,
    wrt: Sequence[str] = ("a", "b"),
    stream: Stream | None = None,
) -> dict[str, Any]:
    """Gradients of y = gather_mm(a, b, …) from dy, the gradient of y.

    da[l] sums dy[i] @ b[rhs_indices[i]].T over the pairs i with lhs_indices[i] = l, and db[e] sums a[lhs_indices[i]].T @ dy[i]
    over those with rhs_indices[i] = e. Matrices that no pair uses have gradient zero. Sums are in float32 and rounded once;
    docs/reference/numerics.md states the error bound.

    Args:
        dy: float16, bfloat16 or float32, shape of y: (broadcast shape of the indices) + (M, N), without the dimensions that a
            one-dimensional a or b lacks.
        a: as for gather_mm.
        b: as for gather_mm.
        lhs_indices: as for gather_mm.
        rhs_indices: as for gather_mm.
        sorted_indices: as for gather_mm.
        wrt: what to differentiate by: a tuple of "a" and "b".
        stream: None, or a Stream to choose the number of threads or the memory node.

    Returns:
        A dictionary with an array of a's library for each name in wrt: the gradient, shape and type as a or b.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: as gather_qmm_vjp.
    """
    return _gqmm.gather_mm_vjp(dy, a, b, lhs_indices, rhs_indices, sorted_indices, wrt, stream)


@documented
def quantize(
    w: Array,
    /,
    group_size: int | None = None,
    bits: int | None = None,
    mode: str | None = "affine",
    *,
    global_scale: Array | None = None,
    stream: Stream | None = None,
) -> tuple[Any, ...]:
    """Quantize the last dimension of w. For finite input the result has the bits of mlx.core.quantize.

    Args:
        w: the weights, float16, bfloat16 or float32, shape (…, N, K). K is a multiple of group_size.
        group_size: the number of weights that share a scale, as for gather_qmm.
        bits: the number of bits of a code, as for gather_qmm.
        mode: {modes}.
        global_scale: only for {modes_with_global_scale}, one float32 value: the largest magnitude of the tensor. The scales are
            relative to it.
        stream: None, or a Stream. Its number of threads makes no difference, because this function runs on one thread.

    Returns:
        A tuple of arrays of w's library: the codes, uint32 of shape (…, N, K·bits/32), the scales of shape
        (…, N, K/group_size), and in affine mode biases of that shape. In affine mode scales and biases have the type of w. In
        the other modes scales are uint8.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: shapes, types or settings contradict each other or are out of range. Or w has a NaN or Inf, and the mode is
            not affine.
    """
    return _gqmm.quantize(w, group_size, bits, mode, global_scale, stream)


@documented
def dequantize(
    w: Array | QuantizedWeights,
    /,
    scales: Array | None = None,
    biases: Array | None = None,
    group_size: int | None = None,
    bits: int | None = None,
    mode: str | None = MODE,
    global_scale: Array | None = None,
    dtype: Any = None,
    *,
    stream: Stream | None = None,
) -> Any:
    """Compute the weights that quantized weights stand for. The result has the bits of mlx.core.dequantize.

    Args:
        w: the codes, uint32, shape (…, N, K·bits/32). w may also be a QuantizedWeights, without scales, biases and global_scale.
            Then settings that the call repeats must agree with those of w.
        scales: shape (…, N, K/group_size), types as for gather_qmm.
        biases: affine mode needs them, and the other modes have none. Shape and types are as for scales.
        group_size: the number of weights that share a scale, as for gather_qmm.
        bits: the number of bits of a code, as for gather_qmm.
        mode: {modes}.
        global_scale: only for {modes_with_global_scale}, float32: what quantize was given, as one value for each matrix of w, or
            a single one.
        dtype: float16, bfloat16 or float32, as the type of any library or as its name. None stands for the type that scales and
            biases promote to in affine mode, and for bfloat16 in the other modes. With a global_scale the result is float32
            whatever dtype says, as in MLX.
        stream: None, or a Stream. Its number of threads makes no difference, because this function runs on one thread.

    Returns:
        An array of w's library with the weights, of shape (…, N, K), or of the shape of the QuantizedWeights.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: shapes, types or settings contradict each other or are out of range.
    """
    return _gqmm.dequantize(w, scales, biases, group_size, bits, None if mode is MODE else mode, global_scale, dtype, stream)


@documented
def pack(
    w: Array | QuantizedWeights,
    scales: Array | None = None,
    biases: Array | None = None,
    *,
    group_size: int | None = None,
    bits: int | None = None,
    mode: str | None = MODE,
    transpose: bool | None = TRANSPOSE,
    stream: Stream | None = None,
) -> PackedWeights:
    """Copy quantized weights into the order in which the kernels read them. Products with the copy are faster.

    Args:
        w: the codes, shape and type as for gather_qmm. w may also be a QuantizedWeights, without scales and biases. Then
            settings that the call repeats must agree with those of w. The packed weights hold its global_scale.
        scales: as for gather_qmm.
        biases: as for gather_qmm.
        group_size: the number of weights that share a scale, as for gather_qmm.
        bits: the number of bits of a code, as for gather_qmm.
        mode: {modes}.
        transpose: whether products will be x @ w.T.
        stream: None, or a Stream to choose the number of threads or the memory node.

    Returns:
        Packed weights, to pass as w. They hold a copy and do not need the arrays any more.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: shapes, types or settings contradict each other or are out of range.
    """
    return _gqmm.pack(
        w,
        scales,
        biases,
        group_size,
        bits,
        None if mode is MODE else mode,
        None if transpose is TRANSPOSE else transpose,
        None,
        stream,
    )


class UnpackedWeights(NamedTuple):
    """Quantized weights as arrays, the way that pack got them."""

    w: Any
    """The codes, uint32, shape (…, N, K·bits/32) when transpose, else (…, K, N·bits/32)."""
    scales: Any
    """The scales in their original type, shape (…, N, K/group_size) when transpose, else (…, K, N/group_size)."""
    biases: Any
    """The biases in affine mode, with the shape of scales, else None."""
    global_scale: Any
    """The global scale, float32, one value for each matrix of w. None if the packed weights hold none."""


def unpack(w: PackedWeights, /, *, like: Array | None = None) -> UnpackedWeights:
    """Copy packed weights back into arrays. They have every bit that pack was given, also after save and load.

    Args:
        w: the packed weights. Their mode, bits, group_size and transpose say how to read the arrays.
        like: an array of the library that the results shall belong to. None stands for NumPy.

    Returns:
        Arrays with memory of their own: w, scales, biases and global_scale, by name or in this order.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: like is an array that gqmm cannot read.
    """
    return UnpackedWeights(*_gqmm.unpack(w, like))
