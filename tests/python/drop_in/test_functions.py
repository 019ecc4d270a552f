"""gqmm.mlx's functions: the bits of gqmm over MLX's arrays, lazily, with the shapes and types of MLX's functions."""

from __future__ import annotations

import gqmm
import numpy as np
import oracle
import pytest
from oracle import Setting

drop_in = pytest.importorskip("gqmm.mlx")
mlx_oracle = pytest.importorskip("mlx_oracle")
mx = pytest.importorskip("mlx.core")
pytestmark = pytest.mark.mlx

SETTINGS = [Setting("affine", bits, 64) for bits in (2, 3, 4, 5, 6, 8)] + oracle.MICROSCALING
ids = {"ids": str}


def to_mlx(*arrays):
    return [None if a is None else mlx_oracle.to_mlx(a) for a in arrays]


def assert_same_bits(ours, expected: np.ndarray):
    assert ours.shape == expected.shape
    assert oracle.same_bits(mlx_oracle.to_numpy(ours), expected)


@pytest.mark.parametrize("dtype", oracle.FLOATS, **ids)
@pytest.mark.parametrize("transpose", [True, False])
@pytest.mark.parametrize("setting", SETTINGS, **ids)
def test_gather_qmm_has_the_bits_of_numpys(rng, setting, transpose, dtype):
    weights = oracle.random_weights(rng, setting, (4,), 128, 64, dtype=dtype)
    x = rng.standard_normal((3, 1, 2, 64 if transpose else 128)).astype(dtype)
    rhs = rng.integers(0, 4, (3, 2)).astype(np.uint32)
    settings = {**setting.arguments(), "transpose": transpose}
    ours = drop_in.gather_qmm(*to_mlx(x, *weights.arrays()), rhs_indices=mx.array(rhs), **settings)
    assert_same_bits(ours, gqmm.gather_qmm(x, *weights.arrays(), rhs_indices=rhs, **settings))


@pytest.mark.parametrize("shape", [(64,), (3, 64), (2, 3, 64), (2, 1, 3, 64), (0, 64)], **ids)
@pytest.mark.parametrize("leading", [(), (2,), (5, 2)], **ids)
def test_quantized_matmul_has_the_shapes_and_bits_of_numpys(rng, shape, leading):
    if len(shape) > 3 and leading:
        leading = (2, 2)
    weights = oracle.random_weights(rng, Setting("affine", 4, 64), leading, 6, 64)
    x = rng.standard_normal(shape).astype(np.float32)
    assert_same_bits(drop_in.quantized_matmul(*to_mlx(x, *weights.arrays())), gqmm.quantized_matmul(x, *weights.arrays()))


@pytest.mark.parametrize("dtype", oracle.FLOATS, **ids)
@pytest.mark.parametrize(("a", "b"), [((4, 3, 8), (5, 8, 6)), ((8,), (5, 8, 6)), ((4, 3, 8), (8,)), ((8,), (8,))])
def test_gather_mm_has_the_bits_of_numpys(rng, dtype, a, b):
    a_array, b_array = (rng.standard_normal(shape).astype(dtype) for shape in (a, b))
    lhs = np.array([0, 3, 2] if len(a) == 3 else [0, 0, 0], np.int32)
    rhs = np.array([[4], [0]] if len(b) == 3 else [[0], [0]], np.int64)
    ours = drop_in.gather_mm(*to_mlx(a_array, b_array), mx.array(lhs), mx.array(rhs))
    assert_same_bits(ours, gqmm.gather_mm(a_array, b_array, lhs, rhs))


def test_gather_mm_without_indices_is_mlxs(rng):
    a, b = to_mlx(rng.standard_normal((2, 3, 8), np.float32), rng.standard_normal((2, 8, 4), np.float32))
    before = drop_in.status().calls["gather_mm"]
    assert mx.array_equal(drop_in.gather_mm(a, b), mx.matmul(a, b))
    assert drop_in.status().calls["gather_mm"] == drop_in.Calls(before.ours, before.stock + 1)


