"""Attention, also over quantized keys and values: values against NumPy, arrays of every library, and what it refuses."""

from __future__ import annotations

import gqmm
import ml_dtypes
import numpy as np
import pytest

B, HEADS, KV_HEADS, T, L, D, DV = 2, 6, 2, 5, 40, 16, 24


class Call:
    """Operands that fit each other."""

    def __init__(self, rng, dtype=np.float32):
        self.q = rng.standard_normal((B, HEADS, T, D), dtype=np.float32).astype(dtype)
        self.k = rng.standard_normal((B, KV_HEADS, L, D), dtype=np.float32).astype(dtype)
        self.v = rng.standard_normal((B, KV_HEADS, L, DV), dtype=np.float32).astype(dtype)

    def __call__(self, **options):
        return gqmm.scaled_dot_product_attention(self.q, self.k, self.v, scale=D**-0.5, **options)

    def expected(self, visible=None, added=0.0, sinks=None):
        """Return the result in float64; `visible` and `added` broadcast to the scores."""
        k, v = (np.repeat(a.astype(np.float64), HEADS // KV_HEADS, axis=1) for a in (self.k, self.v))
        scores = self.q.astype(np.float64) @ k.swapaxes(-1, -2) * D**-0.5 + added
        if visible is not None:
            scores = np.where(visible, scores, -np.inf)
        if sinks is not None:
            column = np.broadcast_to(sinks.astype(np.float64)[None, :, None, None], (*scores.shape[:-1], 1))
            scores = np.concatenate([scores, column], -1)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return weights[..., :L] @ v


@pytest.fixture
def call(rng):
    return Call(rng)


# The largest error of these operands is about 2 units in the last place of the type; the bound itself is checked in C++.
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-6), (np.float16, 1e-3), (ml_dtypes.bfloat16, 8e-3)])
def test_values(rng, dtype, tolerance):
    call = Call(rng, dtype)
    y = call()
    assert y.dtype == dtype
    assert y.shape == (B, HEADS, T, DV)
    expected = call.expected()
    assert np.abs(y.astype(np.float64) - expected).max() < tolerance * np.abs(expected).max()


def test_masks_and_sinks(rng, call):
    causal = np.arange(L) <= np.arange(L - T, L)[:, None]
    np.testing.assert_allclose(call(mask="causal"), call.expected(causal), atol=2e-6)
    np.testing.assert_array_equal(call(mask=causal), call(mask="causal"))
    some = rng.random((B, 1, T, L)) < 0.5
    np.testing.assert_allclose(call(mask=some), call.expected(some), atol=2e-6)
    added = rng.standard_normal((HEADS, 1, L), dtype=np.float32)
    np.testing.assert_allclose(call(mask=added), call.expected(added=added.astype(np.float64)), atol=2e-6)
    sinks = rng.standard_normal(HEADS, dtype=np.float32)
    np.testing.assert_allclose(call(sinks=sinks), call.expected(sinks=sinks), atol=2e-6)


def test_origin_gives_the_bits_of_the_sequence_alone(rng, call):
    alone = call(mask="causal")
    padding = 7
    padded = Call(rng)
    padded.q = call.q
    padded.k, padded.v = (np.pad(a, [(0, 0), (0, 0), (padding, 0), (0, 0)], constant_values=np.nan) for a in (call.k, call.v))
    keys = np.arange(L + padding)
    mask = (keys >= padding) & (keys <= np.arange(L + padding - T, L + padding)[:, None])
    np.testing.assert_array_equal(padded(mask=mask, origin=np.full(B, padding)), alone)


def test_threads_and_out(call):
    expected = call()
    out = np.empty_like(expected)
    for threads in (1, 2, 7):
        assert call(out=out, stream=gqmm.Stream(threads=threads)) is out
        np.testing.assert_array_equal(out, expected)
    view = np.zeros((B * HEADS * T * DV + B * KV_HEADS * L * DV,), np.float32)
    call.v = view[: B * KV_HEADS * L * DV].reshape(B, KV_HEADS, L, DV)
    with pytest.raises(ValueError, match=r"\[scaled_dot_product_attention\] out .*overlap"):
        call(out=view[: B * HEADS * T * DV].reshape(B, HEADS, T, DV))


def test_arrays_of_torch(call):
    torch = pytest.importorskip("torch")
    expected = call(mask="causal")
    call.q, call.k, call.v = map(torch.from_numpy, (call.q, call.k, call.v))
    y = call(mask="causal")
    assert isinstance(y, torch.Tensor)
    np.testing.assert_array_equal(y.numpy(), expected)


