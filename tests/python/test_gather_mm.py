"""gather_mm means what mlx.core.gather_mm means, and accumulates half types in float32."""

from __future__ import annotations

import gqmm
import numpy as np
import oracle
import pytest

mlx_oracle = pytest.importorskip("mlx_oracle", reason="MLX, the oracle, is not installed")
mx = pytest.importorskip("mlx.core")


def reference(a, b, lhs, rhs):
    """The product in float64 and the bound of a float32 sum: K roundings of at most Σ|a||b|."""
    a64 = oracle.matrices(a).astype(np.float64)[lhs]
    b64 = oracle.matrices(b).astype(np.float64)[rhs]
    y = a64 @ b64
    dtype = a.dtype if a.dtype == b.dtype else oracle.float32
    bound = oracle.UNIT_ROUNDOFF[dtype] * np.abs(y) + a.shape[-1] * 2.0**-23 * (np.abs(a64) @ np.abs(b64))
    return y, bound


@pytest.mark.parametrize("b_dtype", oracle.FLOATS, ids=str)
@pytest.mark.parametrize("a_dtype", oracle.FLOATS, ids=str)
def test_gathered_products_are_exact_to_a_float32_sum(rng, a_dtype, b_dtype):
    a = rng.standard_normal((4, 3, 70)).astype(a_dtype)
    b = rng.standard_normal((2, 3, 70, 9)).astype(b_dtype)
    lhs, rhs = np.array([[0], [3]]), np.array([5, 0, 2])
    y = gqmm.gather_mm(a, b, lhs, rhs)
    assert y.dtype == (a_dtype if a_dtype == b_dtype else oracle.float32)
    expected, bound = reference(a, b, *np.broadcast_arrays(lhs, rhs))
    oracle.assert_within(y, expected, bound)


@pytest.mark.parametrize("with_lhs", [True, False])
@pytest.mark.parametrize("with_rhs", [True, False])
def test_missing_indices_are_those_of_mlx(rng, with_lhs, with_rhs):
    a = rng.standard_normal((3, 2, 8)).astype(np.float32)
    b = rng.standard_normal((3, 8, 5)).astype(np.float32)
    lhs = np.array([2, 0, 0], np.uint32) if with_lhs else None
    rhs = np.array([1, 1, 2], np.uint32) if with_rhs else None
    y = gqmm.gather_mm(a, b, lhs, rhs)
    theirs = mlx_oracle.call(mx.gather_mm, a, b, lhs, rhs)
    every = np.arange(3)
    expected, bound = reference(a, b, every if lhs is None else lhs, every if rhs is None else rhs)
    oracle.assert_within(y, expected, bound)
    oracle.assert_within(y, theirs.astype(np.float64), 2 * bound)


@pytest.mark.parametrize(("a_shape", "b_shape"), [((8,), (3, 8, 5)), ((3, 2, 8), (8,)), ((8,), (8,)), ((8,), (8, 5))], ids=str)
def test_vectors_lose_their_dimension_as_in_mlx(rng, a_shape, b_shape):
    a = rng.standard_normal(a_shape).astype(np.float32)
    b = rng.standard_normal(b_shape).astype(np.float32)
    indices = {}
    if len(b_shape) == 3:
        indices["rhs_indices"] = np.array([0, 2], np.uint32)
    if len(a_shape) == 3:
        indices["lhs_indices"] = np.array([2, 1], np.uint32)
    y = gqmm.gather_mm(a, b, **indices)
    theirs = mlx_oracle.call(mx.gather_mm, a, b, **indices)
    assert y.shape == theirs.shape
    oracle.assert_within(y, theirs.astype(np.float64), np.full(y.shape, 2 * 8 * 2.0**-23 * np.abs(a).max() * np.abs(b).max() * 8))


def test_zero_k_is_an_error():
    with pytest.raises(ValueError, match=r"\[gather_mm\] K = 0"):
        gqmm.gather_mm(np.ones((2, 0), np.float32), np.ones((0, 3), np.float32))


def test_sorted_indices_are_checked(rng):
    a = rng.standard_normal((3, 1, 4)).astype(np.float32)
    b = rng.standard_normal((3, 4, 2)).astype(np.float32)
    plain = gqmm.gather_mm(a, b, None, np.array([0, 0, 2]))
    assert oracle.same_bits(plain, gqmm.gather_mm(a, b, None, np.array([0, 0, 2]), sorted_indices=True))
    with pytest.raises(ValueError, match=r"\[gather_mm\] sorted_indices is set but rhs_indices\[1\] = 0 follows 2"):
        gqmm.gather_mm(a, b, None, np.array([2, 0, 2]), sorted_indices=True)
