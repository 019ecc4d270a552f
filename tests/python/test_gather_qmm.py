"""gather_qmm means what mlx.core.gather_qmm means, within the error bound."""

from __future__ import annotations

import gqmm
import numpy as np
import oracle
import pytest
from hypothesis import assume, given
from oracle import Setting
from test_properties import relaxed, valid_calls

mlx_oracle = pytest.importorskip("mlx_oracle", reason="MLX, the oracle, is not installed")
mx = pytest.importorskip("mlx.core")


def assert_agrees_with_mlx(y, expected, x, weights, lhs, rhs):
    """In float32, within the two evaluations' bounds. `expected` is the reference's result."""
    theirs = mlx_oracle.call(
        mx.gather_qmm,
        x.astype(np.float32),
        weights.w,
        *(a if a.dtype == np.uint8 else a.astype(np.float32) for a in weights.arrays()[1:]),
        lhs_indices=lhs,
        rhs_indices=rhs,
        **weights.arguments(),
    )
    bound = expected.bound + oracle.plain_evaluation_bound(expected, x.shape[-1])
    oracle.assert_within(y, theirs.astype(np.float64), bound)


def check(x, weights, lhs=None, rhs=None, **kwargs):
    """Runs gqmm, and compares with the float64 reference and, in float32, with MLX where it has the mode."""
    y = gqmm.gather_qmm(x, *weights.arrays(), lhs_indices=lhs, rhs_indices=rhs, **weights.arguments(), **kwargs)
    lhs = np.arange(np.prod(x.shape[:-2], dtype=int)).reshape(x.shape[:-2]) if lhs is None else lhs
    leading = weights.w.shape[:-2]
    rhs = np.arange(np.prod(leading, dtype=int)).reshape(leading) if rhs is None else rhs
    expected = oracle.reference(x, weights, lhs, rhs, kwargs.get("precision", "default"))
    oracle.assert_within(y, expected)
    if expected.dtype == oracle.float32 and weights.global_scale is None and weights.setting.mode in mlx_oracle.MODES:
        assert_agrees_with_mlx(y, expected, x, weights, lhs, rhs)
    return y


@pytest.mark.parametrize("transpose", [True, False], ids=["transposed", "plain"])
@pytest.mark.parametrize("setting", oracle.SETTINGS, ids=str)
def test_every_setting_agrees_with_mlx(rng, setting, transpose):
    N, K = (5, 256) if transpose else (256, 5)
    weights = oracle.random_weights(rng, setting, (3,), N, K, transpose=transpose)
    x = rng.standard_normal((4, 2, K)).astype(np.float32)
    check(x, weights, np.array([3, 0, 0, 1]), np.array([2, 0, 2, 1]))


@pytest.mark.parametrize("x_dtype", oracle.FLOATS, ids=str)
@pytest.mark.parametrize("scale_dtype", oracle.FLOATS, ids=str)
def test_the_result_has_the_promoted_type(rng, x_dtype, scale_dtype):
    weights = oracle.random_weights(rng, Setting("affine", 4, 64), (2,), 3, 128, dtype=scale_dtype)
    x = rng.standard_normal((2, 1, 128)).astype(x_dtype)
    y = check(x, weights)
    assert y.dtype == (x_dtype if x_dtype == scale_dtype else oracle.float32)


def test_scales_and_biases_may_differ_in_type(rng):
    weights = oracle.random_weights(rng, Setting("affine", 4, 64), (2,), 3, 128, dtype=oracle.float16)
    weights.biases = weights.biases.astype(oracle.bfloat16)
    assert check(rng.standard_normal((2, 1, 128)).astype(oracle.float16), weights).dtype == oracle.float32


@pytest.mark.parametrize("x_dtype", oracle.FLOATS, ids=str)
@pytest.mark.parametrize("setting", oracle.MICROSCALING, ids=str)
def test_byte_scales_leave_the_type_to_x(rng, setting, x_dtype):
    weights = oracle.random_weights(rng, setting, (2,), 3, 128)
    assert check(rng.standard_normal((2, 1, 128)).astype(x_dtype), weights).dtype == x_dtype


