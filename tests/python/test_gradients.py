"""gather_qmm_vjp, quantized_matmul_vjp and gather_mm_vjp: MLX's autograd in float32, float64 sums, and what they refuse."""

from __future__ import annotations

import re

import gqmm
import numpy as np
import oracle
import pytest

mlx_oracle = pytest.importorskip("mlx_oracle", reason="MLX, the oracle, is not installed")
mx = pytest.importorskip("mlx.core")

EXPERTS, N, K = 5, 96, 128


def roundings(rows, group_size=0):
    """Roundings on the way of a term into the gradient of weights: docs/reference/numerics.md."""
    return min(rows, 128) + -(-rows // 128) + (1 + group_size if group_size else 0)


def affine(rng, shape, dtype=np.float32, *, transpose=True, **settings):
    w, scales, biases = gqmm.quantize(rng.standard_normal(shape, np.float32), **settings)
    return gqmm.QuantizedWeights(w, scales.astype(dtype), biases.astype(dtype), transpose=transpose, **settings)


def with_codes(weights):
    """The weights and the codes of affine weights, in float64, each in the shape of the weights."""
    codes = gqmm.dequantize(
        weights.w,
        np.ones(weights.scales.shape, np.float32),
        np.zeros(weights.scales.shape, np.float32),
        weights.group_size,
        weights.bits,
    ).astype(np.float64)
    scales, biases = (np.repeat(a.astype(np.float64), weights.group_size, -1) for a in (weights.scales, weights.biases))
    return scales * codes + biases, codes


INDICES = {
    "both": ((3, 2), {"lhs_indices": [2, 0, 0, 1], "rhs_indices": [[3, 3, 1, 0], [4, 4, 4, 3]]}),
    "rhs": ((3, 1, 2), {"rhs_indices": [[0, 4], [3, 3], [1, 0]]}),
    "lhs": ((3, 2), {"lhs_indices": [2, 0, 0, 1, 2]}),
    "neither": ((EXPERTS, 2), {}),
}


def arrays(indices):
    return {name: np.array(values, np.uint32) for name, values in indices.items()}


def mlx_gradients(product, arguments, dy):
    _, gradients = mx.vjp(product, [mx.array(a) for a in arguments], [mx.array(dy)])
    return [np.array(g) for g in gradients]


def assert_near(actual, expected, terms):
    """Two float32 sums of so many random terms.

    Each is off by √terms independent roundings of 2⁻²⁴ of the sum of magnitudes, which is about √terms times the largest sum.
    """
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2 * terms * 2.0**-24 * np.abs(expected).max())


@pytest.mark.parametrize("transpose", [True, False])
@pytest.mark.parametrize("form", INDICES)
def test_gradients_of_gather_qmm_are_those_of_mlx(rng, form, transpose):
    leading, indices = INDICES[form]
    weights = affine(rng, (EXPERTS, N, K) if transpose else (EXPERTS, K, N), transpose=transpose, group_size=32)
    x = rng.standard_normal((*leading, K), np.float32)
    y = gqmm.gather_qmm(x, weights, **arrays(indices))
    dy = rng.standard_normal(y.shape, np.float32)
    ours = gqmm.gather_qmm_vjp(dy, x, weights, **arrays(indices), wrt=("biases", "x", "scales"))
    assert list(ours) == ["biases", "x", "scales"]

    def product(x, scales, biases):
        positions = {name: mx.array(a) for name, a in arrays(indices).items()}
        w = mx.dequantize(mx.array(weights.w), scales, biases, 32, 4)
        matrices = w.swapaxes(-1, -2) if transpose else w
        x = x if "lhs_indices" not in positions else x.reshape(-1, *x.shape[-2:])[positions["lhs_indices"]]
        return x @ (matrices if "rhs_indices" not in positions else matrices[positions["rhs_indices"]])

    theirs = mlx_gradients(product, (x, weights.scales, weights.biases), dy)
    for name, expected in zip(("x", "scales", "biases"), theirs, strict=True):
        assert_near(ours[name], expected, N + K)


