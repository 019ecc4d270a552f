"""Norms, softmax and rope: values against NumPy, and what they refuse."""

from __future__ import annotations

import gqmm
import ml_dtypes
import numpy as np
import pytest


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("weighted", [True, False])
def test_rms_norm(rng, dtype, weighted):
    x = rng.standard_normal((3, 5, 48), dtype=np.float32).astype(dtype)
    weight = rng.standard_normal(48, dtype=np.float32).astype(dtype) if weighted else None
    y = gqmm.rms_norm(x, weight, 1e-6)
    assert y.dtype == dtype
    exact = x.astype(np.float64)
    expected = exact / np.sqrt((exact**2).mean(-1, keepdims=True) + 1e-6)
    expected = expected * weight.astype(np.float64) if weighted else expected
    # Rounding to the type, and at most 12 roundings in float32 (docs/reference/numerics.md).
    tolerance = float(ml_dtypes.finfo(dtype).eps) / 2 + 12 * 2.0**-24
    np.testing.assert_allclose(y.astype(np.float64), expected, rtol=tolerance, atol=2.0**-25)  # half a subnormal float16
    out = np.empty_like(y)
    assert gqmm.rms_norm(x, weight, 1e-6, out=out, stream=gqmm.Stream(threads=3)) is out
    np.testing.assert_array_equal(out, y)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("biased", [True, False])
def test_layer_norm(rng, dtype, weighted, biased):
    D, EPS, U = 48, 1e-5, 2.0**-24
    x = (rng.standard_normal((3, 5, D), dtype=np.float32) + 2).astype(dtype)
    weight = rng.standard_normal(D, dtype=np.float32).astype(dtype) if weighted else None
    bias = rng.standard_normal(D, dtype=np.float32).astype(dtype) if biased else None
    y = gqmm.layer_norm(x, weight, bias, EPS)
    assert y.dtype == dtype
    exact = x.astype(np.float64)
    difference = exact - exact.mean(-1, keepdims=True)
    factor = 1 / np.sqrt((difference**2).mean(-1, keepdims=True) + EPS)
    w = weight.astype(np.float64) if weighted else 1
    expected = difference * factor * w + (bias.astype(np.float64) if biased else 0)
    # The bound of docs/reference/numerics.md.
    of_mean = (D / 16 + 4) * U * np.abs(exact).mean(-1, keepdims=True)
    of_difference = (D / 32 + 9) * U + (factor * of_mean) ** 2 / 2
    bound = (float(ml_dtypes.finfo(dtype).eps) / 2 + U) * np.abs(expected) + 2.0**-25
    bound = bound + np.abs(w) * factor * (of_mean + np.abs(difference) * of_difference)
    assert (np.abs(y.astype(np.float64) - expected) <= bound).all()
    out = np.empty_like(y)
    assert gqmm.layer_norm(x, weight, bias, EPS, out=out, stream=gqmm.Stream(threads=3)) is out
    np.testing.assert_array_equal(out, y)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("axis", [-1, 0, 1, (0, 2), [-1, -2], None], ids=str)
def test_softmax(rng, dtype, axis):
    U = 2.0**-24
    x = (rng.standard_normal((3, 5, 40), dtype=np.float32) * 4).astype(dtype)
    y = gqmm.softmax(x, axis)
    assert y.dtype == dtype
    axes = tuple(axis) if isinstance(axis, list) else axis
    z = x.astype(np.float64)
    z = z - z.max(axis=axes, keepdims=True)
    p = np.exp(z)
    total = p.sum(axis=axes, keepdims=True)
    expected = p / total
    # The bound of docs/reference/numerics.md. The last term is for results below the normal range of float16.
    roundings = np.abs(z) + (expected * np.abs(z)).sum(axis=axes, keepdims=True) + x.size / total.size / 16 + 11
    bound = (float(ml_dtypes.finfo(dtype).eps) / 2 + roundings * U) * expected + 2.0**-25
    assert (np.abs(y.astype(np.float64) - expected) <= bound).all()
    np.testing.assert_array_equal(gqmm.softmax(x, axis, precise=True), y)
    out = np.empty_like(y)
    assert gqmm.softmax(x, axis, out=out, stream=gqmm.Stream(threads=3)) is out
    np.testing.assert_array_equal(out, y)


