"""The depthwise convolution: values against float64 and MLX, chunks, the arrays of each library, and what it refuses."""

from __future__ import annotations

import gqmm
import ml_dtypes
import numpy as np
import pytest

B, L, C, K = 2, 37, 50, 4


def operands(rng, dtype=np.float32):
    return [rng.standard_normal(shape).astype(dtype) for shape in ((B, L, C), (C, K, 1))]


def exact(x, weight, stride=1, padding=(0, 0), dilation=1):
    """The sums in float64, and those of magnitudes."""
    x, weight = x.astype(np.float64), weight.astype(np.float64)
    x = np.pad(x, ((0, 0), padding, (0, 0)))
    rows = (x.shape[1] - (weight.shape[1] - 1) * dilation - 1) // stride + 1
    taps = [(x[:, k * dilation :: stride][:, :rows], weight[:, k, 0]) for k in range(weight.shape[1])]
    return sum(a * w for a, w in taps), sum(abs(a * w) for a, w in taps)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize(
    "options",
    [{}, {"padding": 3}, {"padding": (K - 1, 0)}, {"stride": 2, "dilation": 3, "padding": [1, 4]}],
    ids=["plain", "padding", "causal", "all"],
)
def test_values(rng, dtype, options):
    x, weight = operands(rng, dtype)
    padding = options.get("padding", 0)
    sides = (padding, padding) if isinstance(padding, int) else tuple(padding)
    expected, magnitudes = exact(x, weight, **{**options, "padding": sides})
    y = gqmm.depthwise_conv1d(x, weight, **options)
    assert y.dtype == dtype
    # K roundings of the sum, and one to the type.
    sums = 1.001 * K * 2.0**-24 * magnitudes
    rounding = float(ml_dtypes.finfo(dtype).eps) / 2 if dtype != np.float32 else 0
    smallest = float(ml_dtypes.finfo(dtype).smallest_subnormal)
    assert (np.abs(y.astype(np.float64) - expected) <= sums + rounding * (np.abs(expected) + sums) + smallest).all()

    out = np.empty_like(y)
    assert gqmm.depthwise_conv1d(x, weight, **options, stream=gqmm.Stream(threads=3), out=out) is out
    np.testing.assert_array_equal(out, y)
    columns = np.asfortranarray(x), weight[::-1][::-1].transpose(2, 1, 0).copy().transpose(2, 1, 0)
    np.testing.assert_array_equal(gqmm.depthwise_conv1d(*columns, **options), y)


@pytest.mark.parametrize("chunk", [1, 5, 30])
def test_chunks_have_the_bits_of_the_whole(rng, chunk):
    x, weight = operands(rng, ml_dtypes.bfloat16)
    whole = gqmm.depthwise_conv1d(x, weight, padding=(K - 1, 0))
    last, parts = np.zeros((B, K - 1, C), x.dtype), []
    for first in range(0, L, chunk):
        rows = np.concatenate([last, x[:, first : first + chunk]], axis=1)
        last = rows[:, 1 - K :]
        parts.append(gqmm.depthwise_conv1d(rows, weight))
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


def test_types_that_differ_give_float32(rng):
    x, weight = operands(rng)
    x, weight = x.astype(ml_dtypes.bfloat16), weight.astype(np.float16)
    y = gqmm.depthwise_conv1d(x, weight)
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, gqmm.depthwise_conv1d(x.astype(np.float32), weight.astype(np.float32)))


@pytest.mark.mlx
def test_mlx(rng):
    mx = pytest.importorskip("mlx.core")
    x, weight = operands(rng)
    y = gqmm.depthwise_conv1d(mx.array(x), mx.array(weight), padding=2)
    assert isinstance(y, mx.array)
    np.testing.assert_array_equal(np.asarray(y), gqmm.depthwise_conv1d(x, weight, padding=2))


def test_torch(rng):
    torch = pytest.importorskip("torch")
    x, weight = operands(rng)
    y = gqmm.depthwise_conv1d(torch.from_numpy(x), torch.from_numpy(weight))
    assert isinstance(y, torch.Tensor)
    np.testing.assert_array_equal(y.numpy(), gqmm.depthwise_conv1d(x, weight))


def test_jax(rng):
    jnp = pytest.importorskip("jax.numpy")
    x, weight = operands(rng)
    y = gqmm.depthwise_conv1d(jnp.asarray(x), jnp.asarray(weight))
    assert isinstance(y, jnp.ndarray)
    np.testing.assert_array_equal(np.asarray(y), gqmm.depthwise_conv1d(x, weight))


def test_errors(rng):
    x, weight = operands(rng)
    with pytest.raises(ValueError, match=r"weight has shape \(50, 4\); it must be \(50, taps, 1\), a row of taps for each"):
        gqmm.depthwise_conv1d(x, weight[..., 0])
    with pytest.raises(ValueError, match=r"stride = 0 is not in the range from 1 to 2\^31 - 1"):
        gqmm.depthwise_conv1d(x, weight, stride=0)
    with pytest.raises(ValueError, match=r"padding = \(1, 2, 3\); pass a number of rows, or a pair \(front, behind\)"):
        gqmm.depthwise_conv1d(x, weight, padding=(1, 2, 3))
    with pytest.raises(ValueError, match="the first and the last of 4 taps with dilation 1 are 3 rows apart"):
        gqmm.depthwise_conv1d(x[:, :3], weight)
    with pytest.raises(ValueError, match="out overlaps the memory of x; pass memory of its own"):
        gqmm.depthwise_conv1d(x, weight, padding=(3, 0), out=x)
    with pytest.raises(TypeError, match=r"\[depthwise_conv1d\] dilation"):
        gqmm.depthwise_conv1d(x, weight, dilation="2")