@pytest.mark.parametrize("dtype", oracle.FLOATS, ids=str)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gradients_keep_their_bounds(rng, bits, dtype):
    weights = affine(rng, (EXPERTS, N, K), dtype, bits=bits, group_size=64)
    x = rng.standard_normal((7, 2, K)).astype(dtype)
    lhs, rhs = rng.integers(0, 7, 40), rng.integers(0, EXPERTS - 1, 40)
    dy = rng.standard_normal((40, 2, N)).astype(dtype)
    ours = gqmm.gather_qmm_vjp(dy, x, weights, lhs_indices=lhs, rhs_indices=rhs, wrt=("x", "scales", "biases"))
    assert [(g.dtype, g.shape) for g in ours.values()] == [(a.dtype, a.shape) for a in (x, weights.scales, weights.biases)]

    matrices, codes = with_codes(weights)
    x64, dy64 = x.astype(np.float64), dy.astype(np.float64)
    unit = oracle.UNIT_ROUNDOFF[np.dtype(dtype)]
    dx, dx_magnitude = np.zeros(x.shape), np.zeros(x.shape)
    np.add.at(dx, lhs, dy64 @ matrices[rhs])
    group_size = weights.group_size
    largest = np.maximum(
        np.abs(weights.scales.astype(np.float64)) * (2**bits - 1), np.abs(weights.biases.astype(np.float64))
    ).repeat(group_size, -1)
    np.add.at(dx_magnitude, lhs, np.abs(dy64) @ largest[rhs])
    pairs = np.bincount(lhs, minlength=7).max()
    oracle.assert_within(ours["x"], dx, unit * np.abs(dx) + (6 + np.sqrt(N + pairs)) * 2.0**-22 * dx_magnitude + 2.0**-25)

    for name, values in (("scales", codes), ("biases", np.ones_like(codes))):
        expected, magnitude = np.zeros(codes.shape), np.zeros(codes.shape)
        np.add.at(expected, rhs, dy64.swapaxes(-1, -2) @ x64[lhs])
        np.add.at(magnitude, rhs, np.abs(dy64).swapaxes(-1, -2) @ np.abs(x64[lhs]))
        expected, magnitude = ((a * values).reshape(EXPERTS, N, -1, group_size).sum(-1) for a in (expected, magnitude))
        steps = roundings(2 * np.bincount(rhs).max(), group_size) * 2.0**-24
        bound = steps / (1 - steps) * magnitude
        oracle.assert_within(ours[name], expected, unit * (np.abs(expected) + bound) + bound + 2.0**-25)
        assert not ours[name][EXPERTS - 1].any(), "no pair uses the last matrix"


@pytest.mark.parametrize("mode", ["mxfp4", "mxfp8", "nvfp4"])
@pytest.mark.parametrize("transpose", [True, False])
def test_other_modes_have_the_gradient_of_x(rng, mode, transpose):
    w, scales = gqmm.quantize(rng.standard_normal((EXPERTS, N, K), np.float32), mode=mode)
    weights = gqmm.QuantizedWeights(w, scales, mode=mode, transpose=transpose)
    rhs = np.array([4, 1, 1])
    x = rng.standard_normal((3, 2, K if transpose else N), np.float32)
    dy = rng.standard_normal((3, 2, N if transpose else K), np.float32)
    dx = gqmm.gather_qmm_vjp(dy, x, weights, rhs_indices=rhs)["x"]
    matrices = gqmm.dequantize(weights, dtype="float32")[rhs]
    assert_near(dx, (dy @ (matrices if transpose else matrices.swapaxes(-1, -2))).astype(np.float32), N)
    for name in ("scales", "biases"):
        with pytest.raises(ValueError, match=rf'\[gather_qmm_vjp\] wrt has {name} but mode "{mode}" has no gradient of {name}'):
            gqmm.gather_qmm_vjp(dy, x, weights, rhs_indices=rhs, wrt=(name,))