@pytest.mark.parametrize("given", ["lhs", "rhs", "both", "neither"])
def test_absent_indices_mean_what_mlx_means_by_them(rng, given):
    w = mx.quantize(mx.array(rng.standard_normal((3, 8, 64), np.float32)))
    x = mx.array(rng.standard_normal((3, 2, 64), np.float32))
    indices = {}
    if given in ("lhs", "both"):
        indices["lhs_indices"] = mx.array([2, 0, 0])
    if given in ("rhs", "both"):
        indices["rhs_indices"] = mx.array([1, 1, 2])
    ours, theirs = (f(x, *w, **indices) for f in (drop_in.gather_qmm, mx.gather_qmm))
    assert ours.shape == theirs.shape
    assert mx.allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_global_scales(rng):
    setting = Setting("nvfp4", 4, 16)
    weights = oracle.random_weights(rng, setting, (3,), 8, 64)
    x = rng.standard_normal((2, 1, 64)).astype(np.float32)
    rhs = np.array([2, 1], np.uint32)
    for scale in (np.float32([3.0]), np.float32([1.0, 2.0, 0.5])):
        ours = drop_in.gather_qmm(
            *to_mlx(x, *weights.arrays()), rhs_indices=mx.array(rhs), mode="nvfp4", global_scale=mx.array(scale)
        )
        expected = gqmm.gather_qmm(x, *weights.arrays(), rhs_indices=rhs, mode="nvfp4", global_scale=scale)
        assert_same_bits(ours, expected)


def test_arrays_are_read_in_place_at_any_strides(rng):
    w, scales, biases = mx.quantize(mx.array(rng.standard_normal((6, 8, 128), np.float32)))
    x = mx.array(rng.standard_normal((128, 2, 4), np.float32))
    rhs = mx.array(rng.integers(0, 3, (8,)).astype(np.uint8))
    strided = (x.transpose(2, 1, 0), w[::2], scales[::2], biases[::2])
    copies = [mx.contiguous(a) for a in strided]
    ours = drop_in.gather_qmm(*strided, rhs_indices=rhs[::2])
    assert mx.array_equal(ours, drop_in.gather_qmm(*copies, rhs_indices=mx.contiguous(rhs[::2])))
    # Keys of a quantized cache: one set for several heads, broadcast.
    heads = drop_in.quantized_matmul(
        mx.broadcast_to(x.transpose(2, 1, 0), (6, 4, 2, 128)), w[:, None], scales[:, None], biases[:, None]
    )
    assert heads.shape == (6, 4, 2, 8)
    assert mx.array_equal(heads[3], drop_in.quantized_matmul(x.transpose(2, 1, 0), w[3], scales[3], biases[3]))


def test_bfloat16_is_closer_to_the_truth_than_mlx(rng):
    weights = mx.quantize(mx.array(rng.standard_normal((4, 64, 1024), np.float32)).astype(mx.bfloat16))
    x = mx.array(rng.standard_normal((4, 1, 1024), np.float32)).astype(mx.bfloat16)
    truth = x.astype(mx.float32) @ mx.dequantize(
        *(a.astype(mx.float32) if a.dtype != mx.uint32 else a for a in weights)
    ).swapaxes(-1, -2)

    def error(function):
        return mx.linalg.norm(function(x, *weights) - truth) / mx.linalg.norm(truth)

    assert error(drop_in.gather_qmm) < 2.0**-8  # half a unit in the last place of every element, and more
    assert error(drop_in.gather_qmm) < error(mx.gather_qmm)


def test_fast_is_coarser(rng):
    weights = mx.quantize(mx.array(rng.standard_normal((16, 256), np.float32)))
    x = mx.array(rng.standard_normal((4, 256), np.float32))
    exact, fast = (drop_in.quantized_matmul(x, *weights, precision=p) for p in ("default", "fast"))
    error = (mx.linalg.norm(fast - exact) / mx.linalg.norm(exact)).item()
    assert 1e-4 < error < 5e-2
    with drop_in.install(precision="fast"):
        assert mx.array_equal(mx.quantized_matmul(x, *weights), fast)
    with pytest.raises(ValueError, match='unknown precision "best"'):
        drop_in.quantized_matmul(x, *weights, precision="best")


