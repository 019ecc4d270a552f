"""Wrong results that users of MLX reported, each under what went wrong there (issues of ml-explore/mlx)."""

from __future__ import annotations

import gqmm
import numpy as np
import oracle
import pytest
from oracle import Setting


@pytest.mark.parametrize("setting", [Setting("affine", 4, 32), *oracle.MICROSCALING], ids=str)
@pytest.mark.parametrize("rows", [1, 2, 40])
@pytest.mark.parametrize("K", [32, 96, 160, 1056])
def test_3887_k_that_is_no_multiple_of_64_reads_past_the_row(rng, setting, rows, K):
    weights = oracle.random_weights(rng, setting, (2,), 33, K)
    x = rng.standard_normal((2, rows, K)).astype(np.float32)
    rhs = np.array([1, 0])
    y = gqmm.gather_qmm(x, *weights.arrays(), rhs_indices=rhs, **weights.arguments())
    oracle.assert_within(y, oracle.reference(x, weights, np.arange(2), rhs))


def test_3856_more_than_32768_rows_lose_those_above(rng):
    rows = 32768 + 77
    weights = oracle.random_weights(rng, Setting("affine", 4, 32), (2,), 3, 32)
    x = rng.standard_normal((rows, 1, 32)).astype(np.float32)
    rhs = np.sort(rng.integers(0, 2, rows))
    y = gqmm.gather_qmm(x, *weights.arrays(), rhs_indices=rhs, group_size=32, sorted_indices=True)
    oracle.assert_within(y, oracle.reference(x, weights, np.arange(rows), rhs))
    one_matrix = gqmm.gather_qmm(x.reshape(1, rows, 32), *(a[:1] for a in weights.arrays()), group_size=32)
    oracle.assert_within(one_matrix, oracle.reference(x.reshape(1, rows, 32), weights, np.zeros(1, int), np.zeros(1, int)))


@pytest.mark.parametrize("rows", [1, 40])
def test_4055_row_sliced_weights_are_read_as_if_they_were_contiguous(rng, rows):
    """A slice of the rows N of every expert, as tensor parallelism takes: the experts stay far apart."""
    whole = oracle.random_weights(rng, Setting("affine", 4, 64), (4,), 24, 128)
    sliced = oracle.Weights(whole.setting, *(a[:, 5:16] for a in whole.arrays()))
    assert not sliced.w.flags.c_contiguous
    x = rng.standard_normal((3, rows, 128)).astype(np.float32)
    rhs = np.array([3, 0, 2])
    y = gqmm.gather_qmm(x, *sliced.arrays(), rhs_indices=rhs)
    oracle.assert_within(y, oracle.reference(x, sliced, np.arange(3), rhs))
    assert oracle.same_bits(y, gqmm.gather_qmm(x, *whole.arrays(), rhs_indices=rhs)[..., 5:16].copy())


@pytest.mark.parametrize("lhs_shape", [(6, 1), (1, 3), (1, 1), (6, 1, 1)], ids=str)
def test_4253_and_3960_lhs_indices_with_a_singleton_axis_take_the_wrong_rows(rng, lhs_shape):
    """Tokens that each go to several experts: lhs (tokens, 1) against rhs (tokens, top k)."""
    weights = oracle.random_weights(rng, Setting("affine", 4, 64), (5,), 7, 128)
    x = rng.standard_normal((6, 1, 128)).astype(np.float32)
    lhs = rng.integers(0, 6, lhs_shape)
    rhs = rng.integers(0, 5, (6, 3))
    y = gqmm.gather_qmm(x, *weights.arrays(), lhs_indices=lhs, rhs_indices=rhs)
    oracle.assert_within(y, oracle.reference(x, weights, lhs, rhs))
    # x with singleton axes of its own, whose positions are the implied lhs indices
    implied = gqmm.gather_qmm(x[:, None], *weights.arrays(), rhs_indices=rhs)
    oracle.assert_within(implied, oracle.reference(x, weights, np.arange(6)[:, None], rhs))