@pytest.mark.parametrize("transpose", [True, False])
def test_packed_weights_have_the_same_gradients(rng, transpose):
    weights = affine(rng, (EXPERTS, N, K), transpose=transpose)
    packed = gqmm.pack(weights)
    x = rng.standard_normal((3, 1, 2, K if transpose else N), np.float32)
    rhs = np.array([[4, 1], [1, 0], [2, 2]])
    dy = rng.standard_normal((3, 2, 2, N if transpose else K), np.float32)
    arguments = {"rhs_indices": rhs, "wrt": ("x", "scales", "biases")}
    in_place = gqmm.gather_qmm_vjp(dy, x, weights, **arguments)
    of_packed = gqmm.gather_qmm_vjp(dy, x, packed, **arguments)
    for name, gradient in in_place.items():
        assert oracle.same_bits(gradient, of_packed[name]), name


@pytest.mark.parametrize(
    ("x_shape", "w_leading"),
    [((K,), ()), ((3, K), ()), ((4, 3, K), ()), ((3, K), (2,)), ((K,), (2, 1)), ((2, 1, 3, K), (4,))],
    ids=str,
)
def test_gradients_of_quantized_matmul_sum_over_what_was_broadcast(rng, x_shape, w_leading):
    weights = affine(rng, (*w_leading, N, K))
    x = rng.standard_normal(x_shape, np.float32)
    dy = rng.standard_normal(gqmm.quantized_matmul(x, weights).shape, np.float32)
    ours = gqmm.quantized_matmul_vjp(dy, x, weights, wrt=("x", "scales", "biases"))

    def product(x, scales, biases):
        return x @ mx.dequantize(mx.array(weights.w), scales, biases).swapaxes(-1, -2)

    theirs = mlx_gradients(product, (x, weights.scales, weights.biases), dy)
    for gradient, expected in zip(ours.values(), theirs, strict=True):
        assert_near(gradient, expected, N + K)


@pytest.mark.parametrize("form", INDICES)
def test_gradients_of_gather_mm_are_those_of_mlx(rng, form):
    leading, indices = INDICES[form]
    a = rng.standard_normal((*leading, K), np.float32)
    b = rng.standard_normal((EXPERTS, K, N), np.float32)
    dy = rng.standard_normal(gqmm.gather_mm(a, b, **arrays(indices)).shape, np.float32)
    ours = gqmm.gather_mm_vjp(dy, a, b, **arrays(indices))
    positions = {name: mx.array(array) for name, array in arrays(indices).items()}
    theirs = mlx_gradients(lambda a, b: mx.gather_mm(a, b, **positions), (a, b), dy)
    for gradient, expected in zip(ours.values(), theirs, strict=True):
        assert_near(gradient, expected, N + K)


@pytest.mark.parametrize(("a_shape", "b_shape"), [((8,), (8, 5)), ((3, 8), (8,)), ((8,), (8,)), ((2, 3, 8), (8,))], ids=str)
def test_vectors_have_gradients_that_are_vectors(rng, a_shape, b_shape):
    a, b = rng.standard_normal(a_shape, np.float32), rng.standard_normal(b_shape, np.float32)
    dy = rng.standard_normal(gqmm.gather_mm(a, b).shape, np.float32)
    ours = gqmm.gather_mm_vjp(dy, a, b)
    theirs = mlx_gradients(lambda a, b: a @ b, (a, b), dy)
    for gradient, expected in zip(ours.values(), theirs, strict=True):
        assert_near(gradient, expected, 8)


def test_gradients_are_slopes(rng):
    """The product is linear in scales, so a difference is the slope, whatever the step."""
    weights = affine(rng, (2, 8, 64))
    x = rng.standard_normal((3, 1, 64), np.float32)
    rhs = np.array([1, 0, 1])
    dy = rng.standard_normal((3, 1, 8), np.float32)
    slope = gqmm.gather_qmm_vjp(dy, x, weights, rhs_indices=rhs, wrt=("scales",))["scales"]
    step = np.zeros_like(weights.scales)
    step[1, 2, 0] = 1
    moved = gqmm.gather_qmm(x, weights.w, step, np.zeros_like(step), rhs_indices=rhs)
    np.testing.assert_allclose((moved * dy).sum(), slope[1, 2, 0], rtol=1e-5)


