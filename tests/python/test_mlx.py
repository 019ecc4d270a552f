"""MLX arrays in place, and results as MLX arrays."""

from __future__ import annotations

import copy
import gc
import pickle

import gqmm
import numpy as np
import oracle
import pytest
from oracle import Setting

mlx_oracle = pytest.importorskip("mlx_oracle", reason="MLX is not installed")
mx = pytest.importorskip("mlx.core")
pytestmark = pytest.mark.mlx


@pytest.mark.parametrize("dtype", oracle.FLOATS, ids=str)
def test_arrays_give_the_bits_of_numpy(rng, dtype):
    weights = oracle.random_weights(rng, Setting("affine", 4, 64), (3,), 5, 128, dtype=dtype)
    x = rng.standard_normal((3, 4, 128)).astype(dtype)
    rhs = np.array([2, 0, 1], np.uint32)
    y = gqmm.gather_qmm(*map(mlx_oracle.to_mlx, (x, *weights.arrays())), rhs_indices=mx.array(rhs))
    assert isinstance(y, mx.array)
    assert oracle.same_bits(mlx_oracle.to_numpy(y), gqmm.gather_qmm(x, *weights.arrays(), rhs_indices=rhs))


def test_gqmm_replaces_mlx_in_a_call(rng):
    """The same arguments to both functions."""
    w, scales, biases = mx.quantize(mx.array(rng.standard_normal((4, 6, 128)).astype(np.float32)))
    x = mx.array(rng.standard_normal((2, 1, 1, 128)).astype(np.float32))
    rhs = mx.array([[0, 3], [2, 1]], dtype=mx.uint32)
    theirs = mx.gather_qmm(x, w, scales, biases, rhs_indices=rhs, transpose=True, group_size=64, bits=4)
    ours = gqmm.gather_qmm(x, w, scales, biases, rhs_indices=rhs, transpose=True, group_size=64, bits=4)
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    assert mx.abs(ours - theirs).max().item() < 128 * 2.0**-22 * mx.abs(x).max().item() * 8


def test_lazy_and_strided_arrays_are_read_as_what_they_mean(rng):
    w = mx.array(rng.standard_normal((128, 4, 3)).astype(np.float32))
    view = (w + 1).transpose(2, 1, 0)[:, ::2]
    ours = gqmm.quantize(view)
    theirs = mx.quantize(view)
    assert all(mx.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(ours, theirs, strict=True))
    wide = mx.broadcast_to(w[:1, :1].reshape(1, 3, 1), (2, 3, 64))
    assert all(mx.array_equal(a, b) for a, b in zip(gqmm.quantize(wide), mx.quantize(wide), strict=True))


def test_every_function_returns_arrays(rng):
    w = mx.array(rng.standard_normal((3, 5, 128)).astype(np.float32))
    codes, scales, biases = gqmm.quantize(w)
    assert (codes.dtype, scales.dtype, biases.dtype) == (mx.uint32, mx.float32, mx.float32)
    assert gqmm.dequantize(codes, scales, biases, dtype=mx.bfloat16).dtype == mx.bfloat16
    assert isinstance(gqmm.quantized_matmul(w, codes, scales, biases), mx.array)
    assert isinstance(gqmm.gather_mm(w, w.swapaxes(-1, -2)), mx.array)
    packed = gqmm.pack(codes, scales, biases)
    assert isinstance(gqmm.gather_qmm(w, packed), mx.array)
    unpacked = gqmm.unpack(packed, like=w)[:3]
    assert all(mx.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(unpacked, (codes, scales, biases), strict=True))
    assert gqmm.gather_qmm(w[:, :0], codes, scales, biases).shape == (3, 0, 5)


def test_arrays_inside_a_transformation_are_refused():
    with pytest.raises(ValueError, match=r"\[quantize\] w: its library does not lend the memory: "):
        mx.compile(lambda w: gqmm.quantize(w)[0])(mx.ones((2, 64)))


def test_quantized_weights_hold_arrays(rng):
    weights = gqmm.QuantizedWeights(*gqmm.quantize(mx.array(rng.standard_normal((3, 5, 128)).astype(np.float32))))
    x = mx.array(rng.standard_normal((3, 2, 128)).astype(np.float32))
    assert isinstance(weights.w, mx.array)
    assert isinstance(gqmm.dequantize(weights), mx.array)
    expected = gqmm.gather_qmm(x, weights.w, weights.scales, weights.biases)
    again = pickle.loads(pickle.dumps(weights))
    for same in (weights, again, copy.deepcopy(weights), gqmm.pack(weights)):
        assert mx.array_equal(gqmm.gather_qmm(x, same), expected)


def test_arrays_of_quantized_weights_that_are_assigned_to_are_read_anew(rng):
    weights = gqmm.QuantizedWeights(*gqmm.quantize(mx.array(rng.standard_normal((3, 5, 128)).astype(np.float32))))
    weights.scales[:] = 0  # MLX gives the array other memory
    weights.biases[:] = 1
    gc.collect()
    assert mx.array_equal(gqmm.dequantize(weights), mx.ones((3, 5, 128)))