class TestErrors:
    """Before anything is computed where the shapes show it, at the evaluation where the values do."""

    @pytest.fixture
    def arguments(self, rng):
        w = mx.quantize(mx.array(rng.standard_normal((3, 8, 64), np.float32)))
        return mx.array(rng.standard_normal((2, 1, 64), np.float32)), *w

    def test_shapes(self, arguments):
        x, w, scales, biases = arguments
        with pytest.raises(ValueError, match=r"\[gather_qmm\] x has K = 32 but w of shape \(3, 8, 8\)"):
            drop_in.gather_qmm(x[..., :32], w, scales, biases, rhs_indices=mx.array([0]), transpose=False)
        with pytest.raises(ValueError, match=r"\[quantized_matmul\] biases is missing"):
            drop_in.quantized_matmul(x, w[0], scales[0])
        with pytest.raises(ValueError, match='biases is given but mode "mxfp4" has none'):
            drop_in.gather_qmm(x, w, mx.zeros((3, 8, 2), mx.uint8), biases, rhs_indices=mx.array([0]), mode="mxfp4")
        with pytest.raises(ValueError, match="do not broadcast"):
            drop_in.gather_qmm(x, w, scales, biases, lhs_indices=mx.array([0, 1]), rhs_indices=mx.array([0, 1, 2]))
        with pytest.raises(ValueError, match="type complex64"):
            drop_in.gather_qmm(x, w, scales.astype(mx.complex64), biases, rhs_indices=mx.array([0]))

    def test_kinds(self, arguments):
        x, w, scales, biases = arguments
        with pytest.raises(TypeError, match="incompatible function arguments"):
            drop_in.gather_qmm(np.array(x), w, scales, biases)
        with pytest.raises(TypeError, match=r"\[gather_qmm\] w: expected an mlx.core.array, got "):
            drop_in.gather_qmm(x, "w", scales, biases)
        with pytest.raises(ValueError, match="rhs_indices has type float32"):
            drop_in.gather_qmm(x, w, scales, biases, rhs_indices=mx.array([0.0]))

    def test_an_index_out_of_range_reaches_the_evaluation(self, arguments):
        bad = drop_in.gather_qmm(*arguments, rhs_indices=mx.array([0, 3]))
        with pytest.raises(RuntimeError, match=r"rhs_indices\[1\] = 3 is out of range: w has 3 matrices"):
            mx.eval(bad)
        assert mx.isfinite(drop_in.gather_qmm(*arguments, rhs_indices=mx.array([0, 2]))).all()

    def test_what_gqmm_does_not_serve_is_mlxs_answer(self, arguments):
        x, w, scales, biases = arguments
        before = drop_in.status().calls["gather_qmm"]
        with pytest.raises(ValueError, match="Invalid quantization mode 'int2'"):
            drop_in.gather_qmm(x, w, scales, biases, rhs_indices=mx.array([0]), mode="int2")
        assert drop_in.status().calls["gather_qmm"] == drop_in.Calls(before.ours, before.stock + 1)


