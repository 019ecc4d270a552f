"""The layers between the products of a model. Each function calls the compiled function of its name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from gqmm import _gqmm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gqmm._gqmm import Stream
    from gqmm._types import Array


def scaled_dot_product_attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    scale: float,
    mask: Array | str | None = None,
    sinks: Array | None = None,
    origin: Array | None = None,
    stream: Stream | None = None,
    out: Array | None = None,
) -> Any:
    """Compute attention for each head: y = softmax(scale · q @ kᵀ + mask) @ v, as mx.fast.scaled_dot_product_attention does.

    All arithmetic is in float32, and the result is rounded once. No matrix of scores is kept. A row of the result has the same
    bits in any batch, with any number of queries computed together, with any number of threads and on every instruction set.
    docs/reference/numerics.md states the order of operations and the error bound.

    Args:
        q: float16, bfloat16 or float32, shape (B, Hq, T, D), of any strides.
        k: likewise, shape (B, Hkv, L, D). A head of k and v serves Hq / Hkv consecutive heads of q.
        v: likewise, shape (B, Hkv, L, Dv).
        scale: the factor of the scores, such as D ** -0.5.
        mask: the keys that a query sees. None: all. "causal": query t sees the keys 0 … L - T + t. An array that broadcasts to
            (B, Hq, T, L): bool, where true means that the query sees the key, or float16, bfloat16 or float32, which is added
            to the scores; -inf hides a key. Keys and values that no query sees may be anything, also NaN.
        sinks: None, or float16, bfloat16 or float32, shape (Hq,): the score of one more key whose value is zero.
        origin: None, or integers of shape (B,): for each batch element the index along L of the key at position 0. It may be
            negative. Sums run over blocks of keys that are aligned to positions. So with its origin, a sequence has the same bits
            behind padding, or after its first keys have been dropped, as alone. None stands for 0.
        stream: None, or a Stream to choose the number of threads or the memory node.
        out: None, or the memory for the result: a NumPy array or a PyTorch tensor of the result's shape and type, row-major,
            which overlaps no operand.

    Returns:
        out, or an array of q's library, of shape (B, Hq, T, Dv) and the type of q, k and v (float32 if these differ). A query
        that sees no key has the mean of v if the mask is "causal" or bool, NaN if -inf hides all keys, and 0 with a sink.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: shapes or types contradict each other, or out cannot take the result. Nothing has been written then.
    """
    return _gqmm.scaled_dot_product_attention(q, k, v, scale, mask, sinks, origin, out, stream)


def quantized_scaled_dot_product_attention(
    q: Array,
    q_keys: tuple[Array, Array, Array],
    q_values: tuple[Array, Array, Array],
    *,
    scale: float,
    mask: Array | str | None = None,
    origin: Array | None = None,
    group_size: int = 64,
    bits: int = 8,
    stream: Stream | None = None,
    out: Array | None = None,
) -> Any:
    """Compute attention over quantized keys and values, as mlx-lm's function of this name does over a quantized cache.

    Keys and values are dequantized in blocks of 128, in float32: scale · code + bias, where the product and the sum are rounded.
    So the result has the bits of scaled_dot_product_attention in float32 over what dequantize() returns of scales and biases in
    float32, rounded to its type. The bits of a row are independent of the same things.

    Args:
        q: float16, bfloat16 or float32, shape (B, Hq, T, D), of any strides.
        q_keys: (w, scales, biases) as quantize() returns them for keys of shape (B, Hkv, L, D), in mode "affine", of any strides.
            A head of them serves Hq / Hkv consecutive heads of q.
        q_values: likewise for values of shape (B, Hkv, L, Dv).
        scale: the factor of the scores, such as D ** -0.5.
        mask: the keys that a query sees, as in scaled_dot_product_attention.
        origin: None, or integers of shape (B,): for each batch element the index along L of the key at position 0.
        group_size: the number of elements that share a scale: 32, 64 or 128.
        bits: the bits of a code: 1, 2, 3, 4, 5, 6 or 8.
        stream: None, or a Stream to choose the number of threads or the memory node.
        out: None, or the memory for the result: a NumPy array or a PyTorch tensor of the result's shape and type, row-major,
            which overlaps no operand.

    Returns:
        out, or an array of q's library, of shape (B, Hq, T, Dv) and the type to which q, scales and biases promote. A query that
        sees no key has what it has in scaled_dot_product_attention.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: shapes, types or settings contradict each other, or out cannot take the result. Nothing has been written then.
    """
    return _gqmm.quantized_scaled_dot_product_attention(q, q_keys, q_values, scale, mask, origin, group_size, bits, out, stream)


def rms_norm(x: Array, weight: Array | None, eps: float, *, stream: Stream | None = None, out: Array | None = None) -> Any:
    """Divide each row by its root mean square, as mx.fast.rms_norm does: y = x / √(mean(x²) + eps) · weight.

    All arithmetic is in float32, and the result is rounded once. A row has the same bits in any batch, with any number of threads
    and on every instruction set. docs/reference/numerics.md states the order of operations and the error bound.

    Args:
        x: float16, bfloat16 or float32, shape (…, D), of any strides.
        weight: likewise, shape (D,), or None for ones.
        eps: a small number that is not negative.
        stream: None, or a Stream to choose the number of threads or the memory node.
        out: None, or the memory for the result: a NumPy array or a PyTorch tensor of the result's shape and type, row-major,
            which overlaps no operand.

    Returns:
        out, or an array of x's library and shape, and of the type to which x and weight promote.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: shapes or types contradict each other, or out cannot take the result. Nothing has been written then.
    """
    return _gqmm.rms_norm(x, weight, eps, out, stream)


def layer_norm(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    eps: float,
    *,
    stream: Stream | None = None,
    out: Array | None = None,
) -> Any:
    """Subtract each row's mean and divide by its standard deviation, as mx.fast.layer_norm does.

    y = (x - mean(x)) / √(mean((x - mean(x))²) + eps) · weight + bias. All arithmetic is in float32, and the result is rounded
    once. A row has the same bits in any batch, with any number of threads and on every instruction set.
    docs/reference/numerics.md states the order of operations and the error bound.

    Args:
        x: float16, bfloat16 or float32, shape (…, D), of any strides.
        weight: likewise, shape (D,), or None for ones.
        bias: likewise, shape (D,), or None for zeros.
        eps: a small number that is not negative.
        stream: None, or a Stream to choose the number of threads or the memory node.
        out: None, or the memory for the result: a NumPy array or a PyTorch tensor of the result's shape and type, row-major,
            which overlaps no operand.

    Returns:
        out, or an array of x's library and shape, and of the type to which x, weight and bias promote.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: shapes or types contradict each other, or out cannot take the result. Nothing has been written then.
    """
    return _gqmm.layer_norm(x, weight, bias, eps, out, stream)


def softmax(
    x: Array,
    axis: int | Sequence[int] | None = -1,
    *,
    precise: bool = False,
    stream: Stream | None = None,
    out: Array | None = None,
) -> Any:
    """Turn numbers into positive ones whose sum is 1, as mx.softmax does: y = e^x / Σ e^x, where the sum runs over the axes.

    All arithmetic is in float32, and the result is rounded once. The elements that are summed have the same bits in any batch,
    with any number of threads and on every instruction set. If all of them are -inf, or one is inf or NaN, their results are NaN.
    docs/reference/numerics.md states the order of operations and the error bound.

    Args:
        x: float16, bfloat16 or float32, of any strides and at least one dimension.
        axis: a dimension of x, several ones, or None for all. Negative ones count from the last.
        precise: as in mx.softmax. It makes no difference, because sums are in float32 in any case.
        stream: None, or a Stream to choose the number of threads or the memory node.
        out: None, or the memory for the result: a NumPy array or a PyTorch tensor of x's shape and type, row-major, which
            overlaps no operand.

    Returns:
        out, or an array of x's library, shape and type.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: an axis is no dimension of x or given twice, or out cannot take the result. Nothing has been written then.
    """
    axes = None if axis is None else tuple(axis) if isinstance(axis, Iterable) else (axis,)
    return _gqmm.softmax(x, axes, out, stream)


def rope(
    x: Array,
    dims: int,
    *,
    traditional: bool = False,
    base: float | None = 10000.0,
    scale: float = 1.0,
    offset: int | Array = 0,
    freqs: Array | None = None,
    stream: Stream | None = None,
    out: Array | None = None,
) -> Any:
    """Rotate pairs of elements by angles that grow with the position, as mx.fast.rope does.

    In row t of T, a pair (a, b) with the angle θ = (offset + t) · scale · frequency becomes (a·cos θ - b·sin θ,
    b·cos θ + a·sin θ). Angles are computed in float64, their cosines and sines are rounded to float32, and the result is rounded
    once. A row has the same bits in any batch, with any number of threads and on every instruction set.

    Args:
        x: float16, bfloat16 or float32, shape (B, …, T, D), of any strides.
        dims: how many elements of a row are rotated: even, 2 … D. Others stay as they are.
        traditional: whether neighbours make a pair, (0, 1), (2, 3), …, or else elements that are dims / 2 apart.
        base: pair i has the frequency base ** (-2 * i / dims). None if freqs are given.
        scale: the factor of positions.
        offset: the position of the first row: an integer, or integers of shape (B,).
        freqs: None, or float16, bfloat16 or float32, shape (dims / 2,): pair i has the frequency 1 / freqs[i].
        stream: None, or a Stream to choose the number of threads or the memory node.
        out: None, or the memory for the result: a NumPy array or a PyTorch tensor of x's shape and type, row-major, which
            overlaps no operand.

    Returns:
        out, or an array of x's library, shape and type.

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: shapes or types contradict each other, or out cannot take the result. Nothing has been written then.
    """
    return _gqmm.rope(x, dims, traditional, base, scale, offset, freqs, out, stream)


def depthwise_conv1d(
    x: Array,
    weight: Array,
    *,
    stride: int = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int = 1,
    stream: Stream | None = None,
    out: Array | None = None,
) -> Any:
    """Convolve each channel along the rows, as mx.conv1d does where groups is the number of channels.

    With zeros for rows in front of x and behind it, and k over the taps, y[b, t, c] is the sum of
    x[b, t · stride + k · dilation - padding, c] · weight[c, k, 0]. Recurrent layers keep the last K - 1 rows, and convolve them
    with the new rows behind them, without padding. All arithmetic is in float32, and the result is rounded once. A row has the
    same bits in a prompt, in chunks, in any batch, with any number of threads and on every instruction set.
    docs/reference/numerics.md states the order of operations and the error bound.

    Args:
        x: float16, bfloat16 or float32, shape (B, L, C), of any strides.
        weight: likewise, shape (C, K, 1): K taps for each channel.
        stride: how many rows of x lie between the first taps of two rows of the result.
        padding: how many rows of zeros stand at each end of x; or a pair, in front of x and behind it. (K - 1, 0) makes the
            convolution causal.
        dilation: how many rows of x lie between two taps.
        stream: None, or a Stream to choose the number of threads or the memory node.
        out: None, or the memory for the result: a NumPy array or a PyTorch tensor of the result's shape and type, row-major,
            which overlaps no operand.

    Returns:
        out, or an array of x's library and the type to which x and weight promote. It has a row for each place of the taps, and
        shape (B, T, C).

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: shapes or types contradict each other, there are fewer rows than the taps reach over, or out cannot take the
            result. Nothing has been written then.
    """
    if isinstance(padding, Iterable):
        sides = tuple(padding)
        if len(sides) != 2:
            raise ValueError(f"[depthwise_conv1d] padding = {padding!r}; pass a number of rows, or a pair (front, behind)")
    else:
        sides = (padding, padding)
    return _gqmm.depthwise_conv1d(x, weight, stride, *sides, dilation, out, stream)


def gated_delta_update(
    q: Array,
    k: Array,
    v: Array,
    g: Array,
    beta: Array,
    state: Array | None = None,
    mask: Array | None = None,
    *,
    stream: Stream | None = None,
    out: Array | None = None,
    state_out: Array | None = None,
) -> tuple[Any, Any]:
    """Walk through tokens with the gated delta rule, as gated_delta_ops of mlx-lm and mx.fast.gated_delta_update do.

    For each batch element and head of v, with S of shape (Dv, Dk) as its state, a token does S = S · diag(g), then
    S = S + beta · (v - S · k) · kᵀ, then y = S · q. All arithmetic is in float32, token by token, and y is rounded once. The
    results have the same bits whether tokens come at once, in chunks of any size or one by one, in any batch, with any number of
    threads and on every instruction set. docs/reference/numerics.md states the order of operations and the error bound.

    Args:
        q: float16, bfloat16 or float32, shape (B, T, Hk, Dk), of any strides. Nothing scales q and k; models normalize them
            before.
        k: likewise, of the same shape.
        v: likewise, shape (B, T, Hv, Dv). A head of q and k serves Hv / Hk consecutive heads of v.
        g: the factor of decay itself, not its logarithm: likewise, shape (B, T, Hv), or (B, T, Hv, Dk) with a factor for each
            element of k.
        beta: the factor of what is written: likewise, shape (B, T, Hv).
        state: the state before the first token: float32, shape (B, Hv, Dv, Dk), of any strides. None stands for zeros.
        mask: None, or bool, shape (B, T): the tokens that count. The others are padding. They change no state, their rows of y
            are zero, and their operands may be anything, also NaN.
        stream: None, or a Stream to choose the number of threads or the memory node.
        out: None, or the memory for y: a NumPy array or a PyTorch tensor of y's shape and type, row-major, which overlaps no
            operand.
        state_out: None, or likewise the memory for the new state. It may be state itself, if that is row-major.

    Returns:
        (y, state): out, or an array of q's library and type, of shape (B, T, Hv, Dv); and state_out, or an array of q's library,
        float32, of shape (B, Hv, Dv, Dk).

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: shapes or types contradict each other, or out or state_out cannot take its result. Nothing has been written
            then.
    """
    return _gqmm.gated_delta_update(q, k, v, g, beta, state, mask, out, state_out, stream)


def ssm_update(
    hidden_states: Array,
    A_log: Array,
    B: Array,
    C: Array,
    D: Array,
    dt: Array,
    dt_bias: Array,
    state: Array | None = None,
    time_step_limit: tuple[float, float] = (0.001, 100.0),
    mask: Array | None = None,
    lengths: Array | None = None,
    *,
    stream: Stream | None = None,
    out: Array | None = None,
    state_out: Array | None = None,
) -> tuple[Any, Any]:
    """Walk through tokens with the recurrence of a state space model (Mamba-2), as ssm_update of mlx-lm does.

    For each batch element and head, with S of shape (Dh, N) as its state and x as its row of hidden_states, a token takes the
    time step s = clip(softplus(dt + dt_bias), time_step_limit). Then it does S = S · exp(-exp(A_log) · s) + (s · x) · Bᵀ, then
    y = S · C + D · x. All arithmetic is in float32, token by token, and y is rounded once. The results have the same bits whether
    tokens come at once, in chunks of any size or one by one, in any batch, with any number of threads and on every instruction
    set. docs/reference/numerics.md states the order of operations and the error bound.

    Args:
        hidden_states: float16, bfloat16 or float32, shape (B, T, H, Dh), of any strides.
        A_log: likewise, shape (H,): the logarithm of the negative of A.
        B: likewise, shape (B, T, G, N). A group of B and C serves H / G consecutive heads.
        C: likewise, of the same shape.
        D: likewise, shape (H,): the factor of x in y.
        dt: likewise, shape (B, T, H): the time steps before their softplus.
        dt_bias: likewise, shape (H,).
        state: the state before the first token: float32, shape (B, H, Dh, N), of any strides. None stands for zeros.
        time_step_limit: the numbers between which time steps are clipped. The second may be infinite.
        mask: None, or bool, shape (B, T): the tokens that count. The others are padding. They change no state, their rows of y
            are zero, and their operands may be anything, also NaN.
        lengths: None, or the number of tokens of each sequence: integers, shape (B,). Those behind are padding as well.
        stream: None, or a Stream to choose the number of threads or the memory node.
        out: None, or the memory for y: a NumPy array or a PyTorch tensor of y's shape and type, row-major, which overlaps no
            operand.
        state_out: None, or likewise the memory for the new state. It may be state itself, if that is row-major.

    Returns:
        (y, state): out, or an array of the library of hidden_states, of shape (B, T, H, Dh), of the type of hidden_states, or
        float32 if D has another type; and state_out, or an array of the same library, float32, of shape (B, H, Dh, N).

    Raises:
        TypeError: an argument is of a wrong kind.
        ValueError: shapes or types contradict each other, or out or state_out cannot take its result. Nothing has been written
            then.
    """
    if not isinstance(time_step_limit, tuple | list) or len(time_step_limit) != 2:
        raise TypeError(f"[ssm_update] time_step_limit = {time_step_limit!r} must be a tuple of two numbers")
    smallest, largest = time_step_limit
    return _gqmm.ssm_update(
        hidden_states, A_log, B, C, D, dt, dt_bias, state, smallest, largest, mask, lengths, out, state_out, stream
    )