@pytest.mark.parametrize("precision", ["default", "fast", "float32"])
@pytest.mark.parametrize("dtype", oracle.FLOATS, ids=str)
def test_every_precision_keeps_its_bound(rng, dtype, precision):
    weights = oracle.random_weights(rng, Setting("affine", 4, 64), (2,), 9, 512, dtype=dtype)
    x = rng.standard_normal((2, 3, 512)).astype(dtype)
    y = gqmm.gather_qmm(x, *weights.arrays(), precision=precision)
    oracle.assert_within(y, oracle.reference(x, weights, np.arange(2), np.arange(2), precision))


@pytest.mark.parametrize(
    ("lhs_shape", "rhs_shape"),
    [((), ()), ((7,), (7,)), ((3, 1), (4,)), ((2, 3), ()), ((), (5,)), ((2, 1, 3), (4, 1)), ((1, 1), (2, 2))],
    ids=str,
)
def test_indices_broadcast(rng, lhs_shape, rhs_shape):
    weights = oracle.random_weights(rng, Setting("affine", 4, 32), (2, 3), 5, 64)
    x = rng.standard_normal((4, 2, 2, 64)).astype(np.float32)
    y = check(x, weights, rng.integers(0, 8, lhs_shape), rng.integers(0, 6, rhs_shape))
    assert y.shape == (*np.broadcast_shapes(lhs_shape, rhs_shape), 2, 5)


@relaxed
@given(valid_calls())
def test_any_valid_call_agrees_with_mlx(call):
    x, weights, lhs, rhs = call
    assume(x.size != 0 and weights.global_scale is None)
    x = x.astype(np.float32)
    y = gqmm.gather_qmm(x, *weights.arrays(), lhs_indices=lhs, rhs_indices=rhs, **weights.arguments())
    expected = oracle.reference(x, weights, lhs, rhs)
    if expected.dtype == oracle.float32:
        assert_agrees_with_mlx(y, expected, x, weights, lhs.astype(np.int32), rhs.astype(np.int32))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"])
def test_indices_may_have_any_integer_type(rng, dtype):
    weights = oracle.random_weights(rng, Setting("affine", 4, 32), (4,), 5, 64)
    x = rng.standard_normal((3, 1, 64)).astype(np.float32)
    y = gqmm.gather_qmm(x, *weights.arrays(), np.array([2, 0, 1], dtype), np.array([3, 3, 0], dtype), group_size=32)
    oracle.assert_within(y, oracle.reference(x, weights, np.array([2, 0, 1]), np.array([3, 3, 0])))


def test_indices_and_global_scales_may_be_numpy_scalars(rng):
    setting = Setting("nvfp4", 4, 16)
    weights = oracle.random_weights(rng, setting, (4,), 5, 64)
    x = rng.standard_normal((3, 1, 64)).astype(np.float32)

    def product(lhs, rhs, global_scale):
        return gqmm.gather_qmm(x, *weights.arrays(), None, lhs, rhs, mode="nvfp4", global_scale=global_scale)

    y = product(np.int64(2), np.uint8(3), np.float32(0.5))
    np.testing.assert_array_equal(y, product(np.array(2), np.array(3), np.array(0.5, np.float32)))


def test_missing_lhs_indices_count_the_matrices_of_x_in_their_shape(rng):
    weights = oracle.random_weights(rng, Setting("affine", 4, 32), (4,), 5, 64)
    x = rng.standard_normal((2, 3, 1, 64)).astype(np.float32)
    assert check(x, weights, None, np.array([3, 0, 1])).shape == (2, 3, 1, 5)
    assert check(x, weights, None, np.array([[[3]], [[2]]])).shape == (2, 2, 3, 1, 5)


def test_missing_rhs_indices_count_the_matrices_of_w_in_their_shape(rng):
    weights = oracle.random_weights(rng, Setting("affine", 4, 32), (2, 3), 5, 64)
    x = rng.standard_normal((4, 1, 64)).astype(np.float32)
    assert check(x, weights, np.array([[3], [1]]), None).shape == (2, 3, 1, 5)


