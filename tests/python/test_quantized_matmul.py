"""quantized_matmul means what mlx.core.quantized_matmul means."""

from __future__ import annotations

import gqmm
import numpy as np
import oracle
import pytest
from oracle import Setting

mlx_oracle = pytest.importorskip("mlx_oracle", reason="MLX, the oracle, is not installed")
mx = pytest.importorskip("mlx.core")


def compare(x, weights, y):
    """With MLX, element by element, within both sides' error bounds; with the reference alone where MLX differs on purpose."""
    rows = x[None] if x.ndim == 1 else x
    leading = np.broadcast_shapes(rows.shape[:-2], weights.w.shape[:-2])
    lhs = np.broadcast_to(np.arange(np.prod(rows.shape[:-2], dtype=int)).reshape(rows.shape[:-2]), leading)
    rhs = np.broadcast_to(np.arange(np.prod(weights.w.shape[:-2], dtype=int)).reshape(weights.w.shape[:-2]), leading)
    expected = oracle.reference(rows, weights, lhs, rhs)
    bound = expected.bound.reshape(y.shape)
    oracle.assert_within(y, expected.y.reshape(y.shape), bound)
    if weights.setting.mode not in mlx_oracle.MODES:
        return
    if x.ndim > 2 or not weights.w.shape[:-2]:  # else MLX drops the leading dimensions of w
        theirs = mlx_oracle.call(mx.quantized_matmul, x, *weights.arrays(), **weights.arguments())
        plain = oracle.plain_evaluation_bound(expected, x.shape[-1]).reshape(y.shape)
        oracle.assert_within(y, theirs.astype(np.float64), bound + plain)


@pytest.mark.parametrize("transpose", [True, False], ids=["transposed", "plain"])
@pytest.mark.parametrize("setting", oracle.DEFAULTS, ids=str)
@pytest.mark.parametrize("x_leading", [(), (3,), (2, 1), (1,)], ids=str)
@pytest.mark.parametrize("w_leading", [(), (2, 3)], ids=str)
def test_leading_dimensions_broadcast_as_in_mlx(rng, setting, transpose, x_leading, w_leading):
    N, K = (5, 128) if transpose else (128, 5)
    weights = oracle.random_weights(rng, setting, w_leading, N, K, transpose=transpose)
    x = rng.standard_normal((*x_leading, 2, K)).astype(np.float32)
    y = gqmm.quantized_matmul(x, *weights.arrays(), **weights.arguments())
    assert y.shape == (*np.broadcast_shapes(x_leading, w_leading), 2, N)
    compare(x, weights, y)


@pytest.mark.parametrize("transpose", [True, False], ids=["transposed", "plain"])
def test_a_vector_gives_a_vector(rng, transpose):
    N, K = (5, 128) if transpose else (128, 5)
    weights = oracle.random_weights(rng, Setting("affine", 4, 64), (), N, K, transpose=transpose)
    x = rng.standard_normal(K).astype(np.float32)
    y = gqmm.quantized_matmul(x, *weights.arrays(), transpose=transpose)
    assert y.shape == (N,)
    compare(x, weights, y)


def test_a_vector_multiplies_each_of_several_matrices(rng):
    weights = oracle.random_weights(rng, Setting("affine", 4, 64), (2, 3), 5, 128)
    x = rng.standard_normal(128).astype(np.float32)
    y = gqmm.quantized_matmul(x, *weights.arrays())
    assert y.shape == (2, 3, 5)
    compare(x, weights, y)


def test_it_gives_the_bits_of_gather_qmm(rng):
    weights = oracle.random_weights(rng, Setting("affine", 4, 64), (3,), 17, 256, dtype=oracle.bfloat16)
    x = rng.standard_normal((3, 5, 256)).astype(oracle.bfloat16)
    assert oracle.same_bits(gqmm.quantized_matmul(x, *weights.arrays()), gqmm.gather_qmm(x, *weights.arrays()))
