"""The operators: public signatures and documentation over the compiled functions."""

from __future__ import annotations

from typing import Any, NamedTuple

from gqmm import _gqmm
from gqmm._gqmm import PackedWeights, Stream
from gqmm._types import MODE, TRANSPOSE, Array


def gather_qmm(
    x: Array,
    w: Array | PackedWeights,
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
    precision: str = "default",
    stream: Stream | None = None,
) -> Any:
    """Multiply gathered matrices of x by gathered quantized matrices: y[i] = x[lhs_indices[i]] @ ŵ[rhs_indices[i]].T.

    Args:
        x: float16, bfloat16 or float32, shape (…, M, K).
        w: uint32, shape (…, N, K·bits/32) when transpose, else (…, K, N·bits/32): codes packed low to high as one little-endian
            bit stream per row. Or a PackedWeights, without scales and biases: its settings hold, and those repeated in the call
            must agree with them.
        scales: shape (…, N, K/group_size) when transpose, else (…, K, N/group_size), leading dimensions as w's. float16,
            bfloat16 or float32 in affine mode; in the others bytes as uint8, or of the type that they are: float8_e8m0fnu for
            mxfp4 and mxfp8, float8_e4m3fn for nvfp4.
        biases: affine mode only, shape and kinds of type as scales.
        lhs_indices: flat positions in the leading dimensions of x, any integer type and shape. None: 0, 1, … in the shape of
            those dimensions.
        rhs_indices: flat positions in the leading dimensions of w, likewise. It broadcasts with lhs_indices. If both are None,
            the leading dimensions of x and w broadcast.
        transpose: whether to multiply with the transposed weights.
        group_size: weights that share a scale: 32, 64 (default) or 128 for affine, 32 for mxfp4 and mxfp8, 16 for nvfp4.
        bits: bits of a code: 1, 2, 3, 4 (default), 5, 6 or 8 for affine, 4 for mxfp4 and nvfp4, 8 for mxfp8.
        mode: "affine", "mxfp4", "mxfp8" or "nvfp4".
        global_scale: nvfp4 only, float32: one value for each leading matrix of w, or a single one; also with packed weights.
        sorted_indices: a promise that rhs_indices, flattened, ascend. It is checked, and ignored without rhs_indices.
        precision: "default" (as exact as float32 for float32 results, 16-bit activations for half types), "fast" (8-bit
            activations) or "float32" (as exact as float32 before the result is rounded to its type).
        stream: None, or a Stream to choose the number of threads.

    Returns:
        An array of x's library: shape (broadcast shape of the indices) + (M, N), in the type that x, scales and biases promote
        to (affine) or x's (other modes).

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: shapes, types, settings or indices that contradict each other or are out of range. Nothing has been
            computed then.
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
        precision,
        stream,
    )


def quantized_matmul(
    x: Array,
    w: Array | PackedWeights,
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
    """Multiply x by quantized matrices: y = x @ ŵ.T, or x @ ŵ without transpose; leading dimensions broadcast.

    Args:
        x: float16, bfloat16 or float32, shape (…, M, K), or (K,).
        w: as for gather_qmm.
        scales: as for gather_qmm.
        biases: as for gather_qmm.
        transpose: whether to multiply with the transposed weights.
        group_size: as for gather_qmm.
        bits: as for gather_qmm.
        mode: "affine", "mxfp4", "mxfp8" or "nvfp4".
        precision: as for gather_qmm.
        stream: None, or a Stream to choose the number of threads.

    Returns:
        An array of x's library: shape (…, M, N), or (…, N) for a one-dimensional x, typed as gather_qmm's.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: shapes, types or settings that contradict each other or are out of range.
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

    Sums are in float32 whatever the type.

    Args:
        a: float16, bfloat16 or float32, shape (…, M, K); a one-dimensional a is a row, whose dimension the result lacks.
        b: likewise, shape (…, K, N); a one-dimensional b is a column, whose dimension the result lacks.
        lhs_indices: flat positions in the leading dimensions of a, as for gather_qmm.
        rhs_indices: flat positions in the leading dimensions of b, as for gather_qmm.
        sorted_indices: a promise that rhs_indices, flattened, ascend. It is checked, and ignored without rhs_indices.
        stream: None, or a Stream to choose the number of threads.

    Returns:
        An array of a's library: shape (broadcast shape of the indices) + (M, N), in the type that a and b promote to.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: shapes, types or indices that contradict each other or are out of range.
    """
    return _gqmm.gather_mm(a, b, lhs_indices, rhs_indices, sorted_indices, stream)


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
    """Quantize the last dimension of w, bit for bit as mlx.core.quantize does for finite input.

    Args:
        w: float16, bfloat16 or float32, shape (…, N, K), K a multiple of group_size.
        group_size: weights that share a scale, as for gather_qmm.
        bits: bits of a code, as for gather_qmm.
        mode: "affine", "mxfp4", "mxfp8" or "nvfp4".
        global_scale: nvfp4 only, one float32 value: the largest magnitude of the tensor, to which scales are relative.
        stream: None, or a Stream, which makes no difference: this runs on one thread.

    Returns:
        Arrays of w's library: codes, uint32 (…, N, K·bits/32); scales (…, N, K/group_size), of w's type for affine, else uint8;
        and, for affine only, biases like the scales.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: shapes, types or settings that contradict each other or are out of range; NaN or Inf in w in other modes
            than affine.
    """
    return _gqmm.quantize(w, group_size, bits, mode, global_scale, stream)


def dequantize(
    w: Array,
    /,
    scales: Array,
    biases: Array | None = None,
    group_size: int | None = None,
    bits: int | None = None,
    mode: str | None = "affine",
    global_scale: Array | None = None,
    dtype: Any = None,
    *,
    stream: Stream | None = None,
) -> Any:
    """Expand quantized weights, bit for bit as mlx.core.dequantize does.

    Args:
        w: codes, uint32 (…, N, K·bits/32).
        scales: shape (…, N, K/group_size), types as for gather_qmm.
        biases: affine mode only, shape and kinds of type as scales.
        group_size: weights that share a scale, as for gather_qmm.
        bits: bits of a code, as for gather_qmm.
        mode: "affine", "mxfp4", "mxfp8" or "nvfp4".
        global_scale: nvfp4 only, float32: one value for each leading matrix of w, or a single one, as given to quantize.
        dtype: float16, bfloat16 or float32, as any library's type or its name. None: what scales and biases promote to for
            affine, else bfloat16. With a global_scale the result is float32 whatever dtype says, as in MLX.
        stream: None, or a Stream, which makes no difference: this runs on one thread.

    Returns:
        An array of w's library: the weights, shape (…, N, K).

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: shapes, types or settings that contradict each other or are out of range.
    """
    return _gqmm.dequantize(w, scales, biases, group_size, bits, mode, global_scale, dtype, stream)


def pack(
    w: Array,
    scales: Array,
    biases: Array | None = None,
    *,
    group_size: int | None = None,
    bits: int | None = None,
    mode: str | None = "affine",
    transpose: bool | None = True,
    stream: Stream | None = None,
) -> PackedWeights:
    """Copy quantized weights into the order in which the kernels read them, once, for faster products afterwards.

    Args:
        w: codes, shape and type as for gather_qmm.
        scales: as for gather_qmm.
        biases: affine mode only, as for gather_qmm.
        group_size: weights that share a scale, as for gather_qmm.
        bits: bits of a code, as for gather_qmm.
        mode: "affine", "mxfp4", "mxfp8" or "nvfp4".
        transpose: whether products will be x @ w.T.
        stream: None, or a Stream to choose the number of threads.

    Returns:
        Weights to pass as w. They hold a copy: the arrays can go.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: shapes, types or settings that contradict each other or are out of range.
    """
    return _gqmm.pack(w, scales, biases, group_size, bits, mode, transpose, None, stream)


class UnpackedWeights(NamedTuple):
    """Quantized weights as pack was given them, row by row."""

    w: Any
    """Codes: uint32, shape (…, N, K·bits/32) when transpose, else (…, K, N·bits/32)."""
    scales: Any
    """Shape (…, N, K/group_size) when transpose, else (…, K, N/group_size), in their original type."""
    biases: Any
    """Affine mode only, else None: shape as scales."""
    global_scale: Any
    """float32, one value for each leading matrix of w; None if the packed weights hold none."""


def unpack(w: PackedWeights, /, *, like: Array | None = None) -> UnpackedWeights:
    """Copy packed weights back into arrays: every bit that pack was given, also after save and load.

    Args:
        w: what pack or PackedWeights.load returned; its mode, bits, group_size and transpose say how to read the arrays.
        like: an array of the library that the results shall belong to. None: NumPy.

    Returns:
        Arrays of their own memory: w, scales, biases and global_scale, by name or in this order.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: like is an array that gqmm cannot read.
    """
    return UnpackedWeights(*_gqmm.unpack(w, like))