class TestQuantizedWeights:
    """gqmm.QuantizedWeights of MLX's arrays in the place of w."""

    @pytest.mark.parametrize("setting", SETTINGS, **ids)
    def test_products_have_the_bits_of_the_arrays(self, rng, setting):
        arrays = to_mlx(*oracle.random_weights(rng, setting, (3,), 8, 64).arrays())
        weights = gqmm.QuantizedWeights(*arrays, **setting.arguments())
        x = mx.array(rng.standard_normal((3, 2, 64), np.float32))
        rhs = mx.array([2, 0, 1])
        for ours, expected in (
            (
                drop_in.gather_qmm(x, weights, rhs_indices=rhs),
                drop_in.gather_qmm(x, *arrays, rhs_indices=rhs, **setting.arguments()),
            ),
            (drop_in.quantized_matmul(x, weights), drop_in.quantized_matmul(x, *arrays, **setting.arguments())),
        ):
            assert mx.array_equal(ours, expected)

    def test_transpose_and_global_scale_are_theirs(self, rng):
        plain = oracle.random_weights(rng, Setting("affine", 4, 64), (), 64, 8, transpose=False)
        weights = gqmm.QuantizedWeights(*to_mlx(*plain.arrays()), transpose=False)
        assert drop_in.quantized_matmul(mx.ones((1, 8)), weights).shape == (1, 64)
        nvfp4 = oracle.random_weights(rng, Setting("nvfp4", 4, 16), (2,), 8, 64)
        scale = mx.array([2.0, 3.0])
        weights = gqmm.QuantizedWeights(*to_mlx(*nvfp4.arrays()), mode="nvfp4", global_scale=scale)
        expected = drop_in.gather_qmm(mx.ones((2, 1, 64)), *to_mlx(*nvfp4.arrays()), mode="nvfp4", global_scale=scale)
        assert mx.array_equal(drop_in.gather_qmm(mx.ones((2, 1, 64)), weights), expected)

    def test_the_gradient_of_x_is_that_of_the_arrays(self, rng):
        arrays = mx.quantize(mx.array(rng.standard_normal((8, 64), np.float32)))
        weights = gqmm.QuantizedWeights(*arrays)
        x = mx.array(rng.standard_normal((2, 64), np.float32))
        ours = mx.grad(lambda x: drop_in.quantized_matmul(x, weights).sum())(x)
        assert mx.array_equal(ours, mx.grad(lambda x: drop_in.quantized_matmul(x, *arrays).sum())(x))

    def test_they_are_made_of_shapes_and_types_alone(self, rng):
        """So they can be made in transforms, where arrays have no values, and nothing is evaluated."""
        w, scales, biases = mx.quantize(mx.array(rng.standard_normal((3, 8, 64), np.float32)))
        x = mx.array(rng.standard_normal((3, 2, 64), np.float32))

        def product(scales):
            return drop_in.gather_qmm(x, gqmm.QuantizedWeights(w, scales, biases))

        expected = product(scales)
        assert mx.array_equal(mx.compile(product)(scales), expected)
        assert mx.array_equal(mx.vmap(product)(mx.stack([scales, 2 * scales]))[0], expected)
        failing = drop_in.gather_qmm(x, w, scales, biases, rhs_indices=mx.array([7, 7, 7])) * mx.ones((3, 2, 8))
        assert gqmm.QuantizedWeights(w, failing[:, :1].swapaxes(1, 2), biases).shape == (3, 8, 64)
        for wrong in (scales.astype(mx.complex64), scales.astype(mx.int8)):
            with pytest.raises(ValueError, match=r"\[QuantizedWeights\] scales"):
                gqmm.QuantizedWeights(w, wrong, biases)

    def test_a_packed_copy_is_made_of_their_arrays(self, rng):
        weights = gqmm.QuantizedWeights(*mx.quantize(mx.array(rng.standard_normal((8, 64), np.float32))))
        x = mx.array(rng.standard_normal((2, 64), np.float32))
        with drop_in.install(pack=True):
            mx.eval(weights.w, weights.scales, weights.biases)
            assert mx.array_equal(mx.quantized_matmul(x, weights), mx.quantized_matmul(x, weights))
            assert drop_in.status().packed_arrays == 1, "a look at shapes and types lends no memory"

    def test_errors(self, rng):
        arrays = mx.quantize(mx.array(rng.standard_normal((8, 64), np.float32)))
        weights, x = gqmm.QuantizedWeights(*arrays), mx.ones((1, 64))
        with pytest.raises(
            ValueError, match=r"\[quantized_matmul\] scales is given but w = <gqmm.QuantizedWeights .*> holds its own"
        ):
            drop_in.quantized_matmul(x, weights, arrays[1])
        with pytest.raises(ValueError, match=r"\[gather_qmm\] bits = 8 but w is QuantizedWeights with bits = 4; leave it out"):
            drop_in.gather_qmm(x, weights, bits=8)
        with pytest.raises(ValueError, match=r"transpose = false but w is QuantizedWeights with transpose = true"):
            drop_in.gather_qmm(x, weights, transpose=False)
        with pytest.raises(TypeError, match=r"\[gather_qmm\] (w|scales): expected an mlx.core.array, got ndarray"):
            drop_in.gather_qmm(x, gqmm.QuantizedWeights(*map(np.array, arrays)))
        with pytest.raises(ValueError, match=r"\[gather_qmm\] scales is missing; pass the second array"):
            drop_in.gather_qmm(x, arrays[0])