def test_arrays_of_mlx(call):
    mx = pytest.importorskip("mlx.core")
    expected = call(mask="causal")
    call.q, call.k, call.v = map(mx.array, (call.q, call.k, call.v))
    y = call(mask="causal")
    assert isinstance(y, mx.array)
    np.testing.assert_array_equal(np.array(y), expected)


def test_errors(call):
    with pytest.raises(ValueError, match='mask = "casual" is unknown; use "causal", an array or None'):
        call(mask="casual")
    with pytest.raises(ValueError, match=r"sinks has shape \(1,\); it must be \(6,\)"):
        call(sinks=np.zeros(1, np.float32))
    with pytest.raises(TypeError, match="scale"):
        gqmm.scaled_dot_product_attention(call.q, call.k, call.v, scale="0.5")
    with pytest.raises(TypeError, match="mask"):
        call(mask=3)


class QuantizedCall:
    """Operands of quantized attention that fit each other."""

    def __init__(self, rng, dtype=np.float32, bits=8, group_size=64):
        self.q = rng.standard_normal((B, HEADS, T, 128), dtype=np.float32).astype(dtype)
        self.settings = {"bits": bits, "group_size": group_size}
        k, v = rng.standard_normal((2, B, KV_HEADS, L, 128), dtype=np.float32).astype(dtype)
        self.keys, self.values = (gqmm.quantize(a, **self.settings) for a in (k, v))

    def __call__(self, **options):
        return gqmm.quantized_scaled_dot_product_attention(
            self.q, self.keys, self.values, **{"scale": 128**-0.5, **self.settings, **options}
        )

    def dense(self, **options):
        """Return float32 attention over what dequantize() returns of scales and biases in float32."""
        k, v = (
            gqmm.dequantize(w, scales.astype(np.float32), biases.astype(np.float32), **self.settings)
            for w, scales, biases in (self.keys, self.values)
        )
        return gqmm.scaled_dot_product_attention(self.q.astype(np.float32), k, v, scale=128**-0.5, **options)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_quantized_attention_has_the_bits_of_attention_over_dequantized_keys_and_values(rng, dtype, bits, group_size):
    call = QuantizedCall(rng, dtype, bits, group_size)
    y = call(mask="causal")
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, call.dense(mask="causal").astype(dtype))


def test_quantized_attention_takes_masks_origins_threads_and_out(rng):
    call = QuantizedCall(rng)
    some = rng.random((B, 1, T, L)) < 0.5
    origin = np.array([3, -200])
    expected = call.dense(mask=some, origin=origin)
    out = np.empty_like(expected)
    for threads in (1, 2, 7):
        assert call(mask=some, origin=origin, out=out, stream=gqmm.Stream(threads=threads)) is out
        np.testing.assert_array_equal(out, expected)
    last = call(mask="causal")[:, :, -1:]
    call.q = call.q[:, :, -1:]
    np.testing.assert_array_equal(call(), last)


def test_quantized_attention_of_mlxs_arrays(rng):
    mx = pytest.importorskip("mlx.core")
    call = QuantizedCall(rng)
    expected = call()
    call.q = mx.array(call.q)
    call.keys, call.values = ([mx.array(a) for a in heads] for heads in (call.keys, call.values))
    y = call()
    assert isinstance(y, mx.array)
    np.testing.assert_array_equal(np.array(y), expected)


def test_errors_of_quantized_attention(rng):
    call = QuantizedCall(rng)
    with pytest.raises(ValueError, match=r"q_keys of 4 bits has shape \(2, 2, 40, 256\); bits = 8 would fit"):
        call(bits=4, group_size=128)
    with pytest.raises(ValueError, match=r"q_keys: scales has shape .*; group_size = 64 would fit"):
        call(group_size=32)
    with pytest.raises(ValueError, match="bits = 7"):
        call(bits=7)
    with pytest.raises(ValueError, match='mask = "casual" is unknown'):
        call(mask="casual")
    w, scales, _ = call.keys
    for wrong, got in [((w, scales), "2 elements"), (w, "ndarray")]:
        call.keys = wrong
        with pytest.raises(TypeError, match=rf"q_keys: expected \(w, scales, biases\), got {got}"):
            call()


@pytest.mark.parametrize("name", ["q_keys", "q_values"])
def test_errors_name_the_keys_or_the_values(rng, name):
    call = QuantizedCall(rng)
    heads = {"q_keys": call.keys, "q_values": call.values}
    for wrong, error in [((1, 2, 3), TypeError), (tuple(a[..., :1] for a in call.keys), ValueError)]:
        with pytest.raises(error, match=rf"^\[quantized_scaled_dot_product_attention\] {name}"):
            gqmm.quantized_scaled_dot_product_attention(call.q, **(heads | {name: wrong}), scale=1.0)