def test_without_indices_leading_dimensions_broadcast(rng):
    """MLX drops the leading dimensions of w when x has none; gqmm broadcasts, as quantized_matmul does."""
    weights = oracle.random_weights(rng, Setting("affine", 4, 32), (2, 3), 5, 64)
    for leading in [(2, 3), (3,), (1,), (2, 1), (4, 2, 3), ()]:
        x = rng.standard_normal((*leading, 2, 64)).astype(np.float32)
        y = gqmm.gather_qmm(x, *weights.arrays(), group_size=32)
        shape = np.broadcast_shapes(leading, (2, 3))
        assert y.shape == (*shape, 2, 5)
        lhs = np.broadcast_to(np.arange(np.prod(leading, dtype=int)).reshape(leading), shape)
        oracle.assert_within(y, oracle.reference(x, weights, lhs, np.arange(6).reshape(2, 3)))


@pytest.mark.parametrize("single", [True, False], ids=["one for all", "one per matrix"])
@pytest.mark.parametrize("transpose", [True, False], ids=["transposed", "plain"])
def test_nvfp4_takes_a_global_scale_per_matrix(rng, transpose, single):
    N, K = (5, 64) if transpose else (64, 5)
    weights = oracle.random_weights(rng, Setting("nvfp4", 4, 16), (2, 2), N, K, transpose=transpose, with_global_scale=True)
    if single:
        weights.global_scale = np.array(3.5, np.float32)
    x = rng.standard_normal((3, 2, K)).astype(np.float32)
    check(x, weights, np.array([0, 2, 1, 1]), np.array([3, 1, 0, 3]))


@pytest.mark.parametrize("empty", ["M", "N", "pairs"])
@pytest.mark.parametrize("dtype", oracle.FLOATS, ids=str)
def test_empty_problems_have_empty_results(rng, empty, dtype):
    M, N, pairs = (0 if empty == name else size for name, size in (("M", 3), ("N", 4), ("pairs", 2)))
    weights = oracle.random_weights(rng, Setting("affine", 4, 32), (5,), N, 64, dtype=dtype)
    x = np.ones((2, M, 64), dtype)
    indices = np.zeros(pairs, np.int32)
    y = gqmm.gather_qmm(x, *weights.arrays(), indices, indices, group_size=32)
    assert y.shape == (pairs, M, N)
    assert y.dtype == dtype


def test_sorted_indices_give_the_same_bits(rng):
    weights = oracle.random_weights(rng, Setting("affine", 4, 32), (4,), 5, 64)
    x = rng.standard_normal((9, 1, 64)).astype(np.float32)
    rhs = np.sort(rng.integers(0, 4, 9))
    plain = gqmm.gather_qmm(x, *weights.arrays(), np.arange(9), rhs, group_size=32)
    promised = gqmm.gather_qmm(x, *weights.arrays(), np.arange(9), rhs, group_size=32, sorted_indices=True)
    assert oracle.same_bits(plain, promised)
    ignored = gqmm.gather_qmm(x, *weights.arrays(), np.arange(8).reshape(2, 4), group_size=32, sorted_indices=True)
    assert ignored.shape == (2, 4, 1, 5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["x", "scales", "biases"])
def test_nan_and_inf_flow_as_in_a_float_evaluation(rng, where, value):
    weights = oracle.random_weights(rng, Setting("affine", 4, 32), (1,), 4, 64)
    weights.w |= 0x11111111  # no code is 0, so that Inf · code is Inf
    x = np.abs(rng.standard_normal((1, 3, 64))).astype(np.float32) + 1
    target = {"x": x[0, 1], "scales": weights.scales[0, 1], "biases": weights.biases[0, 1]}[where]
    target[0] = value
    with np.errstate(invalid="ignore"):
        expected = oracle.reference(x, weights, np.arange(1), np.arange(1)).y
    y = gqmm.gather_qmm(x, *weights.arrays(), group_size=32)
    assert np.array_equal(np.isnan(y), np.isnan(expected))
    infinite = np.isinf(expected)
    assert infinite.any() or np.isnan(value)
    assert np.array_equal(y[infinite], expected[infinite])
    assert np.isfinite(y[np.isfinite(expected)]).all()


def test_e8m0_255_is_infinity(rng):
    weights = oracle.random_weights(rng, Setting("mxfp4", 4, 32), (1,), 2, 32)
    weights.w[:] = 0x22222222
    weights.scales[0, 0] = 255
    y = gqmm.gather_qmm(np.ones((1, 1, 32), np.float32), *weights.arrays(), mode="mxfp4")
    assert y[0, 0, 0] == np.inf
    assert np.isfinite(y[0, 0, 1])