@pytest.mark.parametrize("traditional", [True, False])
@pytest.mark.parametrize("offset", [0, 1000, "array"])
def test_rope(rng, traditional, offset):
    B, HEADS, T, D, DIMS = 2, 3, 7, 24, 16
    x = rng.standard_normal((B, HEADS, T, D), dtype=np.float32)
    first = np.array([3, 50], np.int32) if offset == "array" else offset
    y = gqmm.rope(x, DIMS, traditional=traditional, base=1e4, scale=0.5, offset=first)
    positions = np.broadcast_to(np.asarray(first), (B,))[:, None] + np.arange(T)
    angles = (positions * 0.5)[:, None, :, None] * 1e4 ** (-np.arange(DIMS // 2) * 2 / DIMS)
    rotated = x[..., :DIMS].astype(np.float64)
    a, b = (rotated[..., ::2], rotated[..., 1::2]) if traditional else np.split(rotated, 2, axis=-1)
    pairs = a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)
    expected = np.stack(pairs, -1).reshape(rotated.shape) if traditional else np.concatenate(pairs, -1)
    np.testing.assert_allclose(y[..., :DIMS], expected, atol=4 * 2.0**-24 * 2 * np.abs(x).max())
    np.testing.assert_array_equal(y[..., DIMS:], x[..., DIMS:])
    freqs = (1e4 ** (np.arange(DIMS // 2) * 2 / DIMS)).astype(np.float32)
    by_freqs = gqmm.rope(x, DIMS, traditional=traditional, base=None, freqs=freqs, scale=0.5, offset=first)
    np.testing.assert_allclose(by_freqs, y, atol=2e-4)  # freqs are rounded, and positions reach 1000


def test_errors():
    x = np.zeros((2, 3, 8), np.float32)
    with pytest.raises(ValueError, match=r"\[rms_norm\] x has shape \(2, 3, 8\) but weight has shape \(7,\); it must be \(8,\)"):
        gqmm.rms_norm(x, np.zeros(7, np.float32), 1e-6)
    with pytest.raises(ValueError, match="eps = -1 is negative or not finite"):
        gqmm.rms_norm(x, None, -1)
    with pytest.raises(ValueError, match=r"\[layer_norm\] x has shape \(2, 3, 8\) but bias has shape \(7,\); it must be \(8,\)"):
        gqmm.layer_norm(x, None, np.zeros(7, np.float32), 1e-6)
    with pytest.raises(ValueError, match=r"\[layer_norm\] eps = inf is negative or not finite"):
        gqmm.layer_norm(x, None, None, np.inf)
    np.testing.assert_array_equal(gqmm.softmax(x, np.int64(1)), gqmm.softmax(x, 1))
    with pytest.raises(TypeError, match=r"\[softmax\] "):
        gqmm.softmax(x, 1.5)
    with pytest.raises(ValueError, match=r"\[softmax\] axis 3 is no dimension of x, which has shape .*; pass one of -3 … 2"):
        gqmm.softmax(x, 3)
    with pytest.raises(ValueError, match=r"axes = \(1, -2\) name a dimension of x, which has shape \(2, 3, 8\), twice"):
        gqmm.softmax(x, (1, -2))
    with pytest.raises(ValueError, match="axes is empty"):
        gqmm.softmax(x, ())
    with pytest.raises(ValueError, match=r"\[softmax\] x is a scalar"):
        gqmm.softmax(np.float32(1), None)
    with pytest.raises(ValueError, match="float64"):
        gqmm.softmax(np.zeros(3))
    with pytest.raises(TypeError, match="axis"):
        gqmm.softmax(x, "last")
    with pytest.raises(ValueError, match="out is float32 \\(3, 2, 8\\) but the result is float32 \\(2, 3, 8\\)"):
        gqmm.softmax(x, out=np.zeros((3, 2, 8), np.float32))
    with pytest.raises(ValueError, match="dims = 7 is not an even number from 2 to 8"):
        gqmm.rope(x, 7)
    with pytest.raises(ValueError, match="base and freqs are both missing; pass one of them"):
        gqmm.rope(x, 8, base=None)
    with pytest.raises(ValueError, match="base and freqs are both given; pass one of them"):
        gqmm.rope(x, 8, freqs=np.ones(4, np.float32))
    with pytest.raises(ValueError, match="base = -2 is not a positive finite number"):
        gqmm.rope(x, 8, base=-2)
    with pytest.raises(ValueError, match=r"offset has shape \(3,\); it must be one integer, or \(2,\)"):
        gqmm.rope(x, 8, offset=np.zeros(3, np.int32))
    with pytest.raises(ValueError, match="offset does not fit 64 bits"):
        gqmm.rope(x, 8, offset=2**63)
    with pytest.raises(ValueError, match=r"offset = 2199023255552 is not within ±2\^40"):
        gqmm.rope(x, 8, offset=2**41)
    with pytest.raises(ValueError, match=r"pair 0 turns by .*e[+]29 for each position, and positions reach 3; angles must"):
        gqmm.rope(x, 8, base=None, freqs=np.array([1e-30, 1, 1, 1], np.float32))
    with pytest.raises(TypeError, match="offset"):
        gqmm.rope(x, 8, offset=True)
    with pytest.raises(ValueError, match="at least three dimensions"):
        gqmm.rope(x[0], 8)