def test_results_are_arrays_of_the_library_of_x(rng):
    torch = pytest.importorskip("torch")
    weights = affine(rng, (EXPERTS, N, K))
    x = torch.randn(2, 1, K, dtype=torch.bfloat16)
    gradients = gqmm.gather_qmm_vjp(torch.ones(2, 1, N), x, weights, rhs_indices=torch.tensor([1, 2]), wrt=["x", "scales"])
    assert gradients["x"].dtype == torch.bfloat16
    assert gradients["scales"].dtype == torch.float32
    assert gradients["scales"].shape == weights.scales.shape


def test_a_broadcast_dy_is_read_as_it_lies(rng):
    weights = affine(rng, (EXPERTS, N, K))
    x = rng.standard_normal((2, 1, K), np.float32)
    rhs = np.array([1, 2])
    wrt = ("x", "scales", "biases")
    ones = np.broadcast_to(np.float32(1), (2, 1, N))
    lazily = gqmm.gather_qmm_vjp(ones, x, weights, rhs_indices=rhs, wrt=wrt)
    written_out = gqmm.gather_qmm_vjp(np.array(ones), x, weights, rhs_indices=rhs, wrt=wrt)
    assert all(oracle.same_bits(lazily[name], written_out[name]) for name in wrt)


BAD = {
    "[gather_qmm_vjp] wrt is empty; ask for gradients of x, scales, biases": {"wrt": ()},
    "[gather_qmm_vjp] wrt has 'w', of which there is no gradient; there are those of x, scales, biases": {"wrt": ("x", "w")},
    "[gather_qmm_vjp] wrt has 'x' twice; name each gradient once": {"wrt": ["x", "biases", "x"]},
    "[gather_qmm_vjp] dy has shape (3, 1, 96) but the product has shape (2, 1, 96); pass the gradient of the product, one value "
    "for each of its elements": {"dy": np.zeros((3, 1, N), np.float32)},
    "[gather_qmm_vjp] dy has type float64; ": {"dy": np.zeros((2, 1, N))},
    "[gather_qmm_vjp] rhs_indices[1] = 5 is out of range: w has 5 matrices, so indices must lie in 0 ... 4": {
        "rhs_indices": np.array([0, 5])
    },
    "[gather_qmm_vjp] sorted_indices is set but rhs_indices[1] = 0 follows 1; ": {
        "rhs_indices": np.array([1, 0]),
        "sorted_indices": True,
    },
    "[gather_qmm_vjp] x has K = 64 but w of shape (5, 96, 16) ": {"x": np.zeros((2, 1, 64), np.float32)},
    "[gather_qmm_vjp] unsupported stream 'gpu'; ": {"stream": "gpu"},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_arguments_are_refused_with_values_and_remedy(rng, message):
    arguments = {
        "dy": np.zeros((2, 1, N), np.float32),
        "x": np.zeros((2, 1, K), np.float32),
        "rhs_indices": np.array([0, 1]),
    } | BAD[message]
    dy, x = arguments.pop("dy"), arguments.pop("x")
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        gqmm.gather_qmm_vjp(dy, x, affine(rng, (EXPERTS, N, K)), **arguments)


def test_arguments_of_a_wrong_kind_are_type_errors(rng):
    weights = affine(rng, (EXPERTS, N, K))
    dy, x = np.zeros((EXPERTS, 1, N), np.float32), np.zeros((EXPERTS, 1, K), np.float32)
    with pytest.raises(
        TypeError, match=r"\[quantized_matmul_vjp\] weights: expected QuantizedWeights or PackedWeights, got ndarray"
    ):
        gqmm.quantized_matmul_vjp(dy, x, weights.w)
    with pytest.raises(TypeError, match=r"\[gather_qmm_vjp\] wrt: expected a tuple of names, got 'x'"):
        gqmm.gather_qmm_vjp(dy, x, weights, wrt="x")
    with pytest.raises(TypeError, match=r"\[gather_mm_vjp\] wrt: expected names, got 1"):
        gqmm.gather_mm_vjp(dy, x, x, wrt=("a", 1))
